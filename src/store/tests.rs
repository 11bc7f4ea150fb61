#![allow(clippy::unwrap_used)]
use super::*;
use crate::base::seams::SystemSpawn;

const CACHE: usize = 1 << 20;

fn put(table: Table, key: &[u8], bytes: &[u8]) -> RowOp {
    RowOp::Put { table, key: key.to_vec(), tag: 7, bytes: bytes.to_vec() }
}

fn delete(table: Table, key: &[u8]) -> RowOp {
    RowOp::Delete { table, key: key.to_vec() }
}

fn options() -> StoreOptions {
    let stamp = |n: u64| put(Table::Node, b"stamp", &n.to_le_bytes());
    StoreOptions { reserve_bytes: 0, stamp: Arc::new(stamp) }
}

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn disk(&self) -> Arc<FileDisk> {
        Arc::new(FileDisk::open(self.0.path().join("store")).unwrap())
    }

    fn open(&self) -> Result<OpenStore, OpenError> {
        Store::open(self.disk(), CACHE)
    }

    fn start(&self, last_commit: u64) -> Store {
        self.open().unwrap().start(&SystemSpawn, options(), last_commit)
    }
}

fn submit(store: &Store, ops: Vec<RowOp>) -> Ticket {
    let bytes = ops.iter().map(RowOp::bytes).sum();
    store.submit(store.admit(WriteClass::Growth, bytes).unwrap(), ops)
}

fn value(store: &Store, table: Table, key: &[u8]) -> Option<Vec<u8>> {
    store.get(table, key).unwrap().map(|row| row.bytes.to_vec())
}

fn keys(rows: Vec<ScannedRow>) -> Vec<Vec<u8>> {
    rows.into_iter().map(|(key, row)| row.map(|_| key).unwrap()).collect()
}

#[tokio::test]
async fn rows_and_the_stamp_outlive_a_close() {
    let home = Home::new();
    let store = home.start(41);
    let many = vec![put(Table::Messages, b"a", b"1"), put(Table::Streams, b"a", b"2")];
    assert_eq!(submit(&store, many).await, Ok(42));
    assert_eq!(submit(&store, vec![delete(Table::Streams, b"a")]).await, Ok(43));
    assert_eq!(store.commit_number(), 43);
    store.close().await;
    let open = home.open().unwrap();
    let stamp = open.get(Table::Node, b"stamp").unwrap().unwrap();
    assert_eq!(stamp.bytes[..], 43u64.to_le_bytes());
    let row = open.get(Table::Messages, b"a").unwrap().unwrap();
    assert_eq!((row.tag, &row.bytes[..]), (7, &b"1"[..]));
    assert_eq!(open.get(Table::Streams, b"a").unwrap(), None);
    assert_eq!(open.get(Table::Grants, b"a").unwrap(), None);
}

#[tokio::test]
async fn of_two_ops_on_a_key_the_later_wins() {
    let home = Home::new();
    let store = home.start(0);
    let (a, b, t) = (&b"a"[..], &b"b"[..], Table::Records);
    let first = submit(&store, vec![put(t, a, b"1"), delete(t, b), put(t, b, b"1")]);
    let second = submit(&store, vec![put(t, a, b"2"), delete(t, b)]);
    assert!(first.await.unwrap() <= second.await.unwrap());
    assert_eq!(value(&store, t, a).unwrap(), b"2");
    assert_eq!(value(&store, t, b), None);
}

#[tokio::test]
async fn a_barrier_waits_for_all_before_it_and_costs_no_commit() {
    let home = Home::new();
    let store = home.start(0);
    assert_eq!(store.barrier().await, Ok(0));
    let write = submit(&store, vec![put(Table::Grants, b"k", b"v")]);
    assert_eq!(store.barrier().await, Ok(1));
    assert_eq!(write.await, Ok(1));
    assert_eq!(store.barrier().await, Ok(1));
    assert_eq!(store.commit_number(), 1);
}

