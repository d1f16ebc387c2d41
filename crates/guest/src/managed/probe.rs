//! Asking a process of the sandbox whether it is well.
//!
//! A server may listen on either loopback address alone (`localhost` is ::1 for some), so the
//! second is tried when the first does not accept. The connection is never kept: what is asked is
//! whether a *new* client would be served.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tarn_daemon_api::{HealthCheckConfig, HealthCheckType};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::tunnel::is_its_own_peer;

const ADDRESSES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

const REFUSED: io::ErrorKind = io::ErrorKind::ConnectionRefused;

/// `HTTP/1.1 200` and the blank after it.
const STATUS_BYTES: usize = 13;

/// A server that is cut off in its answer may complain, so a small answer is taken whole.
const MAX_DRAIN: Duration = Duration::from_millis(50);
const MAX_DRAIN_BYTES: usize = 64 << 10;

/// Performs one check; the caller bounds its time.
pub(super) async fn probe(check: &HealthCheckConfig) -> Result<(), String> {
    let stream = connect(check.port).await?;
    match check.kind {
        HealthCheckType::Tcp => Ok(()),
        HealthCheckType::Http => {
            let path = check.path.as_deref().unwrap_or("/");
            get(stream, check.port, path).await
        }
    }
}

async fn connect(port: u16) -> Result<TcpStream, String> {
    let mut causes = Vec::new();
    for address in ADDRESSES {
        match TcpStream::connect(SocketAddr::new(address, port)).await {
            Ok(stream) if is_its_own_peer(&stream) => {
                causes.push(format!("{address}: {}", describe(&REFUSED.into())));
            }
            Ok(stream) => return Ok(stream),
            Err(error) => causes.push(format!("{address}: {}", describe(&error))),
        }
    }
    Err(format!("cannot connect to port {port} ({})", causes.join("; ")))
}

async fn get(mut stream: TcpStream, port: u16, path: &str) -> Result<(), String> {
    let failed = |error: io::Error| format!("GET {path} on port {port}: {}", describe(&error));
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nUser-Agent: tarnd-health-check\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut head = [0; STATUS_BYTES];
    stream.read_exact(&mut head).await.map_err(failed)?;
    let status = parse_status(&head)
        .ok_or_else(|| format!("GET {path} on port {port}: the answer is not HTTP"))?;
    drop(tokio::time::timeout(MAX_DRAIN, drain(&mut stream)).await);
    match status {
        200..400 => Ok(()),
        status => Err(format!("GET {path} on port {port}: status {status}")),
    }
}

async fn drain(stream: &mut TcpStream) {
    let mut waste = vec![0; 4 << 10];
    let mut total = 0;
    while let Ok(read) = stream.read(&mut waste).await {
        total += read;
        if read == 0 || total > MAX_DRAIN_BYTES {
            return;
        }
    }
}

