//! The TLS handshake, bounded in time.

use crate::base::seams::Stream;
use std::io;
use std::time::Duration;

/// Shakes hands.
///
/// # Errors
/// As TLS says, or `TimedOut`.
pub(super) async fn shake_hands(
    acceptor: &tokio_rustls::TlsAcceptor,
    stream: Box<dyn Stream>,
    time: Duration,
) -> io::Result<Box<dyn Stream>> {
    let tls = tokio::time::timeout(time, acceptor.accept(stream)).await??;
    Ok(Box::new(tls))
}
