//! What a data directory remembers of its node: who it is, and how far it came.

use crate::base::clock::ServiceStamp;
use crate::base::hlc::Hlc;
use crate::base::ids::{Boot, NodeId};
use crate::store::{Row, RowOp, Table};
use serde::{Deserialize, Serialize};

const TAG: u8 = 1;
const IDENTITY: &[u8] = b"identity";
const STAMP: &[u8] = b"stamp";

/// Minted with the directory: an empty disk is a new node [R1].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// Names the cluster secret its data is sealed under.
    pub secret_id: u32,
    /// The cluster's name when the directory was made: it salts every key.
    pub cluster_name: String,
}

/// Written with every commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// How often the node was started.
    pub boot: Boot,
    /// Commits so far [R4].
    pub commit: u64,
    /// The service clock [F11].
    pub service: ServiceStamp,
    /// The hybrid clock.
    pub hlc: Hlc,
}

/// A row of this file is damaged: the node cannot know who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the data folder's record of its own node is damaged; set the folder aside and start anew")]
pub struct Damaged;

impl Identity {
    /// Where it is stored.
    pub const KEY: &'static [u8] = IDENTITY;

    /// The write that stores it.
    #[must_use]
    pub fn put(&self) -> RowOp {
        put(IDENTITY, self)
    }

    /// Reads it back.
    ///
    /// # Errors
    /// [`Damaged`].
    pub fn read(row: &Row) -> Result<Self, Damaged> {
        postcard::from_bytes(&row.bytes).map_err(|_| Damaged)
    }
}

impl Stamp {
    /// Where it is stored.
    pub const KEY: &'static [u8] = STAMP;

    /// The write that stores it.
    #[must_use]
    pub fn put(&self) -> RowOp {
        put(STAMP, self)
    }

    /// Reads it back.
    ///
    /// # Errors
    /// [`Damaged`].
    pub fn read(row: &Row) -> Result<Self, Damaged> {
        postcard::from_bytes(&row.bytes).map_err(|_| Damaged)
    }
}

fn put(key: &[u8], row: &impl Serialize) -> RowOp {
    let bytes = postcard::to_stdvec(row).expect("a row always encodes");
    RowOp::Put { table: Table::Node, key: key.to_vec(), tag: TAG, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_identity_and_stamp() {
        let identity = Identity { node: NodeId(1), secret_id: 2, cluster_name: "t".into() };
        let RowOp::Put { bytes, .. } = identity.put() else { panic!("a put") };
        assert_eq!(bytes, [1, 2, 1, b't']);
        let service = ServiceStamp { service_ms: 3, boottime_ms: 4, kernel_boot_id: 5 };
        let hlc = Hlc { wall_ms: 6, logical: 7, node: NodeId(1) };
        let stamp = Stamp { boot: Boot(1), commit: 2, service, hlc };
        let RowOp::Put { bytes, .. } = stamp.put() else { panic!("a put") };
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 1]);
    }
}
