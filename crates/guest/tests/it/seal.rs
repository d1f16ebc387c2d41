//! Sealing and unsealing (`tarn-guest-api`): what waits, what goes on, and what is dropped.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    daemon::{Answer, Stream, TOKEN, TestDaemon, pid, stopwatch, wait_until},
    pty::{Terminal, read_until, type_in},
    websocket::{Message, WebSocket},
};

const SEAL: &str = "/internal/v1/seal";
const UNSEAL: &str = "/internal/v1/unseal";
const OTHER_TOKEN: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

/// Time enough for an answer that must not come.
const QUIET: Duration = Duration::from_millis(200);

fn seal(daemon: &TestDaemon) {
    let answer = daemon.request("POST", SEAL, b"{}");
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"{}"[..]), "{answer:?}");
}

/// Sends `unseal`, with some fields replaced.
fn try_unseal(daemon: &TestDaemon, changes: &Value) -> Answer {
    daemon.request("POST", UNSEAL, unseal_body(changes).as_bytes())
}

fn unseal_body(changes: &Value) -> String {
    let mut request = json!({
        "protocol": 1,
        "continues": "itself",
        "token": OTHER_TOKEN,
        "sandbox_id": "test",
        "entropy": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
        "now_ms": 1,
    });
    for (key, value) in changes.as_object().expect("an object") {
        request[key] = value.clone();
    }
    request.to_string()
}

/// Unseals with the other token, which is used from then on.
fn unseal(daemon: &TestDaemon, continues: &str) {
    let answer = try_unseal(daemon, &json!({"continues": continues}));
    assert_eq!((answer.status, &answer.json()["protocol"]), (200, &json!(1)), "{answer:?}");
    daemon.use_token(OTHER_TOKEN);
}

/// Sends a request on a connection that stays open.
fn ask(socket: &mut TcpStream, method: &str, path: &str, token: &str, body: &str) {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: t\r\nx-tarn-token: {token}\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    socket.write_all(request.as_bytes()).expect("sent");
}

fn answer(socket: &TcpStream) -> Answer {
    Stream::read_head(socket.try_clone().expect("cloned")).finish_sized()
}