#[tokio::test]
async fn a_scan_keeps_to_its_bounds_and_its_limit() {
    let home = Home::new();
    let store = home.start(0);
    let ops = (0..100u8).map(|n| put(Table::Messages, &[n], &[n; 300])).collect();
    submit(&store, ops).await.unwrap();
    let scan = |from, to, limit| keys(store.scan(Table::Messages, from, to, limit).unwrap());
    let key = |from: u8, to: u8| (from..to).map(|n| vec![n]).collect::<Vec<_>>();
    assert_eq!(scan(Bound::Unbounded, Bound::Unbounded, 1000), key(0, 100));
    assert_eq!(scan(Bound::Included(&[5]), Bound::Excluded(&[9]), 1000), key(5, 9));
    assert_eq!(scan(Bound::Excluded(&[5]), Bound::Included(&[9]), 1000), key(6, 10));
    assert_eq!(scan(Bound::Excluded(&[5]), Bound::Unbounded, 3), key(6, 9));
    assert!(scan(Bound::Included(&[9]), Bound::Excluded(&[5]), 9).is_empty());
    assert!(scan(Bound::Unbounded, Bound::Unbounded, 0).is_empty());
    let empty = store.scan(Table::Grants, Bound::Included(&[9]), Bound::Unbounded, 9);
    assert!(empty.unwrap().is_empty());
}

#[tokio::test]
async fn close_commits_what_was_submitted_and_refuses_the_rest() {
    let home = Home::new();
    let store = home.start(0);
    let other = store.clone();
    let tickets: Vec<_> = (0..500u32)
        .map(|n| submit(&store, vec![put(Table::Messages, &n.to_be_bytes(), b"")]))
        .collect();
    store.close().await;
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(other.barrier().await, Err(StoreClosed));
    assert!(matches!(other.get(Table::Messages, b""), Err(ReadError::Closed)));
    assert!(!*other.failed().borrow());
    assert_eq!(other.shared.space.waiting_bytes(), 0);
    other.close().await;
    let open = home.open().unwrap();
    let rows = open.scan(Table::Messages, Bound::Unbounded, Bound::Unbounded, 1000).unwrap();
    assert_eq!(rows.len(), 500);
}

#[tokio::test]
async fn r7_a_panic_in_a_commit_fails_the_store() {
    let home = Home::new();
    let options = StoreOptions { reserve_bytes: 0, stamp: Arc::new(|_| panic!("on purpose")) };
    let store = home.open().unwrap().start(&SystemSpawn, options, 0);
    assert_eq!(submit(&store, vec![put(Table::Grants, b"k", b"v")]).await, Err(StoreClosed));
    assert!(*store.failed().borrow());
    assert_eq!(store.barrier().await, Err(StoreClosed));
    assert_eq!(store.shared.space.waiting_bytes(), 0);
}

#[tokio::test]
async fn a_newer_schema_is_refused_in_one_sentence() {
    let home = Home::new();
    let store = home.start(0);
    let (key, tag) = (database::SCHEMA_KEY.to_vec(), 1);
    let newer = RowOp::Put { table: Table::Node, key, tag, bytes: 3u32.to_le_bytes().to_vec() };
    submit(&store, vec![newer]).await.unwrap();
    store.close().await;
    let error = home.open().err().unwrap();
    assert!(matches!(error, OpenError::NewerSchema { found: 3, known: 2 }), "{error}");
    assert!(error.to_string().contains("start the version that wrote it"));
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let home = Home::new();
    let path = home.0.path().join("store");
    for content in [&b"some text"[..], &[0; 100], &[1; 100_000]] {
        std::fs::remove_file(&path).ok();
        std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), content).unwrap();
        match home.open() {
            // Zeros are what a power cut leaves of a file that never held anything.
            Ok(_) => assert_eq!(content, [0; 100]),
            Err(error) => {
                assert!(matches!(error, OpenError::NotAStore(_)), "{error}");
                assert_eq!(std::fs::read(&path).unwrap(), content);
            }
        }
    }
    std::fs::remove_file(&path).unwrap();
    let other = redb::Database::create(&path).unwrap();
    let write = other.begin_write().unwrap();
    write.open_table(redb::TableDefinition::<u64, u64>::new("theirs")).unwrap();
    write.commit().unwrap();
    drop(other);
    assert!(matches!(home.open(), Err(OpenError::NotAStore(_))));
}
