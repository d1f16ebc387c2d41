//! Terminals (spec 05 §4).

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    daemon::{TestDaemon, stopwatch, wait_until},
    websocket::{BINARY, CLOSE, Message, TEXT, WebSocket, frame},
};

/// A terminal that a test made.
pub(crate) struct Terminal<'a> {
    daemon: &'a TestDaemon,
    id: String,
    token: String,
}

const READY: &[u8] = b"\x02";

// === impl Terminal ===

impl<'a> Terminal<'a> {
    fn open(daemon: &'a TestDaemon, request: &Value) -> Self {
        let answer = daemon.api("POST", "/pty", request);
        assert_eq!(answer.status, 201, "{answer:?}");
        let answer = answer.json();
        let text = |name: &str| answer[name].as_str().expect("text").to_owned();
        let (id, token) = (text("session_id"), text("token"));
        assert!(token.len() == 64 && token.bytes().all(|byte| byte.is_ascii_hexdigit()), "{token}");
        Self { daemon, id, token }
    }

    pub(crate) fn shell(daemon: &'a TestDaemon, script: &str) -> Self {
        Self::open(daemon, &json!({"command": "bash", "args": ["-c", script]}))
    }

    /// Attaches without saying READY.
    fn look(&self) -> WebSocket {
        let head = format!("x-pty-token: {}\r\n", self.token);
        WebSocket::open(self.daemon, &format!("/pty/{}/ws", self.id), &head).expect("attached")
    }

    /// Attaches.
    pub(crate) fn attach(&self) -> WebSocket {
        let mut socket = self.look();
        socket.send(BINARY, READY);
        socket
    }

    pub(crate) fn info(&self) -> Value {
        self.daemon.get(&format!("/pty/{}", self.id)).json()
    }

    fn kill(&self) {
        let path = format!("/pty/{}", self.id);
        assert_eq!(self.daemon.api("DELETE", &path, &Value::Null).status, 204);
    }

    fn wait_end(&self) -> Value {
        wait_until("it ends", || self.info()["is_alive"] == false);
        self.info()
    }
}

pub(crate) fn type_in(socket: &mut WebSocket, text: &str) {
    socket.send(BINARY, &[b"\x00", text.as_bytes()].concat());
}

/// Reads output until it holds a text; returns it.
pub(crate) fn read_until(socket: &mut WebSocket, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        match socket.next() {
            Message::Binary(bytes) => {
                assert_eq!(bytes[0], 0, "{bytes:?}");
                seen.push_str(&String::from_utf8_lossy(&bytes[1..]));
            }
            Message::Ping | Message::Pong(_) => {}
            end @ (Message::Close(..) | Message::End) => {
                unreachable!("{end:?} after {seen:?}, waiting for {text:?}")
            }
        }
    }
    seen
}

/// Reads everything: output, exit code, close.
fn read_to_end(socket: &mut WebSocket) -> (String, Option<i32>, Message) {
    let (mut seen, mut code) = (Vec::new(), None);
    loop {
        match socket.next() {
            Message::Binary(bytes) if bytes[0] == 0 => {
                assert_eq!(code, None, "nothing comes after EXIT");
                seen.extend(&bytes[1..]);
            }
            Message::Binary(bytes) => {
                assert_eq!((bytes[0], bytes.len()), (3, 5), "{bytes:?}");
                code = Some(i32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]));
            }
            Message::Ping | Message::Pong(_) => {}
            end @ (Message::Close(..) | Message::End) => {
                return (String::from_utf8_lossy(&seen).into_owned(), code, end);
            }
        }
    }
}

fn closed(code: u16, reason: &str) -> Message {
    Message::Close(code, reason.to_owned())
}

