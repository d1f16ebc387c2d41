//! A host of its own for each test: network and mount namespaces of one thread and all it starts.
//!
//! Beside it lies an "internet" with servers in documentation ranges, and with the same servers in
//! ranges that must stay closed, so that a test can tell "not let through" from "not there".

use std::{
    fs::File,
    future::Future,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    unistd::Uid,
};
use tarn_host::{Slot, Slots as _};
use tarn_hostnet::{HostSlots, SlotsConfig};
use tarn_task::Tasks;
use tarn_types::{EgressPolicy, SandboxId};
use tempfile::TempDir;

/// An ordinary server of the internet.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
/// A resolver of the internet.
pub(crate) const RESOLVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 53);
/// The host, as the internet sees it.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The same in IPv6.
pub(crate) const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7);
pub(crate) const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
/// A neighbour of the host's, on a network that the host is on.
pub(crate) const NEIGHBOUR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2);
/// Servers in IPv6 that answer the host but must not answer a sandbox.
pub(crate) const CLOSED6: [Ipv6Addr; 4] = [
    NEIGHBOUR6,
    Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 9),
    Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xa09, 0x909),
    Ipv6Addr::new(0x2002, 0xa09, 0x909, 0, 0, 0, 0, 1),
];
/// The sandbox's way out and its resolver.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 1);
/// Servers that answer the host but must not answer a sandbox.
pub(crate) const CLOSED: [Ipv4Addr; 6] = [
    Ipv4Addr::new(10, 9, 9, 9),
    Ipv4Addr::new(100, 64, 9, 9),
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(172, 16, 9, 9),
    Ipv4Addr::new(192, 168, 9, 9),
    Ipv4Addr::new(198, 18, 255, 9),
];
/// The port of plain servers.
pub(crate) const PORT: u16 = 80;
/// How long nothing must happen for it to count as nothing.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);
/// How long something that should happen may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// The host of one test.
pub(crate) struct Host {
    pub(crate) dir: TempDir,
}

/// A server of one test: slots and the tasks behind them.
pub(crate) struct Server {
    pub(crate) slots: HostSlots,
    pub(crate) config: SlotsConfig,
    tasks: Tasks,
}

/// Runs a test on a host of its own.
pub(crate) fn on_a_host<T, F>(test: T)
where
    T: FnOnce(Host) -> F + Send + 'static,
    F: Future<Output = ()>,
{
    assert!(Uid::effective().is_root(), "these tests make network namespaces: run them as root");
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("unshare");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .expect("make mounts private");
        mount(Some("none"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .expect("mount /run");
        internet();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("build runtime");
        runtime.block_on(test(Host { dir: TempDir::new_in("/run").expect("make directory") }));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command and returns what it printed.
pub(crate) fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().expect("run sh");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs work inside a namespace, in a thread of its own.
pub(crate) fn within<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(netns).expect("open namespace");
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).expect("enter namespace");
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Does work for each of several at once, in the calling thread's namespace: what waits for silence
/// waits together.
pub(crate) fn at_once<T: Send>(items: Vec<T>, work: impl Fn(T) + Sync) {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> =
            items.into_iter().map(|item| scope.spawn(move || work(item))).collect();
        for thread in threads {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

/// Runs work in the internet.
pub(crate) fn in_internet<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    within(Path::new("/run/netns/internet"), work)
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

/// Connects over TCP and returns the greeting: the address the server sees.
pub(crate) fn greeting(to: impl Into<IpAddr>, port: u16) -> Result<String, ErrorKind> {
    greeting_within(PATIENCE, to.into(), port)
}

/// Says whether nobody takes a connection, for as long as silence takes.
pub(crate) fn no_greeting(to: impl Into<IpAddr>, port: u16) -> bool {
    greeting_within(SILENCE, to.into(), port).is_err()
}

fn greeting_within(patience: Duration, to: IpAddr, port: u16) -> Result<String, ErrorKind> {
    let to = SocketAddr::new(to, port);
    let mut stream = TcpStream::connect_timeout(&to, patience).map_err(|error| error.kind())?;
    stream.set_read_timeout(Some(patience)).expect("set timeout");
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|error| error.kind())?;
    Ok(text)
}

/// Says whether a datagram comes back.
pub(crate) fn echoes(to: impl Into<IpAddr>, port: u16) -> bool {
    echoes_within(PATIENCE, to.into(), port)
}

/// Says whether no datagram comes back, for as long as silence takes.
pub(crate) fn no_echo(to: impl Into<IpAddr>, port: u16) -> bool {
    !echoes_within(SILENCE, to.into(), port)
}

fn echoes_within(patience: Duration, to: IpAddr, port: u16) -> bool {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).expect("bind");
    socket.set_read_timeout(Some(patience)).expect("set timeout");
    let mut buffer = [0; 64];
    socket.send_to(b"hello", (to, port)).is_ok()
        && socket.recv(&mut buffer).is_ok_and(|size| &buffer[..size] == b"hello")
}

/// Greets everybody who connects with their address; runs for ever in the calling thread's
/// namespace.
pub(crate) fn greet(address: impl Into<IpAddr>, port: u16) {
    let listener = TcpListener::bind((address.into(), port)).expect("listen");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Ok(peer) = stream.peer_addr() else { continue };
            let mut stream = stream;
            drop(write!(stream, "{}", peer.ip().to_canonical()));
        }
    });
}

