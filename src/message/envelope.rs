//! The envelope: a clear header, bound to a sealed content.

use crate::base::hlc::Hlc;
use crate::base::ids::{Generation, SubscriptionId, UserId};
use crate::base::limits::ATTRIBUTE_KEY_CHARS_MAX;
use crate::crdt::dot::Dot;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The format that today's envelopes carry in the bytes bound to their seal.
const FORMAT: u8 = 1;

/// A message's body, remembered in the shape in which it was sent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Text, sent as such.
    Text(String),
    /// Bytes, sent as base64.
    Binary(Bytes),
}

impl Body {
    /// Bytes of the body.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never a message's text in a log.
        write!(f, "Body({} bytes)", self.len())
    }
}

/// What the sender sent: all of it is sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The body.
    pub body: Body,
    /// Its media type.
    pub content_type: String,
    /// Named values beside the body.
    pub attributes: BTreeMap<String, String>,
    /// Words by which filters choose.
    pub routing_key: Option<String>,
    /// Messages of one group go out one at a time, where the queue says so.
    pub group: Option<String>,
    /// The topic it was published to, when it came by a link.
    pub topic: Option<String>,
    /// Where and why it died, when it was moved here for that.
    pub died: Option<Died>,
}

/// Whether an attribute may have this key: 1 to 128 of `A–Z a–z 0–9 . _ -`.
#[must_use]
pub fn is_attribute_key(key: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=ATTRIBUTE_KEY_CHARS_MAX).contains(&key.len()) && key.bytes().all(allowed)
}

/// Where and why a message died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Died {
    /// The queue, or topic and subscription, in which it died.
    pub place: String,
    /// Why.
    pub reason: DeathReason,
    /// Wall time, in ms.
    pub died_ms: u64,
    /// The last reason that a consumer gave for a failure.
    pub detail: Option<Reason>,
}

/// Why a message failed, in a consumer's words: as secret as the message itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason(pub String);

impl std::fmt::Debug for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It may quote the message: never in a log.
        write!(f, "Reason({} bytes)", self.0.len())
    }
}

/// Why a message is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DeathReason {
    /// It failed as often as its queue allows.
    MaxFailures,
    /// A consumer called it poison.
    Poison,
}

/// A keyed hash of a group's name: replicas tell groups apart without knowing them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupHash(pub [u8; 16]);

impl Content {
    /// Bytes that count against a queue's `max_message_bytes`.
    #[must_use]
    pub fn size(&self) -> usize {
        let attributes: usize = self.attributes.iter().map(|(k, v)| k.len() + v.len()).sum();
        self.body.len() + self.content_type.len() + attributes
    }

    /// Its canonical bytes: equal contents have equal bytes (attributes are sorted).
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a content always encodes")
    }

    /// Reads what `to_bytes` wrote, also before a death had a detail: that is the last field, and
    /// where it is missing it reads as none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        const NONE: &[u8] = &[0];
        let read = |bytes: &[u8]| postcard::from_bytes(bytes).ok();
        read(bytes).or_else(|| read(&[bytes, NONE].concat()))
    }
}

/// What every replica may read, and nobody can change without breaking the seal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The message's name.
    pub dot: Dot,
    /// Who sent it.
    pub sender: UserId,
    /// The sender's name when it was sent.
    pub sender_name: String,
    /// Its place in the dispatch order.
    pub hlc: Hlc,
    /// Wall time at the coordinator, in ms, for people.
    pub sent_ms: u64,
    /// What "the same message" means: keyed over content and sender, never the ciphertext [F2].
    pub content_mac: [u8; 32],
    /// It is due this long after a replica stored it, in ms. A duration, as all that travels [R22].
    pub delay_ms: u64,
    /// It is dropped this long after a replica stored it, in ms; 0: by its queue's retention only.
    pub ttl_ms: u64,
    /// Its group.
    pub group: Option<GroupHash>,
    /// Roads it has come by: a copy of a copy ends somewhere.
    pub hop: u8,
    /// The version of the subscription set on which `matched` was decided; 0 in queues.
    pub set_version: u64,
    /// The subscriptions that get it; for the others it is settled. Empty in queues.
    pub matched: Vec<SubscriptionId>,
}

/// A message as a replica keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The replica's service clock when it stored the message, in ms: delay, time to live and
    /// retention count from here [F11].
    pub received_ms: u64,
    /// The message.
    pub envelope: Arc<Envelope>,
}

impl Kept {
    /// Its bytes, as stored.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(&(self.received_ms, &*self.envelope))
            .expect("an envelope always encodes")
    }

    /// Reads what `to_bytes` wrote.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (received_ms, envelope): (u64, Envelope) = postcard::from_bytes(bytes).ok()?;
        Some(Self { received_ms, envelope: Arc::new(envelope) })
    }

    /// When it is dropped, on the replica's service clock, in ms.
    #[must_use]
    pub fn ends_ms(&self, retention_ms: u64) -> u64 {
        let ttl_ms = self.envelope.header.ttl_ms;
        let life_ms = if ttl_ms == 0 { retention_ms } else { ttl_ms.min(retention_ms) };
        self.received_ms.saturating_add(life_ms)
    }
}