#[test]
fn a_terminal_is_described_without_its_token() {
    let daemon = TestDaemon::open();
    let terminal = Terminal::open(
        &daemon,
        &json!({"command": "sleep", "args": ["1000"], "rows": 0, "cols": 5000}),
    );
    let info = terminal.info();
    assert_eq!(info["session_id"], terminal.id.as_str());
    assert_eq!((&info["command"], &info["args"]), (&json!("sleep"), &json!(["1000"])));
    assert_eq!((&info["rows"], &info["cols"]), (&json!(1), &json!(1000)));
    assert_eq!(info["is_alive"], true);
    assert!(info["pid"].is_u64() && info["created_at"].is_u64());
    for absent in ["ended_at", "exit_code", "token"] {
        assert!(info.get(absent).is_none(), "{absent}");
    }
    let list = daemon.get("/pty").json();
    assert_eq!(list["sessions"], json!([info]));
    let processes = daemon.get("/processes").json();
    assert_eq!(processes["processes"], json!([]), "it is no listed process");
    assert_eq!(
        daemon
            .api("POST", &format!("/pty/{}/resize", terminal.id), &json!({"rows": 30, "cols": 100}))
            .status,
        204
    );
    assert_eq!((&terminal.info()["rows"], &terminal.info()["cols"]), (&json!(30), &json!(100)));
}

#[test]
fn what_is_not_there_or_not_allowed_is_refused_before_the_upgrade() {
    let daemon = TestDaemon::open();
    let terminal = Terminal::shell(&daemon, "sleep 1000");
    let (id, token) = (&terminal.id, &terminal.token);
    let wrong = "0".repeat(64);
    let table = [
        (format!("/pty/{id}/ws"), String::new(), 403, "INVALID_TOKEN"),
        (format!("/pty/{id}/ws?token={wrong}"), String::new(), 403, "INVALID_TOKEN"),
        (format!("/pty/{id}/ws"), format!("x-pty-token: {wrong}\r\n"), 403, "INVALID_TOKEN"),
        // The header counts if both are there.
        (
            format!("/pty/{id}/ws?token={token}"),
            format!("x-pty-token: {wrong}\r\n"),
            403,
            "INVALID_TOKEN",
        ),
        (format!("/pty/none/ws?token={token}"), String::new(), 404, "SESSION_NOT_FOUND"),
    ];
    for (path, head, status, code) in table {
        let answer = WebSocket::open(&daemon, &path, &head).err().expect("refused");
        assert_eq!(answer.refusal(), (status, code.to_owned()), "{path} {head}");
    }
    for (path, head) in [
        (format!("/pty/{id}/ws?token={token}"), String::new()),
        (format!("/pty/{id}/ws?token={wrong}"), format!("x-pty-token: {token}\r\n")),
    ] {
        assert!(WebSocket::open(&daemon, &path, &head).is_ok(), "{path} {head}");
    }
    let answer = daemon.get(&format!("/pty/{id}/ws?token={token}"));
    assert_eq!(answer.refusal(), (400, "INVALID_REQUEST".to_owned()), "no WebSocket");
    for (method, path, body) in [
        ("GET", "/pty/none", Value::Null),
        ("DELETE", "/pty/none", Value::Null),
        ("POST", "/pty/none/resize", json!({"rows": 1, "cols": 1})),
    ] {
        let answer = daemon.api(method, path, &body);
        assert_eq!(answer.refusal(), (404, "NOT_FOUND".to_owned()), "{method} {path}");
    }
}

#[test]
fn what_cannot_be_started_says_why_and_leaves_nothing() {
    let daemon = TestDaemon::open();
    for (request, code, text) in [
        (json!({"command": "no-such-program"}), "PROCESS_START_FAILED", "no-such-program"),
        (json!({"command": "sh", "working_dir": "/none"}), "PROCESS_START_FAILED", "/none"),
        (json!({"command": ""}), "INVALID_REQUEST", "command"),
        (json!({"command": "sh", "env": {"A=B": "x"}}), "INVALID_REQUEST", "env"),
        (json!({"command": "sh", "rows": "many"}), "INVALID_REQUEST", "rows"),
        (json!({"args": []}), "INVALID_REQUEST", "command"),
    ] {
        let answer = daemon.api("POST", "/pty", &request);
        assert_eq!(answer.refusal(), (400, code.to_owned()), "{request}");
        assert!(answer.json()["error"].as_str().expect("text").contains(text), "{answer:?}");
    }
    assert_eq!(daemon.get("/pty").json(), json!({"sessions": []}));
}

