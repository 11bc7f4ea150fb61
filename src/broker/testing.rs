//! What tests of the broker begin with.
#![allow(clippy::unwrap_used)]

use super::{Broker, BrokerParts, BrokerSettings, Caller, Credential, Refusal};
use crate::base::clock::ServiceClock;
use crate::base::hlc::HlcClock;
use crate::base::ids::{Boot, Generation, NodeId};
use crate::base::rng::SystemRng;
use crate::base::seams::{Clock, Rng, Spawn, SystemSpawn};
use crate::layout::members::Layout;
use crate::layout::placement;
use crate::metadata::Registers;
use crate::replication::coordinator::{Coordinator, CoordinatorParts};
use crate::replication::lapses::Lapses;
use crate::replication::peers::Peers;
use crate::replication::replica::{Replica, ReplicaParts};
use crate::security::{ClusterSecret, Keys, Passwords, ReceiptSealer};
use crate::store::{Store, scratch};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;

/// Where tests call from.
pub(crate) const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// Another place.
pub(crate) const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
/// The password of every user that `user` makes.
pub(crate) const PASSWORD: &str = "correct horse";

/// A clock that tests move. Boottime and wall time run alike.
pub(crate) struct TestClock(AtomicU64);

impl TestClock {
    pub(crate) fn advance_ms(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn wall_ms(&self) -> u64 {
        1_700_000_000_000 + self.0.load(Ordering::Relaxed)
    }
    fn boottime_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn kernel_boot_id(&self) -> u64 {
        1
    }
}

/// A broker with open registration and no configured administrator, over an empty store.
pub(crate) fn broker() -> Arc<Broker> {
    broker_and_clock().0
}

/// The same, with its clock.
pub(crate) fn broker_and_clock() -> (Arc<Broker>, Arc<TestClock>) {
    broker_with(BrokerSettings { registration_open: true, admin_configured: false })
}

/// The same, with other settings.
pub(crate) fn broker_with(settings: BrokerSettings) -> (Arc<Broker>, Arc<TestClock>) {
    let clock = Arc::new(TestClock(AtomicU64::new(1_000_000)));
    let rng = Arc::new(SystemRng);
    let keys = Arc::new(Keys::derive(&ClusterSecret::generate(&SystemRng), "test"));
    let store = scratch();
    let (registers, _) = Registers::open(store.clone()).unwrap();
    let coordinator = coordinator(store, &registers, &keys, &(clock.clone() as Arc<dyn Clock>));
    let broker = Broker::new(BrokerParts {
        registers,
        receipts: ReceiptSealer::new(&keys, ME, Boot(1), &SystemRng),
        stopping: CancellationToken::new(),
        keys,
        passwords: Passwords::new(4, Arc::new(SystemSpawn), rng.clone()),
        clock: clock.clone(),
        rng,
        coordinator,
        settings,
    });
    (Arc::new(broker), clock)
}

const ME: NodeId = NodeId(1);

fn coordinator(
    store: Store,
    registers: &Arc<Registers>,
    keys: &Arc<Keys>,
    clock: &Arc<dyn Clock>,
) -> Arc<Coordinator> {
    let spawn: Arc<dyn Spawn> = Arc::new(SystemSpawn);
    let rng: Arc<dyn Rng> = Arc::new(SystemRng);
    let layout = Layout::alone(ME);
    let service = Arc::new(ServiceClock::resume(clock.clone(), None));
    let lapses = Lapses::new(service.clone());
    let replica = Replica::new(ReplicaParts {
        node: ME,
        boot: Boot(1),
        store,
        catalog: registers.catalog().clone(),
        hlc: Arc::new(HlcClock::new(clock.clone(), ME, None)),
        service,
        spawn,
        lapses,
        view: placement::view_of(&layout, Generation([0; 16]), 1).id(),
        layout: layout.clone(),
        is_shared: false,
        // Few, so that streams come and go.
        streams_max: 2,
    });
    let (keys, clock) = (keys.clone(), clock.clone());
    let peers = Peers::new();
    Coordinator::new(CoordinatorParts { replica, peers, layout, keys, clock, rng })
}

/// Registers a user. The first one of a broker becomes its administrator.
pub(crate) async fn user(broker: &Broker, name: &str) -> Caller {
    let entry = broker.register(None, HERE, name, PASSWORD).await.unwrap();
    let (name, _) = broker.catalog.user_by_id(entry.value.id).unwrap();
    let admin = entry.value.admin;
    Caller {
        user: entry.value.id,
        name,
        admin,
        credential: Credential::Password,
        origin: HERE.into(),
    }
}

/// Logs a user in.
pub(crate) async fn log_in(broker: &Broker, name: &str) -> Caller {
    let new = broker.log_in(name, PASSWORD, 600, HERE).await.unwrap();
    broker.authenticate_bearer(new.token.as_str(), HERE).unwrap()
}

/// The first field that is wrong.
pub(crate) fn fault(refusal: &Refusal) -> &str {
    match refusal {
        Refusal::Invalid(faults) => &faults[0].field,
        other => panic!("{other}"),
    }
}