/// A stored message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The clear part.
    pub header: Header,
    /// The seal's nonce.
    pub nonce: [u8; 12],
    /// The sealed [`Content`].
    pub sealed: Bytes,
}

impl Header {
    /// The bytes bound to the seal: format, generation and every clear field. An envelope moved
    /// to another stream, or with one field changed, does not open.
    #[must_use]
    pub fn associated(&self, generation: Generation) -> Vec<u8> {
        postcard::to_stdvec(&(FORMAT, generation, self)).expect("a header always encodes")
    }
}

impl Envelope {
    /// Its bytes, as stored and sent.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("an envelope always encodes")
    }

    /// Reads what `to_bytes` wrote, without copying the sealed part twice.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Boot, NodeId};

    fn envelope() -> Envelope {
        let dot = Dot::Minted { node: NodeId(1), boot: Boot(2), seq: 3 };
        let hlc = Hlc { wall_ms: 4, logical: 5, node: NodeId(1) };
        let header = Header {
            dot,
            sender: UserId([7; 16]),
            sender_name: "alice".into(),
            hlc,
            sent_ms: 4,
            content_mac: [8; 32],
            delay_ms: 5,
            ttl_ms: 6,
            group: Some(GroupHash([1; 16])),
            hop: 0,
            set_version: 2,
            matched: vec![SubscriptionId([3; 16])],
        };
        Envelope { header, nonce: [9; 12], sealed: Bytes::from_static(b"xyz") }
    }

    #[test]
    fn golden_bytes_of_the_envelope() {
        let bytes = envelope().to_bytes();
        let mut expected = vec![0, 1, 2, 3];
        expected.extend([7; 16]);
        expected.extend(b"\x05alice");
        expected.extend([4, 5, 1, 4]);
        expected.extend([8; 32]);
        expected.extend([5, 6, 1]);
        expected.extend([1; 16]);
        expected.extend([0, 2, 1]);
        expected.extend([3; 16]);
        expected.extend([9; 12]);
        expected.extend(b"\x03xyz");
        assert_eq!(bytes, expected);
        assert_eq!(Envelope::from_bytes(&bytes), Some(envelope()));
        let kept = Kept { received_ms: 7, envelope: Arc::new(envelope()) };
        assert_eq!(kept.to_bytes(), [&[7], &bytes[..]].concat());
        assert_eq!(Kept::from_bytes(&kept.to_bytes()), Some(kept));
    }

    #[test]
    fn the_bound_bytes_name_the_generation() {
        let header = envelope().header;
        let one = header.associated(Generation([1; 16]));
        assert_ne!(one, header.associated(Generation([2; 16])));
        assert_eq!(one[0], FORMAT);
    }

    #[test]
    fn a_dead_letter_from_before_it_had_a_detail_still_opens() {
        let died =
            |detail| Died { place: "q".into(), reason: DeathReason::Poison, died_ms: 3, detail };
        let with = |detail| Content {
            body: Body::Text("a".into()),
            content_type: "b".into(),
            attributes: BTreeMap::new(),
            routing_key: None,
            group: None,
            topic: None,
            died: Some(died(detail)),
        };
        // body, content type, attributes, routing key, group, topic, died.
        let old = [&[0, 1][..], b"a", &[1], b"b", &[0, 0, 0, 0], &[1, 1], b"q", &[1, 3]].concat();
        assert_eq!(Content::from_bytes(&old), Some(with(None)));
        assert_eq!(with(None).to_bytes(), [&old[..], &[0]].concat());
        let told = with(Some(Reason("why".into())));
        assert_eq!(told.to_bytes(), [&old[..], &[1, 3], b"why"].concat());
        assert_eq!(Content::from_bytes(&told.to_bytes()), Some(told.clone()));
        assert_eq!(Content::from_bytes(&old[..old.len() - 1]), None);
        assert!(!format!("{told:?}").contains("why"));
    }

    #[test]
    fn a_size_counts_body_attributes_and_content_type() {
        let content = Content {
            body: Body::Text("añ".into()),
            content_type: "a/b".into(),
            attributes: BTreeMap::from([("k".into(), "vv".into())]),
            routing_key: None,
            group: None,
            topic: None,
            died: None,
        };
        assert_eq!(content.size(), 3 + 3 + 3);
        assert_eq!(Content::from_bytes(&content.to_bytes()), Some(content.clone()));
        assert!(!format!("{content:?}").contains("añ"));
    }
}