#[test]
fn the_program_has_a_terminal_of_its_own() {
    let daemon = TestDaemon::open();
    let script = "test -t 0 && test -t 1 && test -t 2 && echo all; tty; echo yes > /dev/tty; \
                  stty size; echo $TERM $A; ps -o sid= -o tpgid= -p $$; echo $$; pwd; \
                  ulimit -n; echo end";
    let request = json!({
        "command": "bash", "args": ["-c", script], "env": {"A": "b"}, "rows": 40, "cols": 132,
    });
    let terminal = Terminal::open(&daemon, &request);
    let (output, code, end) = read_to_end(&mut terminal.attach());
    let lines: Vec<&str> = output.split("\r\n").collect();
    assert!(lines[1].starts_with("/dev/pts/"), "{lines:?}");
    assert_eq!(
        (lines[0], lines[2], lines[3], lines[4]),
        ("all", "yes", "40 132", "xterm-256color b")
    );
    let ids: Vec<&str> = lines[5].split_whitespace().collect();
    assert_eq!(ids, [lines[6], lines[6]], "leads its session, in the foreground");
    assert_eq!(lines[7], daemon.dir.path().to_str().expect("text"));
    let own = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .expect("a limit")
        .0;
    assert_eq!(lines[8], own.to_string(), "the usual bound, not the daemon's");
    assert_eq!((code, end), (Some(0), closed(1000, "exit:0")));

    let request = json!({"command": "sh", "args": ["-c", "echo $TERM"], "env": {"TERM": "dumb"}});
    let terminal = Terminal::open(&daemon, &request);
    assert_eq!(read_to_end(&mut terminal.attach()).0, "dumb\r\n");
}

#[test]
fn output_waits_for_ready_and_is_replayed_to_whoever_comes_later() {
    let daemon = TestDaemon::open();
    let terminal = Terminal::shell(&daemon, "stty -echo; echo first; cat");
    let mut early = terminal.look();
    let mut socket = terminal.attach();
    read_until(&mut socket, "first\r\n");
    type_in(&mut socket, "second\n");
    read_until(&mut socket, "second\r\n");
    // Had it been sent anything, that would come before the answer to this.
    early.send(crate::websocket::PING, b"?");
    let first = std::iter::from_fn(|| Some(early.next())).find(|it| *it != Message::Ping);
    assert_eq!(first, Some(Message::Pong(b"?".to_vec())));
    early.send(BINARY, READY);
    let seen = read_until(&mut early, "second\r\n");
    assert!(seen.starts_with("first\r\n"), "{seen:?}");
    // A second READY changes nothing; both see what comes.
    early.send(BINARY, READY);
    type_in(&mut early, "third\n");
    assert_eq!(read_until(&mut early, "third\r\n"), "third\r\n");
    assert_eq!(read_until(&mut socket, "third\r\n"), "third\r\n");
    for socket in [&mut early, &mut socket] {
        socket.close(1000, "client disconnect");
        assert_eq!(read_to_end(socket).2, closed(1000, ""));
        assert_eq!(socket.next(), Message::End);
    }
    assert_eq!(terminal.info()["is_alive"], true);
    let mut again = terminal.attach();
    read_until(&mut again, "third\r\n");
    type_in(&mut again, "\x04");
    assert_eq!(read_to_end(&mut again).2, closed(1000, "exit:0"));
}

