//! Starting a daemon for one test, and the small HTTP client that drives it.
//!
//! The client is written by hand so that tests see bytes and timing, and can misbehave.

use std::{
    cell::RefCell,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The token of every test daemon.
pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

const TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// A daemon that ends, with all that it started, at the end of its test.
pub(crate) struct TestDaemon {
    child: Child,
    token: RefCell<String>,
    address: SocketAddr,
    /// The working directory, given by `init`.
    pub(crate) dir: TempDir,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// The head, in lower case.
    pub(crate) head: String,
    /// The body, without its transfer coding.
    pub(crate) body: Vec<u8>,
}

/// An answer whose body is read line by line as it comes.
pub(crate) struct Stream {
    reader: BufReader<TcpStream>,
    pub(crate) status: u16,
    pub(crate) head: String,
    chunk: Vec<u8>,
}

// === impl TestDaemon ===

impl TestDaemon {
    /// Starts a closed daemon.
    pub(crate) fn closed() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tarnd"))
            .args(["--listen", "127.0.0.1:0", "--allow-internal-from-loopback"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tarnd starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("tarnd announces its address");
        let address = line.trim().strip_prefix("listening on ").expect("an announcement");
        let address = address.parse().expect("an address");
        let token = RefCell::new(TOKEN.to_owned());
        Self { child, token, address, dir: tempfile::tempdir().expect("a directory") }
    }

    /// Starts a daemon and opens it for the user of the test.
    pub(crate) fn open() -> Self {
        let daemon = Self::closed();
        let answer = daemon.init(&json!({}));
        assert_eq!(answer.status, 200, "{answer:?}");
        daemon
    }

    /// Sends `init`, with some fields replaced.
    pub(crate) fn init(&self, changes: &Value) -> Answer {
        let user = format!("{}:{}", nix::unistd::getuid(), nix::unistd::getgid());
        let mut request = json!({
            "protocol": 1,
            "token": TOKEN,
            "sandbox_id": "test",
            "hostname": "test",
            "env": [["LANG", "C.UTF-8"]],
            "default_user": user,
            "working_dir": self.dir.path(),
            "entropy": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
            "now_ms": 1,
            "limits": {"processes": 200, "output_bytes": 64 << 20},
        });
        for (key, value) in changes.as_object().expect("an object") {
            request[key] = value.clone();
        }
        self.request("POST", "/internal/v1/init", request.to_string().as_bytes())
    }

    /// Sends a request with the token and returns the whole answer.
    pub(crate) fn request(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.request_with(method, path, &format!("x-tarn-token: {}\r\n", self.token()), body)
    }

    /// Sends a request with other headers.
    pub(crate) fn request_with(&self, method: &str, path: &str, head: &str, body: &[u8]) -> Answer {
        self.stream_with(method, path, head, body).finish()
    }

    /// Sends a request below the public prefix.
    pub(crate) fn api(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.request(method, &format!("/api/v1{path}"), body.as_bytes())
    }

    /// Gets something below the public prefix.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.api("GET", path, &Value::Null)
    }

    /// Sends a request below the public prefix, to read its answer as it comes.
    pub(crate) fn stream(&self, method: &str, path: &str, body: &Value) -> Stream {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let head = format!("x-tarn-token: {}\r\n", self.token());
        self.stream_with(method, &format!("/api/v1{path}"), &head, body.as_bytes())
    }

    fn stream_with(&self, method: &str, path: &str, head: &str, body: &[u8]) -> Stream {
        let mut socket = self.connect();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: t\r\n{head}content-length: {length}\r\nconnection: close\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).expect("sent");
        // The daemon may refuse before it has read everything.
        drop(socket.write_all(body));
        Stream::read_head(socket)
    }

    /// The token that it asks for.
    pub(crate) fn token(&self) -> String {
        self.token.borrow().clone()
    }

    /// Sends another token from now on.
    pub(crate) fn use_token(&self, token: &str) {
        self.token.replace(token.to_owned());
    }

    /// The pid of the daemon itself.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Opens a bare connection.
    pub(crate) fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).expect("tarnd accepts");
        socket.set_read_timeout(Some(TIMEOUT)).expect("set");
        socket
    }

    /// Starts a process and returns its description.
    pub(crate) fn start(&self, request: &Value) -> Value {
        let answer = self.api("POST", "/processes", request);
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()
    }

    /// Starts a shell with a script and returns its pid.
    pub(crate) fn start_shell(&self, script: &str) -> i64 {
        pid(&self.start(&json!({"command": "sh", "args": ["-c", script]})))
    }

    /// Runs a shell with a script and returns its lines and the exit frame.
    pub(crate) fn run_shell(&self, script: &str) -> (Vec<String>, Value) {
        let request = json!({"command": "sh", "args": ["-c", script]});
        let mut stream = self.stream("POST", "/processes/run", &request);
        assert_eq!(stream.status, 200);
        let mut frames = stream.frames();
        let last = frames.pop().expect("an exit frame");
        let lines = frames.iter().filter_map(|frame| frame["line"].as_str());
        (lines.map(str::to_owned).collect(), last)
    }

    /// Describes a process.
    pub(crate) fn info(&self, pid: i64) -> Value {
        self.get(&format!("/processes/{pid}")).json()
    }

    /// Waits until a process has ended and describes it.
    pub(crate) fn wait_end(&self, pid: i64) -> Value {
        wait_until("the process ends", || self.info(pid)["status"] != "running");
        self.info(pid)
    }

    /// The retained lines of `stdout`, `stderr` or `output`.
    pub(crate) fn lines(&self, pid: i64, stream: &str) -> Vec<String> {
        let answer = self.get(&format!("/processes/{pid}/{stream}")).json();
        let lines: Vec<String> =
            serde_json::from_value(answer["lines"].clone()).expect("an array of lines");
        assert_eq!(answer["line_count"], lines.len());
        lines
    }

    /// How much of its memory is resident.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id()));
        let pages = statm.expect("it runs").split(' ').nth(1).and_then(|pages| pages.parse().ok());
        4096 * pages.unwrap_or(0_u64)
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs").count()
    }

    /// How many processes there are.
    pub(crate) fn guest_processes(&self) -> u64 {
        let answer = self.request("GET", "/internal/v1/stats", b"").json();
        answer["guest_processes"].as_u64().expect("a number")
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        // Its processes first: without it nobody would know them.
        self.request("POST", "/internal/v1/shutdown", b"");
        if let Ok(list) = serde_json::from_slice::<Value>(&self.get("/processes").body) {
            for process in list["processes"].as_array().into_iter().flatten() {
                self.api("DELETE", &format!("/processes/{}", process["pid"]), &Value::Null);
            }
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

// === impl Answer ===

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// The status and the code of a refusal.
    pub(crate) fn refusal(&self) -> (u16, String) {
        let body = self.json();
        assert!(body["error"].as_str().is_some_and(|text| !text.is_empty()), "{self:?}");
        (self.status, body["code"].as_str().expect("a code").to_owned())
    }
}

// === impl Stream ===

impl Stream {
    pub(crate) fn read_head(socket: TcpStream) -> Self {
        let mut reader = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = reader.read_line(&mut head).expect("a head");
            assert_ne!(read, 0, "the connection was closed after {head:?}");
        }
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.expect("a status");
        Self { reader, status, head: head.to_lowercase(), chunk: Vec::new() }
    }

    /// Reads the rest.
    pub(crate) fn finish(mut self) -> Answer {
        let mut body = std::mem::take(&mut self.chunk);
        if self.head.contains("transfer-encoding: chunked") {
            while let Some(chunk) = self.next_chunk() {
                body.extend(chunk);
            }
        } else {
            self.reader.read_to_end(&mut body).expect("a body");
        }
        Answer { status: self.status, head: self.head, body }
    }

    /// Reads the rest by its announced length, from a connection that stays open.
    pub(crate) fn finish_sized(mut self) -> Answer {
        let length = self.head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.and_then(|text| text.parse().ok()).expect("a length");
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).expect("a body");
        Answer { status: self.status, head: self.head, body }
    }

    /// What comes after the head is not HTTP.
    pub(crate) fn into_reader(self) -> BufReader<TcpStream> {
        self.reader
    }

    /// The next line of a chunked body, without newline; none at its end.
    pub(crate) fn next_line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.chunk.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.chunk.drain(..=end).collect();
                return Some(String::from_utf8(line).expect("UTF-8").trim_end().to_owned());
            }
            let chunk = self.next_chunk()?;
            self.chunk.extend(chunk);
        }
    }

    /// The next `data:` frame; none at the end.
    pub(crate) fn next_frame(&mut self) -> Option<Value> {
        loop {
            let line = self.next_line()?;
            if let Some(data) = line.strip_prefix("data: ") {
                assert_eq!(self.next_line().as_deref(), Some(""), "a blank line after {data}");
                return Some(serde_json::from_str(data).expect("JSON data"));
            }
        }
    }

    /// All frames to the end.
    pub(crate) fn frames(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.next_frame()).collect()
    }

    fn next_chunk(&mut self) -> Option<Vec<u8>> {
        let mut size = String::new();
        self.reader.read_line(&mut size).expect("a chunk size");
        let size = usize::from_str_radix(size.trim(), 16).expect("a hexadecimal size");
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk).expect("a chunk");
        chunk.truncate(size);
        (size > 0).then_some(chunk)
    }
}

/// The pid in a description.
pub(crate) fn pid(info: &Value) -> i64 {
    info["pid"].as_i64().expect("a pid")
}

/// Begins to measure; what it returns tells how long ago that was.
#[allow(clippy::disallowed_methods, reason = "the daemon under test has no clock to pause")]
pub(crate) fn stopwatch() -> impl Fn() -> Duration {
    let begun = std::time::Instant::now();
    move || begun.elapsed()
}

/// Waits for a state, not for a time.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let mut polls = TIMEOUT.as_millis() / POLL.as_millis();
    while !holds() {
        polls -= 1;
        assert!(polls > 0, "timed out: {what}");
        thread::sleep(POLL);
    }
}
