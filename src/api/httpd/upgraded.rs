//! Connections that went over to another protocol: they keep their place among the connections,
//! are waited for when the listener drains, and are cut with the rest.

use super::connection::Door;
use std::future::Future;
use std::sync::Arc;

/// In the data of each HTTP/1.1 request: whoever upgrades its connection runs it with this.
#[derive(Clone)]
pub struct Upgrades {
    pub(super) door: Arc<Door>,
    /// The connection's place, and the sign that its bytes are no header.
    pub(super) hold: Arc<dyn Send + Sync>,
}

impl Upgrades {
    /// Serves the upgraded connection in a task of its own.
    pub fn serve(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let (cut, hold) = (self.door.cut.clone(), self.hold.clone());
        let task = async move {
            let _hold = hold;
            tokio::select! {
                () = connection => {}
                () = cut.cancelled() => {}
            }
        };
        self.door.spawn.task(Box::pin(self.door.tasks.track_future(task)));
    }

    /// Runs a piece of its work to the end, whatever becomes of the connection.
    pub fn run(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.door.spawn.task(Box::pin(self.door.tasks.track_future(work)));
    }
}
