//! Listens in one slot.

use std::{
    ffi::OsString,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket,
    sockopt::{BindToDevice, ReuseAddr},
};
use tarn_types::EgressPolicy;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    time::timeout,
};

use super::{
    forward::{Forwarder, Transport, receive_framed, send_framed},
    message::{Judgement, LONGEST_UDP, judge, refused},
};
use crate::plan::{GATEWAY, RESOLVER_PORT};

/// Questions over UDP that one sandbox has open; more wait in its socket, then are lost.
const MOST_DATAGRAMS: usize = 64;
/// Connections that one sandbox has open.
const MOST_CONNECTIONS: usize = 8;
/// How long a connection may be idle (RFC 7766 §6.2.3 asks for seconds).
const IDLE: Duration = Duration::from_secs(10);
/// Receive errors in a row after which the interface must be gone.
const MOST_ERRORS: u32 = 100;

/// The resolver's sockets in one slot.
#[derive(Debug)]
pub(crate) struct Ears {
    udp: UdpSocket,
    tcp: TcpListener,
    /// The only address that can be heard here; the rules see to it, this looks again.
    sandbox: Ipv4Addr,
}

// === impl Ears ===

impl Ears {
    /// Opens the sockets on a slot's interface. Needs a runtime around it.
    pub(crate) fn open(interface: &str, sandbox: Ipv4Addr) -> io::Result<Self> {
        let udp = bound(interface, SockType::Datagram)?;
        let tcp = bound(interface, SockType::Stream)?;
        listen(&tcp, Backlog::new(16)?)?;
        Ok(Self {
            udp: UdpSocket::from_std(udp.into())?,
            tcp: TcpListener::from_std(tcp.into())?,
            sandbox,
        })
    }
}

/// Answers a slot's sandbox until dropped; open questions end with it.
pub(crate) async fn serve(
    ears: Ears,
    policy: watch::Receiver<EgressPolicy>,
    forwarder: Arc<Forwarder>,
) {
    let mut datagrams = FuturesUnordered::new();
    let mut connections = FuturesUnordered::new();
    let mut buffer = vec![0; LONGEST_UDP + 1];
    let mut errors = 0;
    loop {
        tokio::select! {
            received = ears.udp.recv_from(&mut buffer), if datagrams.len() < MOST_DATAGRAMS => {
                match received {
                    Ok((size, from)) if from.ip() == IpAddr::V4(ears.sandbox) => {
                        errors = 0;
                        if size <= LONGEST_UDP {
                            let query = buffer[..size].to_vec();
                            let (udp, policy) = (&ears.udp, &policy);
                            datagrams.push(answer_datagram(udp, query, from, policy, &forwarder));
                        }
                    }
                    Ok(_) => {}
                    Err(_) => errors += 1,
                }
            }
            Some(()) = datagrams.next(), if !datagrams.is_empty() => {}
            accepted = ears.tcp.accept(), if connections.len() < MOST_CONNECTIONS => {
                match accepted {
                    Ok((stream, from)) if from.ip() == IpAddr::V4(ears.sandbox) => {
                        errors = 0;
                        connections.push(answer_connection(stream, &policy, &forwarder));
                    }
                    Ok(_) => {}
                    Err(_) => errors += 1,
                }
            }
            Some(()) = connections.next(), if !connections.is_empty() => {}
        }
        if errors > MOST_ERRORS {
            tracing::warn!(address = %ears.sandbox, "resolver stopped: its socket keeps failing");
            return;
        }
    }
}

async fn answer_datagram(
    socket: &UdpSocket,
    query: Vec<u8>,
    from: SocketAddr,
    policy: &watch::Receiver<EgressPolicy>,
    forwarder: &Forwarder,
) {
    if let Some(answer) = answer(&query, Transport::Udp, policy, forwarder).await {
        // Lost like any datagram; the sandbox asks again.
        drop(socket.send_to(&answer, from).await);
    }
}

/// One question at a time, as long as questions come.
async fn answer_connection(
    mut stream: TcpStream,
    policy: &watch::Receiver<EgressPolicy>,
    forwarder: &Forwarder,
) {
    while let Ok(Ok(query)) = timeout(IDLE, receive_framed(&mut stream)).await {
        let Some(answer) = answer(&query, Transport::Tcp, policy, forwarder).await else { return };
        if !matches!(timeout(IDLE, send_framed(&mut stream, &answer)).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn answer(
    query: &[u8],
    transport: Transport,
    policy: &watch::Receiver<EgressPolicy>,
    forwarder: &Forwarder,
) -> Option<Vec<u8>> {
    let now = policy.borrow().clone();
    match judge(query, &now) {
        Judgement::Ignore => None,
        Judgement::Answer(answer) => Some(answer),
        Judgement::Forward => {
            let answer = forwarder.ask(query, transport).await;
            // The policy may have been closed while the upstream was thinking.
            let still_open = policy.borrow().allow_internet_access;
            Some(if still_open { answer } else { refused(query) })
        }
    }
}

fn bound(interface: &str, kind: SockType) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, kind, flags, None)?;
    setsockopt(&fd, BindToDevice, &OsString::from(interface))?;
    if kind == SockType::Stream {
        // Connections of an earlier life in TIME_WAIT must not keep us from listening.
        setsockopt(&fd, ReuseAddr, &true)?;
    }
    let [a, b, c, d] = GATEWAY.octets();
    bind(fd.as_raw_fd(), &SockaddrIn::new(a, b, c, d, RESOLVER_PORT))?;
    Ok(fd)
}
