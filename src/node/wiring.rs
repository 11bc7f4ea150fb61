//! Who is connected to whom.

use super::certificate::Freshener;
use super::links::{Links, NodeTasks};
use super::parts::Parts;
use super::running::{Born, Node};
use crate::api::httpd::{Httpd, Options};
use crate::api::{self, Api, Readiness};
use crate::base::limits;
use crate::base::seams::{Listener, Spawn};
use crate::broker::{Broker, BrokerParts, BrokerSettings};
use crate::config::Settings;
use crate::metadata::Registers;
use crate::replication::coordinator::{Coordinator, CoordinatorParts};
use crate::replication::lapses::Lapses;
use crate::replication::replica::{Replica, ReplicaParts};
use crate::security::{Keys, Passwords, ReceiptSealer};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often ended sessions and keys are freed.
const SWEEP_PERIOD: Duration = Duration::from_secs(30);

/// The names under which a client may reach this node.
pub(super) fn hosts(settings: &Settings) -> Vec<String> {
    let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let listen = settings.http.listen.ip();
    let advertised = settings.http.advertise.as_ref().map(|a| a.host.clone());
    let listened = (!listen.is_unspecified()).then(|| listen.to_string());
    for host in [Some(own), listened, advertised].into_iter().flatten() {
        // A machine may have a name that fits no certificate; clients cannot use it either.
        let fits = rustls_pki_types::ServerName::try_from(host.as_str()).is_ok();
        if fits && !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

/// Builds the rooms from the bottom up.
pub(super) fn assemble(
    parts: &Parts,
    settings: &Settings,
    keys: Arc<Keys>,
    born: Born,
    registers: Arc<Registers>,
    listener: &dyn Listener,
    links: Links,
) -> Node {
    let Born { identity, boot, store, service, hlc } = born;
    let (tasks, workers) = (TaskTracker::new(), CancellationToken::new());
    let stopping = CancellationToken::new();
    let lapses = Lapses::new(service.clone());
    let replica = Replica::new(ReplicaParts {
        node: identity.node,
        boot,
        store: store.clone(),
        catalog: registers.catalog().clone(),
        service,
        hlc,
        spawn: parts.spawn.clone(),
        lapses: lapses.clone(),
        view: links.view(),
        layout: links.layout.clone(),
        is_shared: links.layout.members.len() > 1,
        streams_max: limits::STREAMS_LOADED_MAX,
    });
    let peers_at = links.listens_at();
    let own = NodeTasks { spawn: parts.spawn.clone(), tasks: tasks.clone(), stop: workers.clone() };
    let coordinator = coordinate(parts, links, replica, &keys, Arc::new(own));
    let receipts = ReceiptSealer::new(&keys, identity.node, boot, &*parts.rng);
    let cost = parts.password_cost_log2;
    let broker = Arc::new(Broker::new(BrokerParts {
        registers: registers.clone(),
        keys,
        passwords: Passwords::new(cost, parts.spawn.clone(), parts.rng.clone()),
        clock: parts.clock.clone(),
        rng: parts.rng.clone(),
        coordinator: coordinator.clone(),
        receipts,
        stopping: stopping.clone(),
        settings: BrokerSettings {
            registration_open: settings.registration_open(),
            admin_configured: settings.auth.first_admin.is_some(),
        },
    }));
    let work = |task| spawn_worker(parts, &tasks, &workers, task);
    work(Box::pin(lapses.run()));
    work(Box::pin(broker.clone().run_deletions()));
    work(Box::pin(broker.clone().run_upkeep()));
    work(Box::pin(sweep(broker.clone())));
    work(Box::pin(Node::keep_time(store.clone(), identity.clone(), workers.clone())));
    let (ready, _) = watch::channel(Readiness::Starting("the node is starting".into()));
    Node {
        id: identity.node,
        boot,
        local: listener.local_addr(),
        store,
        broker,
        registers,
        coordinator,
        peers_at,
        ready,
        stopping,
        workers,
        look: None,
        tasks,
        server: TaskTracker::new(),
    }
}

/// Joins this node's replica with those of the other members.
fn coordinate(
    parts: &Parts,
    links: Links,
    replica: Arc<Replica>,
    keys: &Arc<Keys>,
    spawn: Arc<dyn Spawn>,
) -> Arc<Coordinator> {
    let coordinator = Coordinator::new(CoordinatorParts {
        replica,
        peers: links.peers(parts, &spawn),
        layout: links.layout.clone(),
        keys: keys.clone(),
        clock: parts.clock.clone(),
        rng: parts.rng.clone(),
    });
    links.serve(&coordinator, &spawn);
    coordinator
}

type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs a worker until it ends or the node's workers are told to.
fn spawn_worker(parts: &Parts, tasks: &TaskTracker, stop: &CancellationToken, task: Task) {
    let stop = stop.clone();
    let until = async move {
        tokio::select! {
            () = task => {}
            () = stop.cancelled() => {}
        }
    };
    parts.spawn.task(Box::pin(tasks.track_future(until)));
}

/// Worker: frees the records of ended sessions and keys.
async fn sweep(broker: Arc<Broker>) {
    loop {
        tokio::time::sleep(SWEEP_PERIOD).await;
        if let Err(refusal) = broker.sweep().await {
            tracing::warn!(%refusal, "ended sessions have to wait");
        }
    }
}

/// Opens the door.
pub(super) fn serve(
    node: &mut Node,
    parts: &Parts,
    settings: &Settings,
    listener: Box<dyn Listener>,
    fresh: Option<Freshener>,
) {
    let tls = fresh.as_ref().map(Freshener::config);
    if let Some(fresh) = fresh {
        let (look, asked) = mpsc::channel(1);
        node.look = Some(look);
        spawn_worker(parts, &node.tasks, &node.workers, Box::pin(fresh.run(asked)));
    }
    let api = Api {
        broker: node.broker.clone(),
        node: node.id,
        ready: node.ready.subscribe(),
        metrics: parts.metrics.clone(),
        rng: parts.rng.clone(),
        clock: parts.clock.clone(),
        max_body_bytes: settings.http.max_body_bytes,
        cors_origins: settings.http.cors_origins.clone(),
    };
    let serving = Httpd::serve(
        listener,
        tls,
        api::served(api, parts.spawn.clone()),
        Options::default(),
        parts.spawn.clone(),
        node.stopping.clone(),
        settings.shutdown.grace,
    );
    parts.spawn.task(Box::pin(node.server.track_future(serving)));
}