#[test]
fn a_silent_terminal_is_pinged_before_blocking_clients_give_up() {
    let daemon = TestDaemon::open();
    let terminal = Terminal::shell(&daemon, "sleep 1000");
    let mut socket = terminal.attach();
    let since = stopwatch();
    assert_eq!(socket.next(), Message::Ping);
    // The Python SDK waits for 10 s.
    assert!(since() < Duration::from_secs(10), "{:?}", since());
    assert_eq!(socket.next(), Message::Ping, "one without an answer is no reason to go");
    assert_eq!(terminal.info()["is_alive"], true);
}

#[test]
fn what_comes_together_with_a_close_was_typed() {
    let daemon = TestDaemon::open();
    let terminal = Terminal::shell(&daemon, "stty -echo; echo on; read line; echo got $line; cat");
    let mut socket = terminal.attach();
    read_until(&mut socket, "on\r\n");
    let close = frame(CLOSE, &1000_u16.to_be_bytes());
    socket.send_raw(&[frame(BINARY, b"\x00hello\n"), close.clone()].concat());
    assert_eq!(read_to_end(&mut socket).2, closed(1000, ""));
    read_until(&mut terminal.attach(), "got hello\r\n");
    terminal.kill();

    // More than a terminal holds, of which nothing is read at first.
    let script = "stty raw -echo; echo on; sleep 1; head -c 180000 | wc -c > count; sleep 1000";
    let terminal = Terminal::shell(&daemon, script);
    let mut socket = terminal.attach();
    read_until(&mut socket, "on");
    let part = frame(BINARY, &[&b"\x00"[..], &[b'x'; 60_000]].concat());
    socket.send_raw(&[part.clone(), part.clone(), part, close].concat());
    assert_eq!(read_to_end(&mut socket).2, closed(1000, ""));
    let count = || std::fs::read_to_string(daemon.dir.path().join("count")).unwrap_or_default();
    wait_until("all was read", || count().trim() == "180000");
    terminal.kill();
}

#[test]
fn what_is_typed_does_what_it_does_at_a_terminal() {
    let daemon = TestDaemon::open();
    let terminal = Terminal::shell(
        &daemon,
        "trap 'echo interrupted; exit 5' INT; echo on; while :; do sleep 0.02; done",
    );
    let mut socket = terminal.attach();
    read_until(&mut socket, "on\r\n");
    type_in(&mut socket, "\x03");
    let (output, code, _) = read_to_end(&mut socket);
    assert!(output.contains("interrupted"), "{output:?}");
    assert_eq!(code, Some(5));
}

#[test]
fn a_new_size_reaches_the_program_columns_first() {
    let daemon = TestDaemon::open();
    let terminal = Terminal::shell(
        &daemon,
        "trap 'echo told' WINCH; echo on; while :; do sleep 0.02; stty size; done",
    );
    let mut socket = terminal.attach();
    read_until(&mut socket, "on\r\n");
    socket.send(BINARY, b"\x01\x00\x64\x00\x1e");
    read_until(&mut socket, "told\r\n");
    read_until(&mut socket, "30 100\r\n");
    assert_eq!((&terminal.info()["rows"], &terminal.info()["cols"]), (&json!(30), &json!(100)));
    socket.send(BINARY, b"\x01\xff\xff\x00\x00");
    read_until(&mut socket, "1 1000\r\n");
}

#[test]
fn the_end_is_told_by_frame_and_close_and_for_a_minute_after() {
    let daemon = TestDaemon::open();
    let table = [
        ("exit 3", 3, "exit:3"),
        ("kill -9 $$", 137, "exit:137"),
        ("kill -TERM $$", 143, "exit:143"),
    ];
    for (script, code, reason) in table {
        let terminal = Terminal::shell(&daemon, &format!("echo last words; {script}"));
        for attempt in 0..2 {
            let (output, exit, end) = read_to_end(&mut terminal.attach());
            assert_eq!(output, "last words\r\n", "{script} {attempt}");
            assert_eq!((exit, end), (Some(code), closed(1000, reason)), "{script}");
        }
        let info = terminal.wait_end();
        assert_eq!(info["exit_code"], code);
        assert!(info["ended_at"].as_u64() >= info["created_at"].as_u64());
        terminal.kill();
    }
}

