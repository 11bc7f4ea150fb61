//! How a record lies in the store: key = kind's byte, then the name; value = postcard.

use super::registers::OpenError;
use crate::protocol::record::{Kind, Record, RecordKey};
use crate::store::Row;

/// The only format so far.
pub(super) const FORMAT: u8 = 1;

/// These numbers are on disks: only appended to.
fn kind_byte(kind: Kind) -> u8 {
    match kind {
        Kind::User => 0,
        Kind::Session => 1,
        Kind::ApiKey => 2,
        Kind::Queue => 3,
        Kind::FirstAdmin => 4,
        Kind::Topic => 5,
        Kind::Subscription => 6,
    }
}

/// The row's key. Rows of one kind lie together, in the order of their names.
pub(super) fn row_key(key: &RecordKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.name.len());
    out.push(kind_byte(key.kind));
    out.extend_from_slice(&key.name);
    out
}

/// What a row's key names.
pub(super) fn record_key(row_key: &[u8]) -> Result<RecordKey, OpenError> {
    let (byte, name) = row_key.split_first().ok_or(OpenError::UnknownKind { byte: None })?;
    let kinds = [
        Kind::User,
        Kind::Session,
        Kind::ApiKey,
        Kind::Queue,
        Kind::FirstAdmin,
        Kind::Topic,
        Kind::Subscription,
    ];
    let kind = kinds.into_iter().find(|kind| kind_byte(*kind) == *byte);
    let kind = kind.ok_or(OpenError::UnknownKind { byte: Some(*byte) })?;
    Ok(RecordKey::new(kind, name))
}

/// A record as bytes.
pub(super) fn encode(record: &Record) -> Vec<u8> {
    postcard::to_stdvec(record).expect("a record has no part that postcard refuses")
}