/// Whether the daemon says nothing on a connection, and leaves it open.
fn is_quiet(socket: &TcpStream) -> bool {
    let before = socket.read_timeout().expect("a limit");
    socket.set_read_timeout(Some(QUIET)).expect("set");
    let outcome = socket.peek(&mut [0]);
    socket.set_read_timeout(before).expect("set");
    outcome.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Whether a connection has ended, after whatever was on its way.
fn is_dropped(mut socket: &TcpStream) -> bool {
    match socket.read_to_end(&mut Vec::new()) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// Upgrades a connection to one to a port of the sandbox.
fn connect(daemon: &TestDaemon, port: u16) -> TcpStream {
    let mut socket = daemon.connect();
    let request = format!(
        "GET /internal/v1/connect?port={port} HTTP/1.1\r\nhost: t\r\nx-tarn-token: {}\r\n\
         connection: upgrade\r\nupgrade: tarn-tcp\r\n\r\n",
        daemon.token()
    );
    socket.write_all(request.as_bytes()).expect("sent");
    let answer = Stream::read_head(socket.try_clone().expect("cloned"));
    assert_eq!(answer.status, 101);
    socket
}

/// Begins an upload of 100 bytes, of which 50 are sent; it has its file when this returns.
fn begin_upload(daemon: &TestDaemon) -> TcpStream {
    let mut socket = daemon.connect();
    let token = daemon.token();
    let head = format!(
        "PUT /api/v1/files?path=up HTTP/1.1\r\nhost: t\r\nx-tarn-token: {token}\r\ncontent-length: 100\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).expect("sent");
    socket.write_all(&[b'x'; 50]).expect("sent");
    wait_until("the upload begins", || !files(daemon.dir.path()).is_empty());
    socket
}

fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .filter(|name| name.contains("up"))
        .collect()
}

fn touch_request(name: &str) -> String {
    json!({"command": "sh", "args": ["-c", format!("echo >> {name}")]}).to_string()
}

#[test]
fn requests_are_held_and_then_answered_with_the_new_token() {
    let daemon = TestDaemon::open();
    let mut kept = daemon.connect();
    ask(&mut kept, "GET", "/api/v1/health", TOKEN, "");
    assert_eq!(answer(&kept).status, 200);
    seal(&daemon);
    seal(&daemon);
    let calls = [
        ("POST", "/api/v1/processes", OTHER_TOKEN, touch_request("held"), 201),
        ("GET", "/api/v1/health", OTHER_TOKEN, String::new(), 200),
        ("GET", "/internal/v1/stats", OTHER_TOKEN, String::new(), 200),
        ("GET", "/api/v1/health", TOKEN, String::new(), 401),
        ("GET", "/api/v1/nothing", "", String::new(), 401),
        ("POST", "/internal/v1/init", "", "{}".to_owned(), 400),
    ];
    let mut sockets: Vec<TcpStream> = calls.iter().skip(1).map(|_| daemon.connect()).collect();
    sockets.insert(0, kept);
    for (socket, (method, path, token, body, _)) in sockets.iter_mut().zip(&calls) {
        ask(socket, method, path, token, body);
    }
    // One sends its body only later.
    let mut slow = daemon.connect();
    let body = touch_request("slow");
    let head = format!(
        "POST /api/v1/processes HTTP/1.1\r\nhost: t\r\nx-tarn-token: {OTHER_TOKEN}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    slow.write_all(head.as_bytes()).expect("sent");
    for socket in &sockets {
        assert!(is_quiet(socket));
    }
    assert!(!daemon.dir.path().join("held").exists());
    unseal(&daemon, "itself");
    for (socket, (method, path, _, _, status)) in sockets.iter().zip(&calls) {
        assert_eq!(answer(socket).status, *status, "{method} {path}");
    }
    slow.write_all(body.as_bytes()).expect("sent");
    assert_eq!(answer(&slow).status, 201);
    for name in ["held", "slow"] {
        wait_until("it ran", || daemon.dir.path().join(name).exists());
    }
}

#[test]
fn what_is_under_way_goes_on_when_the_sandbox_itself_does() {
    let daemon = TestDaemon::open();
    let echo = crate::tunnel::echo();
    let script = "while [ ! -e go ]; do sleep 0.02; done; echo after";
    let running = daemon.start_shell(script);
    let mut follow =
        daemon.stream("GET", &format!("/processes/{running}/stdout/follow"), &Value::Null);
    let mut run =
        daemon.stream("POST", "/processes/run", &json!({"command": "sh", "args": ["-c", script]}));
    let terminal = Terminal::shell(&daemon, "stty -echo; read line; echo got-$line; read line");
    let mut client = terminal.attach();
    let mut tunnel =
        WebSocket::open(&daemon, &format!("/tunnels/tcp?port={echo}"), "").expect("one");
    let mut bare = connect(&daemon, echo);
    let mut upload = begin_upload(&daemon);
    seal(&daemon);
    fs::write(daemon.dir.path().join("go"), b"").expect("written");
    assert_eq!(follow.next_frame().expect("a line")["line"], "after");
    assert_eq!(run.frames().last().expect("an end")["exit_code"], 0);
    type_in(&mut client, "x\n");
    read_until(&mut client, "got-x");
    tunnel.send(crate::websocket::BINARY, b"ping");
    assert_eq!(tunnel.next(), Message::Binary(b"ping".to_vec()));
    bare.write_all(b"ping").expect("sent");
    bare.read_exact(&mut [0; 4]).expect("echoed");
    upload.write_all(&[b'x'; 50]).expect("sent");
    assert_eq!(Stream::read_head(upload.try_clone().expect("cloned")).status, 204);
    unseal(&daemon, "itself");
    bare.write_all(b"pong").expect("sent");
    bare.read_exact(&mut [0; 4]).expect("echoed");
    tunnel.send(crate::websocket::BINARY, b"pong");
    assert_eq!(tunnel.next(), Message::Binary(b"pong".to_vec()));
    type_in(&mut client, "y\n");
    assert_eq!(fs::read(daemon.dir.path().join("up")).expect("there"), [b'x'; 100]);
}

/// One connection of every sort, with something under way on it.
struct Old<'a> {
    terminal: Terminal<'a>,
    running: i64,
    sockets: Vec<(&'static str, TcpStream)>,
    /// The servers' ends of the tunnels.
    servers: [TcpStream; 2],
}

impl<'a> Old<'a> {
    fn open(daemon: &'a TestDaemon) -> Self {
        let running = daemon.start_shell("echo first; while :; do sleep 0.02; echo tick; done");
        let mut idle = daemon.connect();
        ask(&mut idle, "GET", "/api/v1/health", TOKEN, "");
        assert_eq!(answer(&idle).status, 200);
        let mut follow = daemon.connect();
        let path = format!("/api/v1/processes/{running}/stdout/follow");
        ask(&mut follow, "GET", &path, TOKEN, "");
        let terminal = Terminal::shell(
            daemon,
            "stty -echo; echo before; read line; echo got-$line; read line",
        );
        let mut client = terminal.attach();
        read_until(&mut client, "before");
        let mut logs = daemon.connect();
        ask(
            &mut logs,
            "POST",
            "/internal/v1/logs",
            TOKEN,
            r#"{"ack":0,"wait_ms":300000,"gather_ms":0}"#,
        );
        // The next call waits for what comes next.
        let batch = answer(&logs).json()["batch"].to_string();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let tunnel =
            WebSocket::open(daemon, &format!("/tunnels/tcp?port={port}"), "").expect("one");
        let bare = connect(daemon, port);
        let servers = [(), ()].map(|()| listener.accept().expect("connected").0);
        let upload = begin_upload(daemon);
        assert_eq!(batch, "1");
        let clone = |socket: &WebSocket| socket.socket().try_clone().expect("cloned");
        let sockets = vec![
            ("idle", idle),
            ("follow", follow),
            ("terminal", clone(&client)),
            ("logs", logs),
            ("tunnel", clone(&tunnel)),
            ("bare", bare),
            ("upload", upload),
        ];
        Self { terminal, running, sockets, servers }
    }

    /// Sees that nothing is left of the connections, and all of the rest.
    fn check(&self, daemon: &TestDaemon) {
        for (name, socket) in &self.sockets {
            assert!(is_dropped(socket), "{name}");
        }
        for server in &self.servers {
            server.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
            assert!(is_dropped(server), "the server's end of a tunnel");
        }
        wait_until("the upload is undone", || files(daemon.dir.path()).is_empty());
        assert_eq!(daemon.info(self.running)["status"], "running");
        let lines = daemon.lines(self.running, "stdout").len();
        wait_until("it prints", || daemon.lines(self.running, "stdout").len() > lines);
        let path = format!("/processes/{}/stdout/follow", self.running);
        let mut follow = daemon.stream("GET", &path, &Value::Null);
        assert_eq!(follow.next_frame().expect("a line")["line"], "first");
        assert_eq!(self.terminal.info()["is_alive"], true);
        let mut client = self.terminal.attach();
        read_until(&mut client, "before");
        type_in(&mut client, "x\n");
        read_until(&mut client, "got-x");
    }
}

#[test]
fn every_connection_of_before_is_dropped_for_a_suspended_one_and_a_copy() {
    for continues in ["suspended", "copy"] {
        let daemon = TestDaemon::open();
        let mut old = Old::open(&daemon);
        let descriptors = daemon.descriptors();
        seal(&daemon);
        // It knows what the token will be, and still must not be begun.
        let mut held = daemon.connect();
        ask(&mut held, "POST", "/api/v1/processes", OTHER_TOKEN, &touch_request("held"));
        old.sockets.push(("held", held));
        old.sockets.push(("unused", daemon.connect()));
        let mut node = daemon.connect();
        ask(&mut node, "POST", UNSEAL, TOKEN, &unseal_body(&json!({"continues": continues})));
        assert_eq!(answer(&node).status, 200);
        daemon.use_token(OTHER_TOKEN);
        // The one that it came on is none of before.
        ask(&mut node, "GET", "/api/v1/health", OTHER_TOKEN, "");
        assert_eq!(answer(&node).status, 200);
        ask(&mut node, "GET", "/api/v1/health", TOKEN, "");
        assert_eq!(answer(&node).status, 401);
        old.check(&daemon);
        assert!(!daemon.dir.path().join("held").exists(), "a held request was begun");
        wait_until("all is closed", || daemon.descriptors() < descriptors);
    }
}

#[test]
fn a_sealed_daemon_refuses_what_is_wrong_and_stays_sealed() {
    let daemon = TestDaemon::closed();
    assert_eq!(daemon.request("POST", SEAL, b"{}").refusal(), (503, "SANDBOX_NOT_READY".into()));
    assert_eq!(daemon.request("POST", UNSEAL, b"{}").refusal(), (503, "SANDBOX_NOT_READY".into()));
    assert_eq!(daemon.init(&json!({})).status, 200);
    for path in [SEAL, UNSEAL] {
        assert_eq!(daemon.request("GET", path, b"").refusal(), (405, "METHOD_NOT_ALLOWED".into()));
        let wrong = format!("x-tarn-token: {OTHER_TOKEN}\r\n");
        for head in ["", &wrong] {
            let answer = daemon.request_with("POST", path, head, b"{}");
            assert_eq!(answer.refusal(), (401, "UNAUTHENTICATED".into()), "{path} {head}");
        }
    }
    assert_eq!(try_unseal(&daemon, &json!({})).refusal(), (409, "NOT_SEALED".into()));
    seal(&daemon);
    let table = [
        (json!({"protocol": 2}), "UNSUPPORTED_PROTOCOL"),
        (json!({"continues": "else"}), "INVALID_REQUEST"),
        (json!({"token": "abc"}), "INVALID_REQUEST"),
        (json!({"entropy": "AAAA"}), "INVALID_REQUEST"),
        (json!({"env": [["A=B", "x"]]}), "CONFIGURATION_ERROR"),
        (json!({"env": [["A", "x\0"]]}), "CONFIGURATION_ERROR"),
        (json!({"now_ms": -1}), "INVALID_REQUEST"),
    ];
    for (changes, code) in table {
        let answer = try_unseal(&daemon, &changes);
        assert_eq!(answer.refusal(), (400, code.to_owned()), "{changes}");
    }
    let mut held = daemon.connect();
    ask(&mut held, "GET", "/api/v1/health", TOKEN, "");
    assert!(is_quiet(&held), "still sealed");
    // The token may stay what it was.
    assert_eq!(try_unseal(&daemon, &json!({"token": TOKEN})).status, 200);
    assert_eq!(answer(&held).status, 200);
}

#[test]
fn a_repeated_unseal_does_nothing_and_the_old_token_is_worth_nothing() {
    let daemon = TestDaemon::open();
    let show = |expected: &str| {
        assert_eq!(daemon.run_shell("echo $LANG-$MADE").0, [expected.to_owned()]);
    };
    seal(&daemon);
    let change = json!({"continues": "suspended", "env": [["MADE", "anew"]]});
    assert_eq!(try_unseal(&daemon, &change).status, 200);
    assert_eq!(try_unseal(&daemon, &change).refusal(), (401, "UNAUTHENTICATED".into()));
    daemon.use_token(OTHER_TOKEN);
    show("-anew");
    let mut kept = daemon.connect();
    let repeated = json!({"continues": "copy", "env": [["MADE", "again"]]});
    assert_eq!(try_unseal(&daemon, &repeated).status, 200);
    show("-anew");
    ask(&mut kept, "GET", "/api/v1/health", OTHER_TOKEN, "");
    assert_eq!(answer(&kept).status, 200, "no connection was dropped");
    // Without an environment it stays what it is.
    seal(&daemon);
    unseal(&daemon, "suspended");
    show("-anew");
}

#[test]
fn a_suspended_sandbox_hands_over_its_lines_and_a_copy_forgets_them() {
    let read = |daemon: &TestDaemon, ack: u64, wait_ms: u64| {
        let body = json!({"ack": ack, "wait_ms": wait_ms, "gather_ms": 0}).to_string();
        daemon.request("POST", "/internal/v1/logs", body.as_bytes())
    };
    for continues in ["itself", "suspended", "copy"] {
        let daemon = TestDaemon::open();
        daemon.run_shell("echo handed over");
        let first = read(&daemon, 0, 10_000);
        daemon.run_shell("echo unread");
        let waiting = daemon.start_shell("while [ ! -e go ]; do sleep 0.02; done; echo later");
        seal(&daemon);
        unseal(&daemon, continues);
        if continues == "copy" {
            assert_eq!(read(&daemon, 0, 0).json()["batch"], 0);
        } else {
            assert_eq!(read(&daemon, 0, 0).body, first.body, "the same batch, byte for byte");
            let second = read(&daemon, 1, 0).json();
            assert_eq!(second["lines"][0]["text"], "unread");
            assert_eq!(second["boot"], first.json()["boot"]);
        }
        fs::write(daemon.dir.path().join("go"), b"").expect("written");
        let last = read(&daemon, 2, 10_000).json();
        assert_eq!(last["lines"][0]["text"], "later");
        let (batch, is_new) = if continues == "copy" { (1, true) } else { (3, false) };
        assert_eq!(last["batch"], batch);
        assert_eq!(last["boot"] != first.json()["boot"], is_new, "{continues}");
        daemon.wait_end(waiting);
    }
}

#[test]
fn a_time_limit_stands_still_while_it_is_sealed() {
    let daemon = TestDaemon::open();
    let since = stopwatch();
    let request = json!({"command": "sleep", "args": ["1000"], "timeout": 3});
    let mut run = daemon.stream("POST", "/processes/run", &request);
    let started = run.next_frame().expect("the start");
    seal(&daemon);
    wait_until("its time would be over", || since() > Duration::from_millis(3500));
    unseal(&daemon, "suspended");
    assert_eq!(daemon.info(pid(&started))["status"], "running");
    let ended = daemon.wait_end(pid(&started));
    assert_eq!((&ended["status"], &ended["signal"]), (&json!("signaled"), &json!(9)));
    assert!(since() > Duration::from_millis(3500), "it had most of its time left");
}

#[test]
fn nothing_is_started_again_before_the_unseal() {
    let daemon = TestDaemon::open();
    let script = "echo >> starts; while [ ! -e go ]; do sleep 0.02; done; rm go; exit 1";
    let managed = daemon.start(&json!({
        "command": "sh", "args": ["-c", script], "name": "web",
        "restart": {"policy": "always", "initial_backoff_ms": 1},
    }));
    let starts = || fs::read(daemon.dir.path().join("starts")).map_or(0, |lines| lines.len());
    wait_until("it starts", || starts() == 1);
    seal(&daemon);
    fs::write(daemon.dir.path().join("go"), b"").expect("written");
    let proc = format!("/proc/{}", pid(&managed));
    wait_until("it ends", || !Path::new(&proc).exists());
    let mut held = daemon.connect();
    ask(&mut held, "GET", "/api/v1/health", OTHER_TOKEN, "");
    assert!(is_quiet(&held));
    assert_eq!(starts(), 1);
    unseal(&daemon, "copy");
    wait_until("it starts again", || starts() == 2);
}

#[test]
fn what_is_held_is_bounded_and_forgotten_with_its_connection() {
    let daemon = TestDaemon::open();
    seal(&daemon);
    let before = daemon.descriptors();
    // As much of an upload as the kernel takes: what is held is a head, not a body.
    let head = format!(
        "PUT /api/v1/files?path=up HTTP/1.1\r\nhost: t\r\nx-tarn-token: {TOKEN}\r\n\
         content-length: 100000000\r\n\r\n"
    );
    let held: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut socket = daemon.connect();
            socket.write_all(head.as_bytes()).expect("sent");
            socket.set_nonblocking(true).expect("set");
            while socket.write(&[b'x'; 64 << 10]).is_ok() {}
            socket
        })
        .collect();
    // The answer to `seal` may still have had its connection when they were counted.
    wait_until("they are there", || daemon.descriptors() >= before + 39);
    assert!(daemon.resident_bytes() < 16 << 20, "{} bytes", daemon.resident_bytes());
    drop(held);
    unseal(&daemon, "copy");
    wait_until("they are gone", || daemon.descriptors() <= before);
    assert!(files(daemon.dir.path()).is_empty());
}