#[test]
fn exit_codes_are_never_mixed_up() {
    let daemon = TestDaemon::open();
    let terminals: Vec<_> = (0..40)
        .map(|code| {
            let pid = daemon.start_shell(&format!("exit {code}"));
            (Terminal::shell(&daemon, &format!("exit {}", code + 100)), pid, code)
        })
        .collect();
    for (terminal, pid, code) in terminals {
        assert_eq!(terminal.wait_end()["exit_code"], code + 100);
        assert_eq!(daemon.wait_end(pid)["exit_code"], code);
    }
}

#[test]
fn a_kill_hangs_up_and_takes_all_that_came_from_it() {
    let daemon = TestDaemon::open();
    let terminal = Terminal::shell(
        &daemon,
        "trap 'echo hung up; exit 1' HUP; echo on; while :; do sleep 0.02; done",
    );
    let mut socket = terminal.attach();
    read_until(&mut socket, "on\r\n");
    terminal.kill();
    let (output, exit, end) = read_to_end(&mut socket);
    assert!(output.contains("hung up"), "{output:?}");
    assert_eq!((exit, end), (None, closed(1001, "session terminated")));
    assert_eq!(terminal.info()["exit_code"], 1);
    assert_eq!(read_to_end(&mut terminal.attach()).2, closed(1001, "session terminated"));

    let script = "trap '' HUP INT TERM; setsid sleep 1000 & (env -i sleep 1001 &); echo on; \
                  while :; do sleep 0.2; done";
    let terminal = Terminal::shell(&daemon, script);
    let mut socket = terminal.attach();
    read_until(&mut socket, "on\r\n");
    wait_until("all are there", || daemon.guest_processes() >= 3);
    let since = stopwatch();
    terminal.kill();
    terminal.kill();
    assert_eq!(read_to_end(&mut socket).2, closed(1001, "session terminated"));
    assert!(since() > Duration::from_secs(4), "{:?}", since());
    wait_until("nobody is left", || daemon.guest_processes() == 0);
    assert_eq!(terminal.info()["exit_code"], 137);
}

#[test]
fn a_shutdown_ends_terminals_too() {
    let daemon = TestDaemon::open();
    // Interactive, so it does not heed SIGTERM.
    let terminal = Terminal::open(
        &daemon,
        &json!({"command": "bash", "args": ["--norc", "-i"], "env": {"PS1": "prompt>"}}),
    );
    let mut socket = terminal.attach();
    read_until(&mut socket, "prompt>");
    assert_eq!(daemon.request("POST", "/internal/v1/shutdown", b"").status, 200);
    assert_eq!(read_to_end(&mut socket).2, closed(1001, "session terminated"));
}

#[test]
fn rules_are_kept_by_closing() {
    let daemon = TestDaemon::open();
    let terminal = Terminal::shell(&daemon, "stty raw -echo; cat > /dev/null");
    let table: &[(&[u8], u16, &str)] = &[
        (&frame(TEXT, b"hello"), 1003, "binary"),
        (&frame(BINARY, b""), 1003, "empty"),
        (&frame(BINARY, b"\x07"), 1003, "opcode 7"),
        (&frame(BINARY, b"\x01\x00"), 1003, "length"),
        (&frame(BINARY, &[0; (64 << 10) + 1]), 1009, "64 KiB"),
        (&[frame(0x02, &[0; 40_000]), frame(0x80, &[0; 40_000])].concat(), 1009, "64 KiB"),
    ];
    for (bytes, code, text) in table {
        let mut socket = terminal.attach();
        socket.send_raw(bytes);
        let (_, _, end) = read_to_end(&mut socket);
        assert!(
            matches!(&end, Message::Close(c, reason) if c == code && reason.contains(text)),
            "{text}: {end:?}"
        );
    }
    // Whole messages of 64 KiB are fine, but not 2 MiB at once.
    let mut socket = terminal.attach();
    for _ in 0..32 {
        socket.send(BINARY, &[0; 64 << 10]);
    }
    let (_, _, end) = read_to_end(&mut socket);
    assert!(matches!(&end, Message::Close(1008, reason) if reason.contains("1 MiB")), "{end:?}");
    assert_eq!(terminal.info()["is_alive"], true, "the terminal goes on");
}

