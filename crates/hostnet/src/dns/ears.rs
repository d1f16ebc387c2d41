//! Listens in one slot.

use std::{
    ffi::OsString,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket,
        sockopt::{BindToDevice, ReuseAddr},
    },
};
use parking_lot::Mutex;
use tarn_types::DenialReason;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{
    answer::{Admission, Answer, admit, read},
    forward::{Asker, Forwarder, Transport, receive_framed, send_framed},
    learn::Learner,
    message::{
        Families, Judgement, LONGEST_UDP, Question, empty, failed, is_truncated, judge, refused,
        shown_name, truncated,
    },
    rate::Allowance,
};
use crate::{
    egress::Egress,
    netlog::Diary,
    plan::{GATEWAY, RESOLVER_PORT},
};

/// Questions over UDP that one sandbox has open; more wait in its socket, then are lost.
const MOST_DATAGRAMS: usize = 64;
/// Connections that one sandbox has open.
const MOST_CONNECTIONS: usize = 8;
/// How long a connection may be idle (RFC 7766 §6.2.3 asks for seconds).
const IDLE: Duration = Duration::from_secs(10);
/// Errors in a row after which the interface must be gone, but for those that pass.
const MOST_ERRORS: u32 = 100;
/// How long no connection is taken after one could not be: the server may have no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Policies under which one question is judged; one that outlives them is refused.
const MOST_POLICIES: usize = 3;

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

/// What answers a slot's sandbox.
#[derive(Debug)]
pub(crate) struct Resolver {
    pub(crate) policy: watch::Receiver<Arc<Egress>>,
    pub(crate) learner: Learner,
    pub(crate) forwarder: Arc<Forwarder>,
    pub(crate) diary: Diary,
    /// Whether the sandbox reaches anything by IPv6 at the moment.
    pub(crate) has_ipv6: Arc<AtomicBool>,
}

/// Answers a slot's sandbox until dropped; open questions end with it.
pub(crate) async fn serve(ears: Ears, resolver: Resolver) {
    let allowance = Mutex::new(Allowance::new(Instant::now()));
    let asker = Asker::default();
    let (resolver, allowance, asker) = (&resolver, &allowance, &asker);
    let mut datagrams = FuturesUnordered::new();
    let mut connections = FuturesUnordered::new();
    let mut buffer = vec![0; LONGEST_UDP + 1];
    let mut errors = 0;
    let mut accepts_at: Option<Instant> = None;
    loop {
        tokio::select! {
            received = ears.udp.recv_from(&mut buffer), if datagrams.len() < MOST_DATAGRAMS => {
                match received {
                    Ok((size, from)) if from.ip() == IpAddr::V4(ears.sandbox) => {
                        errors = 0;
                        // One too many is lost like any datagram.
                        if size > LONGEST_UDP {
                            continue;
                        }
                        if allowance.lock().take(Instant::now()) {
                            let query = buffer[..size].to_vec();
                            datagrams.push(resolver.answer_datagram(&ears.udp, query, from, asker));
                        } else {
                            resolver.diary.unheard();
                        }
                    }
                    Ok(_) => {}
                    Err(_) => errors += 1,
                }
            }
            Some(()) = datagrams.next(), if !datagrams.is_empty() => {}
            accepted = ears.tcp.accept(),
                if accepts_at.is_none() && connections.len() < MOST_CONNECTIONS =>
            {
                match accepted {
                    Ok((stream, from)) if from.ip() == IpAddr::V4(ears.sandbox) => {
                        errors = 0;
                        connections.push(resolver.answer_connection(stream, allowance, asker));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        errors += u32::from(!passes(&error));
                        accepts_at = Some(Instant::now() + ACCEPT_PAUSE);
                    }
                }
            }
            () = sleep_until(accepts_at.unwrap_or_else(Instant::now)), if accepts_at.is_some() => {
                accepts_at = None;
            }
            Some(()) = connections.next(), if !connections.is_empty() => {}
        }
        if errors > MOST_ERRORS {
            tracing::warn!(address = %ears.sandbox, "resolver stopped: its socket keeps failing");
            return;
        }
    }
}

// === impl Resolver ===

impl Resolver {
    async fn answer_datagram(
        &self,
        socket: &UdpSocket,
        query: Vec<u8>,
        from: SocketAddr,
        asker: &Asker,
    ) {
        if let Some(answer) = self.answer(&query, Transport::Udp, asker).await {
            // Lost like any datagram; the sandbox asks again.
            drop(socket.send_to(&answer, from).await);
        }
    }

