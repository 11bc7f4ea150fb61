//! Looking at messages without touching them, and what people do about them: delete one, purge,
//! redrive.

use super::cursors::{List, page_limit};
use super::sources::{Reading, Source};
use super::{Answer, Body, Broker, Caller, DeadLetter, Outcome, Page, Refusal};
use crate::base::limits;
use crate::message::envelope::DeathReason;
use crate::protocol::record::Right;
use crate::protocol::stream::{MessageId, Place, Standing};
use crate::replication::inspecting::{Browse, Seen};
use crate::replication::settling::Settled;
use std::collections::BTreeMap;

/// What a message is doing, as people ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageState {
    /// Waiting to be received, or for an older one of its group.
    Ready,
    /// Under a running lease.
    Leased,
    /// Not due yet.
    Delayed,
    /// A dead letter.
    Dead,
}

/// A message that was looked at.
#[derive(Clone, Debug)]
pub struct BrowsedMessage {
    /// Its id.
    pub id: String,
    /// What it says.
    pub body: Body,
    /// Its media type.
    pub content_type: String,
    /// Named values beside the body.
    pub attributes: BTreeMap<String, String>,
    /// Words by which filters choose.
    pub routing_key: Option<String>,
    /// Its group.
    pub group: Option<String>,
    /// The topic it was published to, when it came by a link.
    pub topic: Option<String>,
    /// Where and why it died, if it did.
    pub dead_letter: Option<DeadLetter>,
    /// The name of who sent it.
    pub sender: String,
    /// When, wall time in ms.
    pub sent_ms: u64,
    /// Leases so far.
    pub receive_count: i32,
    /// Failures so far.
    pub failure_count: i32,
    /// What it is doing.
    pub state: MessageState,
    /// When it is due, wall time in ms; only while it is delayed.
    pub ready_ms: Option<u64>,
    /// The name of the user who has it; only while it is leased.
    pub leased_by: Option<String>,
    /// The lease's end, wall time in ms; only while it is leased.
    pub lease_expires_ms: Option<u64>,
    /// Why it is or is not handed out, for people.
    pub explanation: String,
}

/// What a redrive did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redriven {
    /// Messages that are ready again.
    pub moved: i64,
    /// Dead letters that are left.
    pub remaining: i64,
}

impl Broker {
    /// Looks at messages in dispatch order, of one state if given. Nothing changes.
    ///
    /// # Errors
    /// `Invalid`, `QueueNotFound`, `Forbidden`, `Overloaded`.
    pub async fn browse(
        &self,
        by: &Caller,
        source: Source<'_>,
        state: Option<MessageState>,
        cursor: Option<&str>,
        limit: i32,
    ) -> Answer<Page<BrowsedMessage>> {
        let reading = self.reading(by, source, Right::Browse)?;
        let limit = page_limit(limit)?;
        let word: &[u8] = state.map_or(b"", |state| word(state).as_bytes());
        let parts: [&[u8]; 4] =
            [b"messages", &reading.stream.generation.0, &reading.reader.0, word];
        let list = List::new(&parts);
        // A cursor of ours holds a place; one that does not came from another version.
        let place = |bytes: Vec<u8>| postcard::from_bytes::<Place>(&bytes).ok();
        let browse = Browse {
            state: state.map(standing),
            after: list.after(&self.keys, cursor)?.and_then(place),
            limit,
            bytes_max: limits::RECEIVE_BYTES_MAX,
        };
        let looking =
            self.coordinator.browse(&reading.stream, reading.reader, browse, reading.retention_ms);
        let browsed = looking.await.map_err(|why| self.refusal_of(&reading.address, why))?;
        let items = browsed.items.into_iter().filter_map(|seen| self.browsed(&reading, seen));
        let bytes = |place: Place| postcard::to_stdvec(&place).expect("a place always encodes");
        let next = browsed.next.map(|place| list.cursor(&self.keys, &bytes(place)));
        Ok(Page { items: items.collect(), next })
    }

