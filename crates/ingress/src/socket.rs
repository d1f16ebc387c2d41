//! How every socket of the ingress is set up.

use std::{io, time::Duration};

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// Sets the socket up: no delay for small writes, and probes that notice a vanished peer.
pub(crate) fn prepare(stream: &TcpStream) {
    let set = || -> io::Result<()> {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
        sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
        sockopt::set_tcp_keepcnt(stream, 4)?;
        Ok(())
    };
    if let Err(error) = set() {
        tracing::debug!(%error, "a socket option could not be set");
    }
}