    /// One question at a time, as long as questions come.
    async fn answer_connection(
        &self,
        mut stream: TcpStream,
        allowance: &Mutex<Allowance>,
        asker: &Asker,
    ) {
        while let Ok(Ok(query)) = timeout(IDLE, receive_framed(&mut stream)).await {
            if query.len() > LONGEST_UDP {
                return;
            }
            if !allowance.lock().take(Instant::now()) {
                self.diary.unheard();
                return;
            }
            let Some(answer) = self.answer(&query, Transport::Tcp, asker).await else { return };
            if !matches!(timeout(IDLE, send_framed(&mut stream, &answer)).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    async fn answer(&self, query: &[u8], transport: Transport, asker: &Asker) -> Option<Vec<u8>> {
        for _ in 0..MOST_POLICIES {
            let egress = Arc::clone(&self.policy.borrow());
            let question = match judge(query, &egress, self.families()) {
                Judgement::Ignore => return None,
                Judgement::Answer(answer) => return Some(answer),
                Judgement::Refuse(reason) => return Some(self.refused(query, reason)),
                Judgement::Forward(question) => question,
            };
            let reply = self.forwarder.ask(&question.query, transport, asker).await;
            let answer = self.admitted(query, &question, reply, &egress).await;
            // Another policy may have come while the upstream was thinking.
            let is_current = Arc::ptr_eq(&egress, &self.policy.borrow());
            match answer {
                Some(answer) if is_current => return Some(answer),
                Some(_) | None => {}
            }
        }
        Some(refused(query))
    }

    /// Returns what the sandbox gets of an upstream's answer; `None` if the policy is another by
    /// now.
    async fn admitted(
        &self,
        query: &[u8],
        question: &Question,
        reply: Vec<u8>,
        egress: &Arc<Egress>,
    ) -> Option<Vec<u8>> {
        if is_truncated(&reply) {
            // What is left of it would have to be judged as well; the whole comes over TCP.
            return Some(truncated(query));
        }
        let Some(answer) = read(&reply, &self.forwarder.opened) else { return Some(failed(query)) };
        let (name, records, denied) = match admit(&answer, egress, question.name.as_ref()) {
            Admission::Now => {
                self.answered(query, &answer);
                return Some(reply);
            }
            Admission::Empty => return Some(empty(query)),
            Admission::Refused => return Some(self.refused(query, DenialReason::Closed)),
            Admission::After(name, records) => (name, records, false),
            Admission::Denied(name, records) => (name, records, true),
        };
        match self.learner.learn(egress, name, records).await {
            Ok(true) if denied => Some(self.refused(query, DenialReason::DenyOut)),
            Ok(true) => {
                self.answered(query, &answer);
                Some(reply)
            }
            Ok(false) => None,
            Err(failure) => {
                tracing::warn!(
                    slot = self.learner.slot.0,
                    step = failure.step,
                    detail = failure.detail,
                    "an answer was held back: its addresses could not be let in"
                );
                Some(failed(query))
            }
        }
    }
}

impl Resolver {
    fn families(&self) -> Families {
        if self.has_ipv6.load(Ordering::Relaxed) { Families::Both } else { Families::V4 }
    }

    /// Says no, and notes it.
    fn refused(&self, query: &[u8], reason: DenialReason) -> Vec<u8> {
        self.diary.refused(&shown_name(query), reason);
        refused(query)
    }

    /// Notes an answer before it leaves: the sandbox may act on it at once.
    fn answered(&self, query: &[u8], answer: &Answer) {
        let addresses = answer.records.iter().map(|record| record.address);
        self.diary.answered(&shown_name(query), addresses);
    }
}

/// Says whether what kept a connection from being taken passes by itself.
fn passes(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM | Errno::ECONNABORTED)
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_descriptors_does_not_count_as_a_lost_interface() {
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ECONNABORTED] {
            assert!(passes(&errno.into()), "{errno}");
        }
        for errno in [Errno::ENETDOWN, Errno::ENODEV, Errno::EBADF, Errno::EINVAL] {
            assert!(!passes(&errno.into()), "{errno}");
        }
        assert!(!passes(&io::Error::other("of no number")));
    }
}