/// A record from its row; the kind is only for the error.
pub(super) fn decode(kind: Kind, row: &Row) -> Result<Record, OpenError> {
    if row.tag != FORMAT {
        return Err(OpenError::UnknownFormat { kind, format: row.tag });
    }
    match postcard::take_from_bytes(&row.bytes) {
        Ok((record, [])) => Ok(record),
        _ => Err(OpenError::Corrupt { kind }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::base::ids::{ApiKeyId, Generation, SessionId, UserId};
    use crate::protocol::record::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn user() -> Value {
        Value::User(User {
            id: UserId([2; 16]),
            password: "$scrypt$x".into(),
            password_version: 3,
            admin: true,
            disabled: false,
            created_ms: 1_000,
            updated_ms: 2_000,
            sessions_epoch: 4,
            spared: Some(SessionId([4; 16])),
        })
    }

    fn session() -> Value {
        Value::Session(Session {
            id: SessionId([4; 16]),
            user: UserId([2; 16]),
            user_name: "ana".into(),
            created_ms: 1_000,
            expires_ms: 2_000,
            address: "::1".into(),
            epoch: 4,
            bound: true,
        })
    }

    fn api_key() -> Value {
        Value::ApiKey(ApiKey {
            id: ApiKeyId([5; 16]),
            user: UserId([2; 16]),
            user_name: "ana".into(),
            name: "ci".into(),
            created_ms: 1_000,
            expires_ms: Some(2_000),
            scopes: Some(BTreeSet::from([Right::Send, Right::Browse])),
        })
    }

    fn queue() -> Value {
        let grant = |rights: &[Right], name: &str| Grant {
            rights: rights.iter().copied().collect::<BTreeSet<_>>(),
            granted_by: "ana".into(),
            granted_ms: 1_500,
            grantee_name: name.into(),
        };
        Value::Queue(Queue {
            owner: UserId([2; 16]),
            config: crate::protocol::record::tests::config(3),
            ending: Ending::Drain,
            data_key: vec![9, 8, 7],
            grants: BTreeMap::from([
                (Grantee::Everyone, grant(&[Right::Send], "*")),
                (Grantee::User(UserId([6; 16])), grant(&[Right::Receive, Right::Manage], "eva")),
            ]),
            created_ms: 1_000,
            updated_ms: 2_000,
        })
    }

    fn topic() -> Value {
        let grant = Grant {
            rights: BTreeSet::from([Right::Publish, Right::Subscribe]),
            granted_by: "ana".into(),
            granted_ms: 1_500,
            grantee_name: "*".into(),
        };
        Value::Topic(Topic {
            owner: UserId([2; 16]),
            config: TopicConfig {
                max_message_bytes: 1_024,
                replicas: 3,
                retention_seconds: 60,
                dedup_seconds: 600,
                max_bytes: 5,
            },
            ending: Ending::Discard,
            data_key: vec![9, 8, 7],
            grants: BTreeMap::from([(Grantee::Everyone, grant)]),
            created_ms: 1_000,
            updated_ms: 2_000,
        })
    }

    fn subscription() -> Value {
        Value::Subscription(Subscription {
            topic: Generation([3; 16]),
            owner: UserId([2; 16]),
            config: SubscriptionConfig {
                lease_seconds: 30,
                max_failures: 10,
                backoff_min_seconds: 1,
                backoff_max_seconds: 600,
                max_in_flight: 120_000,
                dead_letter: Some("dead".into()),
                paused: true,
            },
            filter: Filter {
                routing_key: Some("a.#".into()),
                attributes: BTreeMap::from([("k".into(), "v".into())]),
            },
            start: Start::Earliest,
            deliver_to: Some(Target { name: "orders".into(), generation: Generation([7; 16]) }),
            phase: Phase::Active,
            created_ms: 1_000,
            updated_ms: 2_000,
        })
    }

    fn record(state: State, value: Value) -> Record {
        Record { generation: Generation([1; 16]), version: 300, state, value }
    }

    /// What is on disks today must be read by every later release.
    #[test]
    fn records_of_each_kind_are_as_they_were() {
        let cases = [
            (Kind::User, State::Live, user(), USER),
            (Kind::Session, State::Live, session(), SESSION),
            (Kind::ApiKey, State::Live, api_key(), API_KEY),
            (Kind::Queue, State::Sealed, queue(), QUEUE),
            (Kind::FirstAdmin, State::Live, Value::FirstAdmin(UserId([2; 16])), FIRST_ADMIN),
            (Kind::Topic, State::Sealed, topic(), TOPIC),
            (Kind::Subscription, State::Live, subscription(), SUBSCRIPTION),
            (Kind::User, State::Free, Value::Nothing, FREE),
        ];
        for (kind, state, value, golden) in cases {
            let record = record(state, value);
            let bytes = encode(&record);
            assert_eq!(hex(&bytes), golden, "{kind:?}");
            let row = Row { tag: FORMAT, bytes: bytes.into() };
            assert_eq!(decode(kind, &row).unwrap(), record);
        }
    }

    #[test]
    fn keys_of_each_kind_are_as_they_were() {
        let kinds = [
            Kind::User,
            Kind::Session,
            Kind::ApiKey,
            Kind::Queue,
            Kind::FirstAdmin,
            Kind::Topic,
            Kind::Subscription,
        ];
        for (byte, kind) in (0u8..).zip(kinds) {
            let key = RecordKey::new(kind, "ana");
            assert_eq!(row_key(&key), [&[byte], b"ana".as_slice()].concat());
            assert_eq!(record_key(&row_key(&key)).unwrap(), key);
        }
        assert!(matches!(record_key(&[7]), Err(OpenError::UnknownKind { byte: Some(7) })));
        assert!(matches!(record_key(&[]), Err(OpenError::UnknownKind { byte: None })));
    }

    #[test]
    fn what_cannot_be_read_names_its_kind() {
        let good = encode(&record(State::Live, queue()));
        let row = |tag, bytes: &[u8]| Row { tag, bytes: bytes.to_vec().into() };
        let short = decode(Kind::Queue, &row(FORMAT, &good[..good.len() - 1])).unwrap_err();
        assert!(matches!(short, OpenError::Corrupt { kind: Kind::Queue }));
        let long = [&good[..], &[0]].concat();
        assert!(matches!(decode(Kind::Queue, &row(FORMAT, &long)), Err(OpenError::Corrupt { .. })));
        let newer = decode(Kind::Queue, &row(2, &good)).unwrap_err();
        assert!(matches!(newer, OpenError::UnknownFormat { kind: Kind::Queue, format: 2 }));
        assert!(newer.to_string().contains("Queue"));
    }

    const USER: &str = "01010101010101010101010101010101ac0200010202020202020202020202020202020209247363\
        727970742478030100e807d00f040104040404040404040404040404040404";
    const SESSION: &str = "01010101010101010101010101010101ac0200020404040404040404040404040404040402020202\
        02020202020202020202020203616e61e807d00f033a3a310401";
    const API_KEY: &str = "01010101010101010101010101010101ac0200030505050505050505050505050505050502020202\
        02020202020202020202020203616e61026369e80701d00f01020003";
    const QUEUE: &str = "01010101010101010101010101010101ac020104020202020202020202020202020202023c801006\
        80d49301001400b009b00980d30e0000000001030908070200010003616e61dc0b012a0106060606\
        06060606060606060606060602010203616e61dc0b03657661e807d00f";
    const FIRST_ADMIN: &str =
        "01010101010101010101010101010101ac02000502020202020202020202020202020202";
    const TOPIC: &str = "01010101010101010101010101010101ac0201060202020202020202020202020202020280100678\
        b0090a0303090807010002040503616e61dc0b012ae807d00f";
    const SUBSCRIPTION: &str = "01010101010101010101010101010101ac0200070303030303030303030303030303030302020202\
        0202020202020202020202023c1402b00980d30e010464656164010103612e2301016b0176010106\
        6f72646572730707070707070707070707070707070701e807d00f";
    const FREE: &str = "01010101010101010101010101010101ac020200";
}
