//! Whether a daemon answers.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const REQUEST: &[u8] = b"GET /api/v1/health HTTP/1.1\r\nhost: daemon\r\nconnection: close\r\n\r\n";

/// Says whether an HTTP server at `daemon` answers a request, whatever it says, within `limit`.
pub async fn answers(daemon: SocketAddr, limit: Duration) -> bool {
    attempt(daemon, limit).await.is_ok()
}

/// Asks once. An error says how far it came.
pub(super) async fn attempt(daemon: SocketAddr, limit: Duration) -> Result<(), String> {
    let mut step = "connect";
    let asked = tokio::time::timeout(limit, ask(daemon, &mut step)).await;
    match asked {
        Ok(Ok(first)) if &first == b"HTTP" => Ok(()),
        Ok(Ok(first)) => Err(format!("{step}: not HTTP but {first:?}")),
        Ok(Err(error)) => Err(format!("{step}: {error}")),
        Err(_elapsed) => Err(format!("{step}: nothing for {} ms", limit.as_millis())),
    }
}

/// Returns the first bytes of the answer.
async fn ask(daemon: SocketAddr, step: &mut &'static str) -> std::io::Result<[u8; 4]> {
    let mut stream = TcpStream::connect(daemon).await?;
    *step = "write";
    stream.write_all(REQUEST).await?;
    *step = "read";
    let mut first = [0; 4];
    stream.read_exact(&mut first).await?;
    Ok(first)
}
