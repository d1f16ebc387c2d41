//! Asks the upstreams.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tarn_task::{Entropy, OsEntropy};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

use super::message::{LONGEST_UDP, answers, failed, truncated, with_id};
use crate::opened::OpenedNetworks;

/// How long an upstream may think. Resolvers inside ask again after 5 s.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions asked at a time, for all slots together; each is a socket.
const MOST_IN_FLIGHT: usize = 512;
/// Upstreams that are tried for a question.
const MOST_UPSTREAMS: usize = 3;

/// Questions that one asker may have open while more than half of those are in use: whoever has
/// slow names asked must not leave nothing for the others.
const MOST_WHEN_CROWDED: usize = 8;

/// One who asks: counts what it has open.
#[derive(Debug, Default)]
pub(super) struct Asker {
    open: AtomicUsize,
}

/// A question that is open, for as long as it lives.
struct Open<'a>(&'a Asker);

/// How a question came, and so how it is asked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// The upstream resolvers, shared by all slots.
#[derive(Debug)]
pub(crate) struct Forwarder {
    upstreams: Vec<SocketAddr>,
    /// Private networks that may be answered.
    pub(super) opened: OpenedNetworks,
    /// The one that answered last; a dead first one must not slow every question.
    preferred: AtomicUsize,
    in_flight: Semaphore,
}

// === impl Forwarder ===

impl Forwarder {
    /// Makes a forwarder to upstreams in order of preference.
    pub(crate) fn new(mut upstreams: Vec<SocketAddr>, opened: OpenedNetworks) -> Self {
        upstreams.truncate(MOST_UPSTREAMS);
        Self {
            upstreams,
            opened,
            preferred: AtomicUsize::new(0),
            in_flight: Semaphore::new(MOST_IN_FLIGHT),
        }
    }

    /// Returns an upstream's answer, or a failure as an answer. Cancelling drops the question.
    pub(super) async fn ask(&self, query: &[u8], transport: Transport, asker: &Asker) -> Vec<u8> {
        let crowded = self.in_flight.available_permits() < MOST_IN_FLIGHT / 2;
        let open = Open::begin(asker);
        if crowded && open.count() > MOST_WHEN_CROWDED {
            return failed(query);
        }
        let Ok(_permit) = self.in_flight.try_acquire() else { return failed(query) };
        let first = self.preferred.load(Ordering::Relaxed);
        // A lone upstream gets a second chance: UDP loses packets.
        for turn in 0..self.upstreams.len().max(2) {
            let Some(number) = (first + turn).checked_rem(self.upstreams.len()) else { break };
            let upstream = self.upstreams[number];
            let exchange = async {
                match transport {
                    Transport::Udp => over_udp(query, upstream).await,
                    Transport::Tcp => over_tcp(query, upstream).await,
                }
            };
            match timeout(PATIENCE, exchange).await {
                Ok(Ok(answer)) => {
                    self.preferred.store(number, Ordering::Relaxed);
                    return answer;
                }
                Ok(Err(error)) => tracing::debug!(%upstream, %error, "resolver did not answer"),
                Err(_) => tracing::debug!(%upstream, "resolver was silent"),
            }
        }
        failed(query)
    }
}

// === impl Open ===

impl<'a> Open<'a> {
    fn begin(asker: &'a Asker) -> Self {
        asker.open.fetch_add(1, Ordering::Relaxed);
        Self(asker)
    }

    /// Returns how many are open, this one included.
    fn count(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket of its own for each question: its random port is half of what keeps a forged answer
/// out, and no question waits behind another.
async fn over_udp(query: &[u8], upstream: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = if upstream.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    let id = random_id();
    socket.send(&with_id(query, id)).await?;
    let mut buffer = vec![0; LONGEST_UDP + 1];
    loop {
        let size = socket.recv(&mut buffer).await?;
        if !answers(&buffer[..size], id, query) {
            continue;
        }
        if size > LONGEST_UDP {
            return Ok(truncated(query));
        }
        return Ok(with_id(&buffer[..size], [query[0], query[1]]));
    }
}

async fn over_tcp(query: &[u8], upstream: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    let id = random_id();
    send_framed(&mut stream, &with_id(query, id)).await?;
    let answer = receive_framed(&mut stream).await?;
    if !answers(&answer, id, query) {
        return Err(io::Error::other("the answer is to another question"));
    }
    Ok(with_id(&answer, [query[0], query[1]]))
}

/// Sends a message with its length in front, as DNS does over TCP.
pub(super) async fn send_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let size = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&size.to_be_bytes(), message].concat()).await
}

/// Receives a message with its length in front.
pub(super) async fn receive_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let size = stream.read_u16().await?;
    let mut message = vec![0; usize::from(size)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

fn random_id() -> [u8; 2] {
    let entropy: &dyn Entropy = &OsEntropy;
    entropy.bytes()
}
