//! The node's state, for those who run it.

use crate::api::dto::operations::{Liveness, Readiness};
use crate::api::payload::{Answer, Exposition};
use crate::api::problem::Problem;
use crate::api::scope::Here;
use crate::api::{codes, readiness};
use poem_openapi::OpenApi;

/// The handlers at the root.
pub struct Operations;

#[OpenApi]
impl Operations {
    /// Whether the node runs
    #[oai(path = "/livez", method = "get", operation_id = "get_liveness")]
    async fn liveness(&self) -> Answer<Liveness> {
        Answer::ok(Liveness { status: "live".to_owned() })
    }

    /// Whether the node takes requests
    #[oai(path = "/readyz", method = "get", operation_id = "get_readiness")]
    async fn readiness(&self, here: Here) -> Result<Answer<Readiness>, Problem> {
        let now = here.app.ready.borrow().clone();
        let (code, why) = match now {
            readiness::Readiness::Ready => return Ok(Answer::ok(Readiness { ready: true })),
            readiness::Readiness::Starting(why) => (codes::STARTING, why),
            readiness::Readiness::NotReady(why) => (codes::NOT_READY, why),
            readiness::Readiness::NotAMember(why) => (codes::NOT_A_MEMBER, why),
        };
        Err(Problem::new(code, why))
    }

    /// Numbers about the node, in Prometheus' text format
    #[oai(path = "/metrics", method = "get", operation_id = "get_metrics")]
    async fn metrics(&self, here: Here) -> Exposition {
        Exposition((here.app.metrics)())
    }
}
