//! Whether a daemon answers.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const REQUEST: &[u8] = b"GET /api/v1/health HTTP/1.1\r\nhost: daemon\r\nconnection: close\r\n\r\n";

/// Says whether an HTTP server at `daemon` answers a request, whatever it says, within `limit`.
pub async fn answers(daemon: SocketAddr, limit: Duration) -> bool {
    let asked = tokio::time::timeout(limit, ask(daemon)).await;
    matches!(asked, Ok(Ok(first)) if &first == b"HTTP")
}

/// Returns the first bytes of the answer.
async fn ask(daemon: SocketAddr) -> std::io::Result<[u8; 4]> {
    let mut stream = TcpStream::connect(daemon).await?;
    stream.write_all(REQUEST).await?;
    let mut first = [0; 4];
    stream.read_exact(&mut first).await?;
    Ok(first)
}