#[test]
fn who_never_says_ready_is_sent_away_after_a_mebibyte() {
    let daemon = TestDaemon::open();
    let terminal = Terminal::shell(&daemon, "read line; seq 1 400000; touch done; read line");
    let mut socket = terminal.look();
    type_in(&mut socket, "go\n");
    let (output, _, end) = read_to_end(&mut socket);
    assert_eq!(output, "");
    assert!(matches!(&end, Message::Close(1008, reason) if reason.contains("READY")), "{end:?}");
    wait_until("all is written", || daemon.dir.path().join("done").exists());
    // The last mebibyte is kept, and its end is the end of the output. What the kernel still has
    // of it when we look comes after that mebibyte.
    let mut socket = terminal.attach();
    let seen = read_until(&mut socket, "400000\r\n");
    let most = (1 << 20) + (64 << 10);
    assert!(seen.len() <= most && seen.len() > 900_000, "{}", seen.len());
}

#[test]
fn a_reader_that_is_only_slow_misses_nothing() {
    let daemon = TestDaemon::open();
    let terminal = Terminal::shell(&daemon, "read line; seq 1 1000000");
    let mut socket = terminal.attach();
    type_in(&mut socket, "\n");
    let mut reads = 0;
    let mut seen = Vec::new();
    let end = loop {
        match socket.next() {
            Message::Binary(bytes) if bytes[0] == 0 => seen.extend(&bytes[1..]),
            Message::Binary(_) | Message::Ping | Message::Pong(_) => {}
            end @ (Message::Close(..) | Message::End) => break end,
        }
        reads += 1;
        if reads % 64 == 0 {
            assert_eq!(daemon.get("/health").status, 200);
        }
    };
    assert_eq!(end, closed(1000, "exit:0"));
    let text = String::from_utf8(seen).expect("digits");
    let numbers: Vec<&str> = text.split("\r\n").filter(|line| !line.is_empty()).collect();
    assert_eq!(numbers.len(), 1_000_000);
    assert!(numbers.iter().zip(1_i32..).all(|(line, number)| line.parse() == Ok(number)));
}

#[test]
fn who_never_reads_is_sent_away_and_nobody_waits_for_it() {
    let daemon = TestDaemon::open();
    let terminal = Terminal::shell(
        &daemon,
        "read line; i=0; while :; do seq 1 100000; i=$((i+1)); echo $i > rounds; done",
    );
    let mut deaf = terminal.attach();
    type_in(&mut deaf, "\n");
    let rounds = || std::fs::read_to_string(daemon.dir.path().join("rounds")).unwrap_or_default();
    wait_until("it begins", || !rounds().is_empty());
    // It is held up, then sent away after 10 s; then the program goes on without it.
    let mut last = (rounds(), stopwatch());
    let mut longest = Duration::ZERO;
    wait_until("it was held up and goes on", || {
        assert_eq!(daemon.get("/health").status, 200);
        let now = rounds();
        if now != last.0 {
            longest = longest.max(last.1());
            last = (now, stopwatch());
        }
        longest > Duration::from_secs(5)
    });
    let (_, _, end) = read_to_end(&mut deaf);
    assert_eq!(end, closed(1008, "output lag"));
    terminal.kill();
}

