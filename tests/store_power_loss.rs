//! The store against a disk that fails: power cuts at any moment, fsyncs that fail or never
//! return, flipped bits, no space left.
#![allow(clippy::unwrap_used)]

#[path = "common/fault_disk.rs"]
mod fault_disk;

use fault_disk::{FaultDisk, Xorshift};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tertulia::base::seams::{BlockFile, SystemSpawn};
use tertulia::store::{
    OpenError, OpenStore, ReadError, Refused, RowOp, Store, StoreClosed, StoreOptions, Table,
    Ticket, WriteClass,
};

const CACHE: usize = 1 << 20;
const TABLES: [Table; 3] = [Table::Streams, Table::Messages, Table::Grants];
const STAMP: &[u8] = b"stamp";
/// Written by every submission: its place in the order.
const HOT: &[u8] = b"hot";

fn put(table: Table, key: &[u8], bytes: &[u8]) -> RowOp {
    RowOp::Put { table, key: key.to_vec(), tag: 1, bytes: bytes.to_vec() }
}

fn open(disk: &FaultDisk) -> Result<OpenStore, OpenError> {
    Store::open(Arc::new(disk.clone()), CACHE)
}

fn start(open: OpenStore, last_commit: u64, reserve_bytes: u64) -> Store {
    let stamp = |n: u64| put(Table::Node, STAMP, &n.to_le_bytes());
    open.start(&SystemSpawn, StoreOptions { reserve_bytes, stamp: Arc::new(stamp) }, last_commit)
}

fn submit(store: &Store, class: WriteClass, ops: Vec<RowOp>) -> Result<Ticket, Refused> {
    let bytes = ops.iter().map(RowOp::bytes).sum();
    Ok(store.submit(store.admit(class, bytes)?, ops))
}

fn number(store: &OpenStore, key: &[u8]) -> u64 {
    let row = store.get(Table::Node, key).unwrap();
    row.map_or(0, |row| u64::from_le_bytes(row.bytes[..].try_into().unwrap()))
}

type Model = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

fn apply(model: &mut Model, ops: &[RowOp]) {
    for op in ops {
        match op.clone() {
            RowOp::Put { table, key, bytes, .. } => drop(model.insert((table, key), bytes)),
            RowOp::Delete { table, key } => drop(model.remove(&(table, key))),
        }
    }
}

fn contents(store: &OpenStore) -> Model {
    let mut model = Model::new();
    for table in TABLES {
        for (key, row) in store.scan(table, Bound::Unbounded, Bound::Unbounded, usize::MAX).unwrap()
        {
            model.insert((table, key), row.unwrap().bytes.to_vec());
        }
    }
    model
}

fn random_ops(random: &mut Xorshift) -> Vec<RowOp> {
    let rows = 1 + random.below(6);
    let row = |_| {
        let table = TABLES[random.below(3) as usize];
        let key = random.below(60).to_be_bytes();
        match random.below(4) {
            0 => RowOp::Delete { table, key: key.to_vec() },
            _ => {
                let len = [10, 700, 3000, 9000][random.below(4) as usize];
                put(table, &key, &vec![random.below(256) as u8; len])
            }
        }
    };
    (0..rows).map(row).collect()
}

/// What was submitted, in order, and how far it is known to be durable.
#[derive(Default)]
struct History {
    submitted: Vec<Vec<RowOp>>,
    /// Place in the order (from 1) and commit number of every resolved ticket.
    resolved: Vec<(u64, u64)>,
    unresolved: u64,
}

async fn submitter(store: Store, history: Arc<Mutex<History>>, seed: u64) {
    let mut random = Xorshift::new(seed);
    loop {
        // Some wait for each ticket, some submit several before they wait.
        let mut tickets = Vec::new();
        for _ in 0..=random.below(3) {
            let mut ops = random_ops(&mut random);
            let mut history = history.lock().unwrap();
            let place = history.submitted.len() as u64 + 1;
            ops.push(put(Table::Node, HOT, &place.to_le_bytes()));
            history.submitted.push(ops.clone());
            tickets.push((place, submit(&store, WriteClass::Growth, ops).unwrap()));
        }
        for (place, ticket) in tickets {
            match ticket.await {
                Ok(commit) => history.lock().unwrap().resolved.push((place, commit)),
                Err(StoreClosed) => {
                    assert!(*store.failed().borrow(), "who is refused sees why");
                    history.lock().unwrap().unresolved += 1;
                }
            }
        }
        if *store.failed().borrow() {
            return;
        }
    }
}