    /// Looks at one message.
    ///
    /// # Errors
    /// `QueueNotFound`, `Forbidden`, `MessageNotFound`, `Overloaded`.
    pub async fn get_message(
        &self,
        by: &Caller,
        source: Source<'_>,
        id: &str,
    ) -> Answer<BrowsedMessage> {
        let reading = self.reading(by, source, Right::Browse)?;
        let id = MessageId::parse(id).ok_or(Refusal::MessageNotFound)?;
        let finding =
            self.coordinator.find(&reading.stream, reading.reader, id, reading.retention_ms);
        let seen = finding.await.map_err(|why| self.refusal_of(&reading.address, why))?;
        seen.and_then(|seen| self.browsed(&reading, seen)).ok_or(Refusal::MessageNotFound)
    }

    /// Takes one message out, whoever holds it. One that is gone already is as good.
    ///
    /// # Errors
    /// `QueueNotFound`, `Forbidden`, `MessageNotFound` for what is no id at all, `Overloaded`,
    /// `NotEnoughReplicas`.
    pub async fn delete_message(&self, by: &Caller, source: Source<'_>, id: &str) -> Answer<()> {
        let reading = self.reading(by, source, Right::Manage)?;
        let parsed = MessageId::parse(id).ok_or(Refusal::MessageNotFound)?;
        match self.coordinator.remove(&reading.stream, reading.reader, parsed).await {
            Settled::Done | Settled::Lost => {}
            Settled::Refused(why) => return Err(self.refusal_of(&reading.address, why)),
            Settled::Unknown => {
                return Err(Refusal::NotEnoughReplicas { outcome: Outcome::Unknown });
            }
        }
        by.note(
            "delete_message",
            (reading.address.kind(), &reading.address.to_string()),
            &format!("message={id}"),
        );
        self.after_settling(&reading.address);
        Ok(())
    }

    /// Takes every message out that was acknowledged to its sender before, and none that is sent
    /// after. Answers how many that were.
    ///
    /// # Errors
    /// `QueueNotFound`, `Forbidden`, `Overloaded`, `NotEnoughReplicas`.
    pub async fn purge(&self, by: &Caller, source: Source<'_>) -> Answer<i64> {
        let reading = self.reading(by, source, Right::Manage)?;
        let purged = self.coordinator.purge(&reading.stream, reading.reader).await;
        let count = match purged {
            Ok(Some(count)) => count,
            Ok(None) => return Err(Refusal::NotEnoughReplicas { outcome: Outcome::Unknown }),
            Err(why) => return Err(self.refusal_of(&reading.address, why)),
        };
        by.note(
            "purge",
            (reading.address.kind(), &reading.address.to_string()),
            &format!("messages={count}"),
        );
        self.after_settling(&reading.address);
        Ok(whole(count))
    }

    /// Makes up to `max` dead letters ready again, the oldest first.
    ///
    /// # Errors
    /// `QueueNotFound`, `Forbidden`, `Overloaded`, `NotEnoughReplicas`.
    pub async fn redrive(&self, by: &Caller, source: Source<'_>, max: i32) -> Answer<Redriven> {
        let reading = self.reading(by, source, Right::Manage)?;
        let max = usize::try_from(max).unwrap_or(0).clamp(1, limits::REDRIVE_BATCH_MAX);
        let redriving = self.coordinator.redrive(&reading.stream, reading.reader, max);
        let redriven = redriving.await.map_err(|why| self.refusal_of(&reading.address, why))?;
        if redriven.moved == 0 && redriven.remaining > 0 {
            // None of them was confirmed: who repeats until none remains must not repeat in vain.
            return Err(Refusal::NotEnoughReplicas { outcome: Outcome::Unknown });
        }
        let detail = format!("messages={}", redriven.moved);
        by.note("redrive", (reading.address.kind(), &reading.address.to_string()), &detail);
        Ok(Redriven { moved: whole(redriven.moved), remaining: whole(redriven.remaining) })
    }