/// Sends every datagram back; runs for ever in the calling thread's namespace.
pub(crate) fn echo_server(address: impl Into<IpAddr>, port: u16) {
    echo_on(UdpSocket::bind((address.into(), port)).expect("bind"));
}

/// Sends every datagram back that comes to a socket; runs for ever.
pub(crate) fn echo_on(socket: UdpSocket) {
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((size, from)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(&buffer[..size], from));
        }
    });
}

/// Asks a resolver over UDP for `example.com`; returns the answer's code.
pub(crate) fn ask(resolver: Ipv4Addr) -> Option<u8> {
    ask_within(PATIENCE, resolver)
}

/// Says whether a resolver does not answer, for as long as silence takes.
pub(crate) fn no_answer(resolver: Ipv4Addr) -> bool {
    ask_within(SILENCE, resolver).is_none()
}

fn ask_within(patience: Duration, resolver: Ipv4Addr) -> Option<u8> {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
    socket.set_read_timeout(Some(patience)).expect("set timeout");
    ask_with(&socket, resolver)
}

/// Asks with a socket of one's own.
pub(crate) fn ask_with(socket: &UdpSocket, resolver: Ipv4Addr) -> Option<u8> {
    socket.send_to(&query(), (resolver, 53)).ok()?;
    let mut buffer = [0; 512];
    let (size, from) = socket.recv_from(&mut buffer).ok()?;
    let good =
        size >= 12 && from == SocketAddr::from((resolver, 53)) && buffer[..2] == [0xab, 0xcd];
    good.then_some(buffer[3] & 0x0f)
}

/// Asks over TCP.
pub(crate) fn ask_over_tcp(resolver: Ipv4Addr) -> Option<u8> {
    let to = SocketAddr::from((resolver, 53));
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).expect("set timeout");
    let query = query();
    let size = u16::try_from(query.len()).expect("a query is short").to_be_bytes();
    stream.write_all(&[&size, query.as_slice()].concat()).ok()?;
    let mut answer = [0; 14];
    stream.read_exact(&mut answer).ok()?;
    (answer[2..4] == [0xab, 0xcd]).then_some(answer[5] & 0x0f)
}

/// Asks for records of one type; returns the answer's code and its last address.
pub(crate) fn ask_for(resolver: Ipv4Addr, name: &str, kind: u16) -> Option<(u8, Option<Ipv4Addr>)> {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
    socket.set_read_timeout(Some(PATIENCE)).expect("set timeout");
    let mut query = b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).expect("a short label"));
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&[kind.to_be_bytes(), [0, 1]].concat());
    socket.send_to(&query, (resolver, 53)).ok()?;
    let mut buffer = [0; 512];
    let size = socket.recv(&mut buffer).ok()?;
    let last = buffer[..size].last_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes));
    Some((buffer[3] & 0x0f, last.filter(|_| buffer[7] > 0)))
}

/// The number of the type of IPv6 addresses.
pub(crate) const TYPE_AAAA: u16 = 28;

/// Answers for a few names with their addresses, for `alias.NAME` with an alias of NAME, for the
/// rest that there is none; runs for ever in the calling thread's namespace.
pub(crate) fn names(address: Ipv4Addr, known: &'static [(&'static str, &'static [&'static str])]) {
    let udp = UdpSocket::bind((address, 53)).expect("bind");
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((size, from)) = udp.recv_from(&mut buffer) {
            drop(udp.send_to(&named(&buffer[..size], known), from));
        }
    });
}

fn named(query: &[u8], known: &[(&str, &[&str])]) -> Vec<u8> {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] > 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    let kind = query[at + 2];
    let is_alias = labels.first().is_some_and(|label| label == "alias");
    let name = labels[usize::from(is_alias)..].join(".");
    let found = known.iter().find(|(known, _)| *known == name);
    let mut answer = query[..at + 5].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
    let Some((_, addresses)) = found else {
        answer[3] |= 3;
        return answer;
    };
    let mut owner = [0xc0, 12];
    if is_alias {
        owner = [0xc0, 12 + 6];
        answer.extend_from_slice(b"\xc0\x0c\0\x05\0\x01\0\0\0\x05\0\x02");
        answer.extend_from_slice(&owner);
        answer[7] += 1;
    }
    for text in *addresses {
        let (of_kind, octets) = match text.parse().expect("an address") {
            IpAddr::V4(address) => (1, address.octets().to_vec()),
            IpAddr::V6(address) => (28, address.octets().to_vec()),
        };
        if of_kind != kind {
            continue;
        }
        answer.extend_from_slice(&owner);
        answer.extend_from_slice(&[0, kind, 0, 1, 0, 0, 0, 5, 0]);
        answer.push(u8::try_from(octets.len()).expect("short"));
        answer.extend_from_slice(&octets);
        answer[7] += 1;
    }
    answer
}