#[test]
fn input_that_nobody_reads_is_bounded_and_who_has_sent_it_may_go() {
    let daemon = TestDaemon::open();
    let terminal = Terminal::shell(&daemon, "stty raw -echo; echo on; sleep 1000");
    let (mut without, mut looks) = (usize::MAX, 0);
    wait_until("the requests of before are over", || {
        without = without.min(daemon.descriptors());
        looks += 1;
        looks > 20
    });
    let mut socket = terminal.attach();
    read_until(&mut socket, "on");
    socket.socket().set_nonblocking(true).expect("set");
    let message = frame(BINARY, &[0; 32 << 10]);
    let mut written = 0;
    wait_until("nothing more is taken", || {
        let mut taken = 0;
        while let Ok(count) = socket.socket().write(&message[written % message.len()..]) {
            taken += count;
            written += count;
        }
        taken == 0 && written > 0
    });
    assert_eq!(daemon.get("/health").status, 200);
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("there");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("a line");
    let kib: u64 =
        line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number");
    assert!(kib < 32 << 10, "{line}");
    // Nothing more of it is read, so not its end either; but a ping finds nobody.
    drop(socket);
    wait_until("its connection is closed", || daemon.descriptors() <= without);
    assert_eq!(terminal.info()["is_alive"], true);
}

#[test]
fn a_paste_of_many_lines_arrives_whole() {
    let daemon = TestDaemon::open();
    let terminal = Terminal::shell(&daemon, "stty raw -echo; echo on; head -c 600000 | md5sum; ");
    let mut socket = terminal.attach();
    read_until(&mut socket, "on");
    let text: Vec<u8> =
        (0..600_000_u32).map(|n| b'a' + u8::try_from(n % 23).expect("small")).collect();
    for chunk in text.chunks(50_000) {
        socket.send(BINARY, &[b"\x00", chunk].concat());
    }
    let (output, _, _) = read_to_end(&mut socket);
    let sum = daemon.dir.path().join("text");
    std::fs::write(&sum, &text).expect("written");
    let expected = daemon.run_shell("md5sum < text").0;
    assert!(output.contains(&expected[0]), "{output:?} {expected:?}");
}

#[test]
fn there_are_64_at_most() {
    let daemon = TestDaemon::open();
    let terminals: Vec<_> = (0..64)
        .map(|_| Terminal::open(&daemon, &json!({"command": "sleep", "args": ["1000"]})))
        .collect();
    let answer = daemon.api("POST", "/pty", &json!({"command": "true"}));
    assert_eq!(answer.refusal(), (429, "TOO_MANY_SESSIONS".to_owned()));
    terminals[7].kill();
    terminals[7].wait_end();
    Terminal::open(&daemon, &json!({"command": "true"})).wait_end();
    for terminal in &terminals {
        terminal.kill();
    }
    wait_until("all have ended", || daemon.guest_processes() == 0);
    // Ended ones are remembered, but not without bound.
    for _ in 0..70 {
        Terminal::open(&daemon, &json!({"command": "true"})).wait_end();
    }
    let list = daemon.get("/pty").json();
    assert!(list["sessions"].as_array().expect("a list").len() <= 65, "{list}");
}

#[test]
fn background_programs_do_not_keep_a_terminal() {
    let daemon = TestDaemon::open();
    let terminal =
        Terminal::shell(&daemon, "trap '' HUP; (while :; do echo noise; done) & echo done; exit 4");
    let (output, exit, end) = read_to_end(&mut terminal.attach());
    assert!(output.contains("done"), "{}", output.len());
    assert_eq!((exit, end), (Some(4), closed(1000, "exit:4")));
}

#[test]
fn a_program_without_its_terminal_open_still_has_one() {
    let daemon = TestDaemon::open();
    let terminal = Terminal::shell(
        &daemon,
        "exec 3>/dev/tty; exec <&- >&- 2>&-; sleep 0.3; echo late >&3; exec 3>&-; sleep 0.3; \
         exit 6",
    );
    let (output, exit, _) = read_to_end(&mut terminal.attach());
    assert_eq!((output.as_str(), exit), ("late\r\n", Some(6)));
    let mut bare = daemon.connect();
    drop(bare.write_all(b"GET / HTTP/1.0\r\n\r\n"));
    let mut answer = String::new();
    bare.read_to_string(&mut answer).expect("an answer");
}