    /// A message as people see it; none when it is gone, or about to be dropped.
    fn browsed(&self, reading: &Reading, seen: Seen) -> Option<BrowsedMessage> {
        let state = match seen.standing {
            Standing::Settled | Standing::Expired => return None,
            Standing::Ready | Standing::Blocked => MessageState::Ready,
            Standing::Leased => MessageState::Leased,
            Standing::Delayed => MessageState::Delayed,
            Standing::Dead | Standing::Failed => MessageState::Dead,
        };
        let explanation = explain(&seen, reading.is_paused);
        let wall_ms = self.clock.wall_ms();
        let here = seen.death.map(|death| DeadLetter {
            queue: reading.address.to_string(),
            reason: death.reason,
            detail: seen.detail,
            died_ms: death.died_ms,
        });
        let content = seen.content;
        let moved = content.died.map(|died| DeadLetter {
            queue: died.place,
            reason: died.reason,
            detail: died.detail,
            died_ms: died.died_ms,
        });
        Some(BrowsedMessage {
            id: MessageId::of(seen.place).to_string(),
            body: content.body,
            content_type: content.content_type,
            attributes: content.attributes,
            routing_key: content.routing_key,
            group: content.group,
            topic: content.topic,
            dead_letter: here.or(moved),
            sender: seen.header.sender_name,
            sent_ms: seen.header.sent_ms,
            receive_count: i32::try_from(seen.receive_count).unwrap_or(i32::MAX),
            failure_count: i32::try_from(seen.failure_count).unwrap_or(i32::MAX),
            state,
            ready_ms: seen.due_in_ms.map(|ms| wall_ms + ms),
            leased_by: seen.held_by,
            lease_expires_ms: seen.lease_ends_in_ms.map(|ms| wall_ms + ms),
            explanation,
        })
    }
}

fn standing(state: MessageState) -> Standing {
    match state {
        MessageState::Ready => Standing::Ready,
        MessageState::Leased => Standing::Leased,
        MessageState::Delayed => Standing::Delayed,
        MessageState::Dead => Standing::Dead,
    }
}

fn word(state: MessageState) -> &'static str {
    match state {
        MessageState::Ready => "ready",
        MessageState::Leased => "leased",
        MessageState::Delayed => "delayed",
        MessageState::Dead => "dead",
    }
}

/// Why a message is or is not handed out.
fn explain(seen: &Seen, is_paused: bool) -> String {
    let failures = match seen.failure_count {
        1 => "1 failure".to_owned(),
        count => format!("{count} failures"),
    };
    match seen.standing {
        Standing::Leased => {
            let time = span(seen.lease_ends_in_ms.unwrap_or(0));
            match &seen.held_by {
                Some(name) => format!("leased by {name} for another {time}"),
                None => format!("leased for another {time}"),
            }
        }
        Standing::Delayed => {
            let time = span(seen.due_in_ms.unwrap_or(0));
            let after =
                if seen.failure_count > 0 { format!(", after {failures}") } else { String::new() };
            format!("not due for another {time}{after}")
        }
        Standing::Dead | Standing::Failed => {
            let why = match seen.death.map(|death| death.reason) {
                Some(DeathReason::Poison) => "dead because a consumer called it poison".to_owned(),
                Some(DeathReason::MaxFailures) | None => format!("dead after {failures}"),
            };
            format!("{why}: redrive it, receive it with from=dead, or delete it")
        }
        Standing::Blocked => "waits for an older message of its group".to_owned(),
        Standing::Ready if is_paused => "ready, but the queue is paused".to_owned(),
        Standing::Ready => "ready: waits for a receive".to_owned(),
        Standing::Settled | Standing::Expired => "it is gone".to_owned(),
    }
}

/// A span of time in words, rounded up.
fn span(ms: u64) -> String {
    let seconds = ms.div_ceil(1_000);
    let of = |count: u64, unit: &str| match count {
        1 => format!("1 {unit}"),
        count => format!("{count} {unit}s"),
    };
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => of(seconds.div_ceil(60), "minute"),
        7_200..=172_799 => of(seconds.div_ceil(3_600), "hour"),
        _ => of(seconds.div_ceil(86_400), "day"),
    }
}

/// A count as answers have it.
pub(super) fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