/// Reads `HTTP/1.x NNN` and the blank or line end after it.
fn parse_status(head: &[u8; STATUS_BYTES]) -> Option<u16> {
    let text = std::str::from_utf8(head).ok()?.strip_prefix("HTTP/1.")?;
    let (minor, rest) = (text.as_bytes().first()?, text.get(1..)?);
    let digits = rest.strip_prefix(' ')?.get(..3)?;
    let ended = matches!(head.last()?, b' ' | b'\r' | b'\n');
    if !minor.is_ascii_digit() || !ended {
        return None;
    }
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn describe(error: &io::Error) -> String {
    let kind = error.kind();
    if kind == REFUSED {
        "connection refused".to_owned()
    } else if kind == io::ErrorKind::UnexpectedEof {
        "closed before an answer".to_owned()
    } else {
        error.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpSocket};

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn a_status_line_is_parsed() {
        let table: &[(&[u8; STATUS_BYTES], Option<u16>)] = &[
            (b"HTTP/1.1 200 ", Some(200)),
            (b"HTTP/1.0 404\r", Some(404)),
            (b"HTTP/1.1 2000", None),
            (b"HTTP/2.0 200 ", None),
            (b"HTTP/1.x 200 ", None),
            (b"HTTP/1.1 +20 ", None),
            (b"SSH-2.0-OpenS", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ];
        for (head, status) in table {
            assert_eq!(parse_status(head), *status, "{head:?}");
        }
    }

    fn config(kind: HealthCheckType, port: u16) -> HealthCheckConfig {
        HealthCheckConfig {
            kind,
            port,
            path: Some("/h?a=1".to_owned()),
            initial_delay_ms: 0,
            interval_ms: 10,
            timeout_ms: 500,
            failure_threshold: 3,
        }
    }

    /// Takes a port at both addresses; where nobody listens on it, a caller is refused.
    fn take_port() -> [TcpSocket; 2] {
        for _ in 0..100 {
            let first = TcpSocket::new_v4().expect("a socket");
            first.bind(SocketAddr::new(ADDRESSES[0], 0)).expect("bound");
            let port = first.local_addr().expect("bound").port();
            let second = TcpSocket::new_v6().expect("a socket");
            if second.bind(SocketAddr::new(ADDRESSES[1], port)).is_ok() {
                return [first, second];
            }
        }
        panic!("no port is free at both addresses");
    }

    /// Answers one connection and returns what was asked.
    async fn serve(listener: &TcpListener, answer: &[u8]) -> String {
        let (mut stream, _) = listener.accept().await.expect("accepted");
        let mut asked = vec![0; 1024];
        let count = stream.read(&mut asked).await.expect("a request");
        stream.write_all(answer).await.expect("sent");
        String::from_utf8_lossy(&asked[..count]).into_owned()
    }

    #[tokio::test]
    async fn answers_are_judged_on_either_loopback_address() {
        let table: &[(&[u8], Result<(), &str>)] = &[
            (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Ok(())),
            (b"HTTP/1.0 302 Found\r\n\r\n", Ok(())),
            (b"HTTP/1.1 399\r\n\r\n", Ok(())),
            (b"HTTP/1.1 404 Not Found\r\n\r\n", Err("status 404")),
            (b"HTTP/1.1 503 Busy\r\n\r\n", Err("status 503")),
            (b"HTTP/1.1 101 Switching\r\n\r\n", Err("status 101")),
            (b"SSH-2.0-OpenSSH_9\r\n", Err("not HTTP")),
            (b"", Err("closed before an answer")),
        ];
        for listening in [0, 1] {
            let mut sockets: Vec<_> = take_port().into();
            let listener = sockets.remove(listening).listen(8).expect("listens");
            let check = config(HealthCheckType::Http, listener.local_addr().expect("bound").port());
            for (answer, expected) in table {
                let both = async { tokio::join!(probe(&check), serve(&listener, answer)) };
                let (outcome, asked) = tokio::time::timeout(PATIENCE, both).await.expect("in time");
                assert!(asked.starts_with("GET /h?a=1 HTTP/1.1\r\nHost: localhost:"), "{asked}");
                match expected {
                    Ok(()) => assert_eq!(outcome, Ok(()), "{answer:?}"),
                    Err(part) => {
                        let text = outcome.expect_err("unwell");
                        assert!(text.contains(part), "{text}");
                    }
                }
            }
            assert_eq!(probe(&config(HealthCheckType::Tcp, check.port)).await, Ok(()));
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_told_with_both_addresses() {
        let taken = take_port();
        let port = taken[0].local_addr().expect("bound").port();
        for kind in [HealthCheckType::Tcp, HealthCheckType::Http] {
            let text = probe(&config(kind, port)).await.expect_err("nobody listens");
            assert!(text.contains("127.0.0.1: connection refused"), "{text}");
            assert!(text.contains("::1: "), "{text}");
        }
    }

    /// A port of the kernel's choice for outgoing connections, which chooses it now and then for
    /// the end of ours, so that the two ends are one.
    #[tokio::test]
    async fn a_connection_to_itself_is_told() {
        let own = TcpSocket::new_v4().expect("a socket");
        own.bind(SocketAddr::new(ADDRESSES[0], 0)).expect("bound");
        let address = own.local_addr().expect("bound");
        let connected = tokio::time::timeout(PATIENCE, own.connect(address)).await;
        assert!(is_its_own_peer(&connected.expect("in time").expect("connected")));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
        let other = TcpStream::connect(listener.local_addr().expect("bound")).await;
        assert!(!is_its_own_peer(&other.expect("connected")));
    }
}