/// One life of a disk up to a power cut. Gives what is left of it.
async fn live(disk: &FaultDisk, seed: u64) -> (FaultDisk, History) {
    let mut random = Xorshift::new(seed ^ 0xabcd);
    let history = Arc::new(Mutex::new(History::default()));
    let store = start(open(disk).unwrap(), 0, 0);
    let way = seed % 3;
    if way == 0 {
        // In the midst of a write or a sync.
        disk.cut_power_after(1 + random.below(400));
    }
    let tasks: Vec<_> = (0..2 + random.below(5))
        .map(|n| tokio::spawn(submitter(store.clone(), history.clone(), seed * 100 + n)))
        .collect();
    match way {
        0 => {
            while !disk.power_is_off() {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
        1 => tokio::time::sleep(Duration::from_micros(random.below(20_000))).await,
        _ => {
            // With a sync on its way.
            tokio::time::sleep(Duration::from_micros(random.below(10_000))).await;
            disk.hold_sync();
            let held = disk.clone();
            tokio::task::spawn_blocking(move || held.wait_for_held_sync()).await.unwrap();
        }
    }
    let after = disk.power_loss(seed);
    for task in tasks {
        task.await.unwrap();
    }
    assert!(*store.failed().borrow());
    let history = std::mem::take(&mut *history.lock().unwrap());
    (after, history)
}

fn check(after: &FaultDisk, history: &History, seed: u64) -> OpenStore {
    let store = open(after).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let (stored, commit) = (number(&store, HOT), number(&store, STAMP));
    for (place, number) in &history.resolved {
        assert!(place <= &stored, "seed {seed}: {place} was promised, {stored} are stored");
        assert!(number <= &commit, "seed {seed}: commit {number} was told, {commit} is the last");
    }
    let mut in_order = history.resolved.clone();
    in_order.sort_unstable();
    assert!(in_order.is_sorted_by_key(|(_, commit)| *commit), "seed {seed}: commits in order");
    // Exactly the first submissions, each of them whole, and nothing of the others.
    let mut model = Model::new();
    history.submitted[..stored as usize].iter().for_each(|ops| apply(&mut model, ops));
    model.retain(|(table, _), _| *table != Table::Node);
    assert!(contents(&store) == model, "seed {seed}: {stored} submissions are not all there is");
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_ticket_promised_outlives_a_power_cut() {
    const SEEDS: u64 = 300;
    let (mut submitted, mut resolved, mut unresolved, mut kept) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        let (after, history) = live(&FaultDisk::new(), seed).await;
        let again = check(&after, &history, seed);
        let (stored, commit) = (number(&again, HOT), number(&again, STAMP));
        submitted += history.submitted.len() as u64;
        resolved += history.resolved.len() as u64;
        unresolved += history.unresolved;
        kept += stored - history.resolved.iter().map(|(place, _)| *place).max().unwrap_or(0);
        // Writable after: and what is written then is durable too.
        let store = start(again, commit, 0);
        let ticket = submit(&store, WriteClass::Growth, vec![put(Table::Grants, b"new", b"row")]);
        assert_eq!(ticket.unwrap().await, Ok(commit + 1));
        let last = open(&after.power_loss(seed + 1)).unwrap();
        assert_eq!(last.get(Table::Grants, b"new").unwrap().unwrap().bytes[..], *b"row");
    }
    println!(
        "{SEEDS} seeds: {SEEDS} power cuts under load and {SEEDS} after the next ticket; \
         {submitted} submissions: {resolved} tickets resolved and all of them stored, \
         {unresolved} refused, {kept} stored without a resolved ticket"
    );
    assert!(resolved > SEEDS && unresolved > SEEDS && kept > 0);
}

#[test]
fn a_power_cut_while_the_store_is_made_leaves_one_that_opens() {
    let whole = FaultDisk::new();
    drop(open(&whole).unwrap());
    let operations = whole.operations();
    for cut in 1..=operations {
        for seed in 0..20 {
            let disk = FaultDisk::new();
            disk.cut_power_after(cut);
            drop(open(&disk));
            let after = disk.power_loss(seed);
            open(&after).unwrap_or_else(|error| panic!("cut {cut}, seed {seed}: {error}"));
        }
    }
    println!("{} power cuts while a store is made", operations * 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_ticket_resolves_while_a_sync_does_not_return() {
    let disk = FaultDisk::new();
    let store = start(open(&disk).unwrap(), 0, 0);
    disk.hold_sync();
    let submit = |n: u8| submit(&store, WriteClass::Growth, vec![put(Table::Grants, &[n], &[n])]);
    let mut tickets: Vec<_> = (0..100).map(|n| submit(n).unwrap()).collect();
    tickets.push(store.barrier());
    for ticket in &mut tickets {
        let early = tokio::time::timeout(Duration::from_millis(5), ticket).await;
        assert!(early.is_err(), "a ticket resolved before its sync returned");
    }
    assert!(!*store.failed().borrow());
    assert_eq!(store.commit_number(), 0);
    disk.release_sync();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r7_a_failed_write_or_sync_ends_the_store() {
    for fail in [FaultDisk::fail_sync, FaultDisk::fail_writes] {
        let disk = FaultDisk::new();
        let store = start(open(&disk).unwrap(), 0, 0);
        let submit =
            |n: u8| submit(&store, WriteClass::Growth, vec![put(Table::Grants, &[n], &[n])]);
        submit(1).unwrap().await.unwrap();
        fail(&disk, true);
        let tickets: Vec<_> = (2..50).map(|n| submit(n).unwrap()).collect();
        for ticket in tickets {
            assert_eq!(ticket.await, Err(StoreClosed));
            assert!(*store.failed().borrow());
        }
        // Nothing is tried again, even when the disk is well.
        fail(&disk, false);
        let operations = disk.operations();
        assert_eq!(submit(50).unwrap().await, Err(StoreClosed));
        assert_eq!(store.barrier().await, Err(StoreClosed));
        assert_eq!(store.commit_number(), 1);
        store.close().await;
        assert_eq!(disk.operations(), operations, "the writer stopped");
        let again = open(&disk.power_loss(1)).unwrap();
        assert!(again.get(Table::Grants, &[1]).unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r9_a_full_disk_refuses_growth_and_takes_settles() {
    let disk = FaultDisk::new();
    let made = open(&disk).unwrap();
    // From the store's first look on: it does not look at every write.
    disk.set_cap(Some(disk.taken_bytes() + (140 << 20)));
    let store = start(made, 0, 16 << 20);
    let body = vec![5; 256 << 10];
    let mut rows = 0u32;
    let refused = loop {
        let op = put(Table::Messages, &rows.to_be_bytes(), &body);
        match submit(&store, WriteClass::Growth, vec![op]) {
            Ok(ticket) => assert!(ticket.await.is_ok(), "an admitted write found the disk full"),
            Err(refused) => break refused,
        }
        rows += 1;
        assert!(rows < 2000, "growth is never refused");
    };
    assert_eq!(refused, Refused::DiskFull);
    let left = disk.free_bytes().unwrap();
    for n in 0..rows {
        let ops = vec![
            RowOp::Delete { table: Table::Messages, key: n.to_be_bytes().to_vec() },
            put(Table::Grants, &n.to_be_bytes(), b"settled"),
        ];
        submit(&store, WriteClass::Reserve, ops).unwrap().await.unwrap();
    }
    assert!(!*store.failed().borrow());
    println!(
        "growth refused after {rows} rows of 256 KiB with {left} bytes free; {} after all were \
         deleted",
        disk.free_bytes().unwrap()
    );
    store.close().await;
}

/// Of eight bytes that are easy to find in a file.
fn known_key(n: u64) -> [u8; 8] {
    (u64::from_be_bytes(*b"key\0\0\0\0\0") + n).to_be_bytes()
}

fn known_rows() -> Model {
    let row = |n: u64| {
        let len = [3, 90, 400, 1500, 6000][n as usize % 5];
        ((TABLES[n as usize % 3], known_key(n * 2).to_vec()), vec![n as u8; len])
    };
    (0..240).map(row).collect()
}

#[derive(Debug, Default)]
struct Found {
    not_opened: u32,
    unseen: u32,
    corrupt: u32,
    damaged: u32,
    write_failed: u32,
}

/// Reads everything in every way; a wrong value or a wrong absence panics.
fn read_all(store: &OpenStore, model: &Model, flip: u64) -> (u32, u32) {
    let (mut corrupt, mut damaged) = (0, 0);
    let mut count = |error: ReadError| match error {
        ReadError::Corrupt(_) => corrupt += 1,
        ReadError::Damaged { .. } => damaged += 1,
        other => panic!("flip {flip}: {other}"),
    };
    for ((table, key), value) in model {
        match store.get(*table, key) {
            Ok(Some(row)) => assert!(row.tag == 1 && row.bytes == value[..], "flip {flip}: value"),
            Ok(None) => panic!("flip {flip}: a row is said to be absent"),
            Err(error) => count(error),
        }
        let mut absent = key.clone();
        absent[7] += 1;
        match store.get(*table, &absent) {
            Ok(found) => assert_eq!(found, None, "flip {flip}"),
            Err(error) => count(error),
        }
    }
    for table in TABLES {
        let want = || model.iter().filter(|((of, _), _)| *of == table);
        let start = known_key(200);
        for from in [Bound::Unbounded, Bound::Included(&start[..])] {
            match store.scan(table, from, Bound::Unbounded, usize::MAX) {
                Ok(rows) => {
                    let broken = rows.iter().filter(|(_, row)| row.is_err()).count();
                    let sound: BTreeMap<_, _> =
                        rows.into_iter().filter_map(|(key, row)| Some((key, row.ok()?))).collect();
                    let is_in = |key: &[u8]| from == Bound::Unbounded || key >= &start[..];
                    let missing = want()
                        .filter(|((_, key), _)| is_in(key) && !sound.contains_key(key))
                        .count();
                    assert!(missing <= broken, "flip {flip}: a scan leaves out a row");
                    for (key, row) in sound {
                        let value = model.get(&(table, key)).expect("a row that was put");
                        assert!(row.bytes == value[..], "flip {flip}: a wrong value in a scan");
                    }
                }
                Err(error) => count(error),
            }
        }
    }
    (corrupt, damaged)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_gives_corrupt_or_a_refusal_never_a_wrong_answer() {
    const FLIPS: u64 = 200;
    let disk = FaultDisk::new();
    let store = start(open(&disk).unwrap(), 0, 0);
    let model = known_rows();
    let ops = model.iter().map(|((table, key), value)| put(*table, key, value)).collect();
    submit(&store, WriteClass::Growth, ops).unwrap().await.unwrap();
    store.close().await;
    let image = disk.image();
    // Bytes that say something, so that flips are not wasted on free pages; and every other flip
    // in a key, where it misleads searches.
    let filled: Vec<usize> = (0..image.len()).filter(|at| image[*at] != 0).collect();
    let keys: Vec<usize> = (0..image.len()).filter(|at| image[*at..].starts_with(b"key")).collect();
    let mut random = Xorshift::new(7);
    let mut found = Found::default();
    for flip in 0..FLIPS {
        let disk = FaultDisk::with_image(image.clone());
        let at = match flip % 2 {
            0 => filled[random.below(filled.len() as u64) as usize],
            _ => keys[random.below(keys.len() as u64) as usize] + random.below(8) as usize,
        };
        disk.flip(at, 1 << random.below(8));
        let Ok(open) = open(&disk) else {
            found.not_opened += 1;
            continue;
        };
        match read_all(&open, &model, flip) {
            (0, 0) => found.unseen += 1,
            (_, 0) => found.corrupt += 1,
            _ => found.damaged += 1,
        }
        let store = start(open, 1, 0);
        let write = put(Table::Messages, &flip.to_be_bytes(), b"new");
        let write = submit(&store, WriteClass::Growth, vec![write]).unwrap().await;
        assert_eq!(write.is_err(), *store.failed().borrow());
        found.write_failed += u32::from(write.is_err());
        store.close().await;
    }
    println!("{FLIPS} flipped bits: {found:?}");
    assert!(found.corrupt > 20, "{found:?}");
}
