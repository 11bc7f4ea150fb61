//! The greeting at the start of each connection: who is there, of which cluster, and what it
//! speaks. Whoever connects says it first.

use super::Class;
use crate::base::ids::{Boot, NodeId};
use crate::base::limits;
use crate::base::seams::Stream;
use serde::{Deserialize, Serialize};
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The oldest and the newest protocol that this release speaks.
const PROTOCOLS: (u16, u16) = (1, 1);
/// What a greeting begins with.
const MAGIC: [u8; 4] = *b"TTLA";

/// What each end says of itself. Only appended to: an older release skips what it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The oldest protocol that it speaks.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
    /// The hash of the cluster's first layout.
    pub cluster: [u8; 32],
    /// The node.
    pub node: NodeId,
    /// Its boot.
    pub boot: Boot,
    /// What the connection is for: whoever connects decides.
    pub class: Class,
}

/// What a node says of itself on all its connections.
#[derive(Clone, Copy, Debug)]
pub struct Myself {
    /// The hash of the cluster's first layout.
    pub cluster: [u8; 32],
    /// This node.
    pub node: NodeId,
    /// Its boot.
    pub boot: Boot,
}

/// Why a far end is not talked to.
#[derive(Debug, thiserror::Error)]
pub enum Unwelcome {
    /// It went away.
    #[error("the connection broke during the greeting: {0}")]
    Broken(#[from] io::Error),
    /// It took too long.
    #[error("no greeting came in time")]
    Slow,
    /// It does not speak our language at all.
    #[error("what came is no greeting")]
    Garbled,
    /// It speaks other versions of it.
    #[error("it speaks protocols {oldest} to {newest}, this node others")]
    Protocol {
        /// The oldest that it speaks.
        oldest: u16,
        /// The newest.
        newest: u16,
    },
    /// It is of another cluster.
    #[error("it belongs to another cluster")]
    Cluster,
    /// It says that it is another node than its certificate shows, or than was looked for.
    #[error("it says that it is node {said}, and is to be node {is}")]
    Identity {
        /// What it says.
        said: NodeId,
        /// What it has to be.
        is: NodeId,
    },
    /// It is this node itself, or has its identity.
    #[error("it has this node's own identity")]
    Own,
}

impl Myself {
    fn greeting(&self, class: Class) -> Greeting {
        let Self { cluster, node, boot } = *self;
        let (oldest, newest) = PROTOCOLS;
        Greeting { oldest, newest, cluster, node, boot, class }
    }

    /// The connecting end. `is` is the node that it has to be.
    ///
    /// # Errors
    /// [`Unwelcome`].
    pub async fn greet(
        &self,
        stream: &mut dyn Stream,
        class: Class,
        is: NodeId,
    ) -> Result<Greeting, Unwelcome> {
        let both = async {
            write(stream, &self.greeting(class)).await?;
            read(stream).await
        };
        let theirs = in_time(both).await?;
        self.judge(&theirs, Some(is))?;
        Ok(theirs)
    }

    /// The accepting end. `shown` is the node that its certificate names; `None` without TLS.
    ///
    /// # Errors
    /// [`Unwelcome`].
    pub async fn welcome(
        &self,
        stream: &mut dyn Stream,
        shown: Option<NodeId>,
    ) -> Result<Greeting, Unwelcome> {
        // It is answered whatever it said, so that both ends know what is wrong.
        let both = async {
            let theirs = read(stream).await?;
            write(stream, &self.greeting(theirs.class)).await?;
            Ok(theirs)
        };
        let theirs = in_time(both).await?;
        self.judge(&theirs, shown)?;
        Ok(theirs)
    }

    fn judge(&self, theirs: &Greeting, is: Option<NodeId>) -> Result<(), Unwelcome> {
        let Greeting { oldest, newest, node: said, .. } = *theirs;
        if oldest > PROTOCOLS.1 || newest < PROTOCOLS.0 {
            return Err(Unwelcome::Protocol { oldest, newest });
        }
        if theirs.cluster != self.cluster {
            return Err(Unwelcome::Cluster);
        }
        if let Some(is) = is
            && is != said
        {
            return Err(Unwelcome::Identity { said, is });
        }
        if said == self.node {
            return Err(Unwelcome::Own);
        }
        Ok(())
    }
}

async fn in_time(
    both: impl Future<Output = Result<Greeting, Unwelcome>>,
) -> Result<Greeting, Unwelcome> {
    tokio::time::timeout(limits::PEER_GREETING_TIME, both).await.map_err(|_| Unwelcome::Slow)?
}

async fn write(stream: &mut dyn Stream, greeting: &Greeting) -> Result<(), Unwelcome> {
    stream.write_all(&encode(greeting)).await?;
    stream.flush().await?;
    Ok(())
}

fn encode(greeting: &Greeting) -> Vec<u8> {
    let body = postcard::to_stdvec(greeting).expect("a greeting always encodes");
    let length = u32::try_from(body.len()).expect("a greeting is short");
    [&MAGIC[..], &length.to_be_bytes(), &body].concat()
}

async fn read(stream: &mut dyn Stream) -> Result<Greeting, Unwelcome> {
    let mut magic = [0; MAGIC.len()];
    stream.read_exact(&mut magic).await?;
    let length = stream.read_u32().await? as usize;
    if magic != MAGIC || length > limits::PEER_GREETING_BYTES_MAX {
        return Err(Unwelcome::Garbled);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let (greeting, _later) = postcard::take_from_bytes(&body).map_err(|_| Unwelcome::Garbled)?;
    Ok(greeting)
}

#[cfg(test)]
#[path = "greeting_tests.rs"]
mod tests;