/// Returns a query for `example.com A`.
pub(crate) fn query() -> Vec<u8> {
    [b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\0".as_slice(), b"\x07example\x03com\0\0\x01\0\x01"].concat()
}

fn internet() {
    sh("ip link set lo up
        mkdir -p /run/netns
        ip netns add internet
        ip link add up0 type veth peer name eth0 netns internet
        ip addr add 192.0.2.1/24 dev up0
        ip link set up0 up
        ip -n internet addr add 192.0.2.2/24 dev eth0
        ip -n internet link set eth0 up
        ip -n internet link set lo up
        ip route add default via 192.0.2.2
        ip addr add 2001:db8:2::1/64 dev up0 nodad
        ip -n internet addr add 2001:db8:2::2/64 dev eth0 nodad
        ip -6 route add default via 2001:db8:2::2
        cd /proc/sys/net/ipv6/conf/all
        test -e force_forwarding || echo 1 > forwarding");
    for address in CLOSED6.into_iter().skip(1).chain([SERVER6]) {
        sh(&format!("ip -n internet addr add {address}/128 dev lo nodad"));
    }
    let open = [SERVER, RESOLVER];
    for address in open.iter().chain(&CLOSED) {
        sh(&format!("ip -n internet addr add {address}/32 dev lo"));
    }
    in_internet(|| {
        for address in CLOSED.into_iter().chain([SERVER]) {
            greet(address, PORT);
            echo_server(address, PORT);
        }
        for address in CLOSED6.into_iter().chain([SERVER6]) {
            greet(address, PORT);
            echo_server(address, PORT);
        }
        for port in [53, 853] {
            greet(SERVER6, port);
            echo_server(SERVER6, port);
            greet(SERVER, port);
            echo_server(SERVER, port);
        }
        resolver(RESOLVER);
    });
}

/// Answers every query with "no error" and no records.
pub(crate) fn resolver(address: Ipv4Addr) {
    let udp = UdpSocket::bind((address, 53)).expect("bind");
    let tcp = TcpListener::bind((address, 53)).expect("listen");
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((size, from)) = udp.recv_from(&mut buffer) {
            buffer[2] |= 0x80;
            drop(udp.send_to(&buffer[..size], from));
        }
    });
    thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut buffer = [0; 2048];
            let Ok(size) = stream.read(&mut buffer) else { continue };
            buffer[4] |= 0x80;
            drop(stream.write_all(&buffer[..size]));
        }
    });
}

// === impl Host ===

impl Host {
    /// Writes the configuration of a server with a tag.
    pub(crate) fn config(&self, tag: &str) -> SlotsConfig {
        let run_dir: PathBuf = self.dir.path().join(tag);
        let mut config = SlotsConfig::new(tag.parse().expect("a good tag"), run_dir);
        config.spare = 2;
        config.dns_upstreams = vec![SocketAddr::from((RESOLVER, 53))];
        config
    }

    /// Starts a server with nothing to adopt.
    pub(crate) async fn server(&self, tag: &str) -> Server {
        let server = Server::start(self.config(tag)).await;
        server.slots.settle().await.expect("settle");
        server
    }
}

// === impl Server ===

impl Server {
    /// Starts a server and leaves adoption to the test.
    pub(crate) async fn start(config: SlotsConfig) -> Self {
        let tasks = Tasks::new();
        let slots = HostSlots::start(config.clone(), tasks.clone()).await.expect("start");
        Self { slots, config, tasks }
    }

    /// Claims a slot.
    pub(crate) async fn claim(&self, name: &str, policy: EgressPolicy) -> Slot {
        self.slots.claim(&sandbox(name), &policy).await.expect("claim")
    }

    /// Ends the server as a kill would, as far as the host can see: nothing is cleaned up.
    pub(crate) async fn kill(self) -> SlotsConfig {
        self.tasks.stop();
        drop(self.slots);
        // The test's process lives on, so the sockets that a kill would close are closed here.
        assert_eq!(self.tasks.shutdown(PATIENCE).await, 0, "tasks outlive the server");
        self.config
    }
}

/// Makes a sandbox id out of a short name.
pub(crate) fn sandbox(name: &str) -> SandboxId {
    format!("{name:0<21}").parse().expect("a good id")
}
