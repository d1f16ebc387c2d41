//! PID 1 of the test sandboxes: a web server that does to the sandbox what a test asks.
//!
//! Compiled by the tests themselves for the musl target, with nothing but the standard library:
//! a static file that needs no root file system around it.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs,
    io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

unsafe extern "C" {
    fn kill(pid: i32, signal: i32) -> i32;
    fn mount(
        source: *const i8,
        target: *const i8,
        kind: *const i8,
        flags: u64,
        data: *const i8,
    ) -> i32;
}

const MS_RDONLY_OFF_REMOUNT_BIND: u64 = 32 | 4096;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["hog", mib] => hog(mib.parse().unwrap()),
        ["bomb"] => bomb(),
        ["witness", mib] => witness(mib.parse().unwrap()),
        ["threads", count] => threads(count.parse().unwrap()),
        ["sleep"] => thread::sleep(Duration::from_secs(3600)),
        _ => serve(),
    }
}

fn serve() {
    let listener = TcpListener::bind("0.0.0.0:9501").unwrap();
    for stream in listener.incoming().flatten() {
        thread::spawn(move || answer(stream));
    }
}

fn answer(stream: TcpStream) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let request = lines.next()?.ok()?;
    while !lines.next()?.ok()?.is_empty() {}
    let path = request.split(' ').nth(1)?.to_owned();
    let body = act(&path);
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .ok()
}

fn act(path: &str) -> String {
    if let Some(file) = path.strip_prefix("/read") {
        return fs::read_to_string(file).unwrap_or_else(|error| format!("error: {error}"));
    }
    if let Some(file) = path.strip_prefix("/write") {
        return match fs::write(file, "x") {
            Ok(()) => "written".to_owned(),
            Err(error) => format!("error: {error}"),
        };
    }
    if let Some(words) = path.strip_prefix("/fill/") {
        let (mib, file) = words.split_once('/').unwrap();
        return fill(&format!("/{file}"), mib.parse().unwrap());
    }
    match path.split('/').skip(1).collect::<Vec<_>>()[..] {
        ["spawn", ref words @ ..] => spawn(words),
        ["kill-largest"] => kill_largest(),
        ["processes"] => processes().len().to_string(),
        ["alive", pid] => fs::metadata(format!("/proc/{pid}")).is_ok().to_string(),
        ["cpus"] => thread::available_parallelism().unwrap().to_string(),
        ["remount-daemon"] => remount_daemon(),
        ["witness"] => ask_witness(),
        ["spun", millis] => spun(Duration::from_millis(millis.parse().unwrap())),
        _ => "hello".to_owned(),
    }
}

/// Starts this program again and reaps it when it ends.
fn spawn(words: &[&str]) -> String {
    let child = Command::new("/proc/self/exe").args(words).stdin(Stdio::null()).spawn();
    match child {
        Ok(mut child) => {
            let pid = child.id();
            thread::spawn(move || child.wait());
            pid.to_string()
        }
        Err(error) => format!("error: {error}"),
    }
}

fn hog(mib: usize) {
    let mut memory = Vec::with_capacity(mib);
    for _ in 0..mib {
        memory.push(vec![1_u8; 1 << 20]);
    }
    println!("{}", memory.len());
    thread::sleep(Duration::from_secs(3600));
}

const WITNESS: &str = "127.0.0.1:9600";

/// Has of everything that must outlive a snapshot, and tells whoever connects how it is:
/// `<steps> <ticks of a timer> <damaged pages> <content of a deleted file>`.
fn witness(mib: usize) {
    static STEPS: AtomicU64 = AtomicU64::new(0);
    static TICKS: AtomicU64 = AtomicU64::new(0);
    let pages: Vec<u64> = (0..mib as u64 * 256).collect();
    let memory: Vec<[u64; 512]> =
        pages.iter().map(|page| [page.wrapping_mul(0x9e37_79b9_7f4a_7c15); 512]).collect();
    let path = "/tmp/deleted";
    let mut file = fs::File::options().create(true).read(true).write(true).open(path).unwrap();
    file.write_all(b"still-here").unwrap();
    fs::remove_file(path).unwrap();
    thread::spawn(|| {
        loop {
            for _ in 0..1000 {
                STEPS.fetch_add(1, Ordering::Relaxed);
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
    thread::spawn(|| {
        loop {
            thread::sleep(Duration::from_millis(20));
            TICKS.fetch_add(1, Ordering::Relaxed);
        }
    });
    for stream in TcpListener::bind(WITNESS).unwrap().incoming() {
        let damaged = pages.iter().zip(&memory).filter(|(page, words)| {
            words.iter().any(|word| *word != page.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        });
        let damaged = damaged.count();
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        let (steps, ticks) = (STEPS.load(Ordering::Relaxed), TICKS.load(Ordering::Relaxed));
        write!(stream.unwrap(), "{steps} {ticks} {damaged} {text}").unwrap();
    }
}

fn ask_witness() -> String {
    let mut text = String::new();
    let asked = TcpStream::connect(WITNESS).and_then(|mut stream| stream.read_to_string(&mut text));
    match asked {
        Ok(_) => text,
        Err(error) => format!("error: {error}"),
    }
}

/// Writes a file of so many MiB.
fn fill(path: &str, mib: usize) -> String {
    let written = fs::File::create(path).and_then(|mut file| {
        let chunk = vec![1; 1 << 20];
        (0..mib).try_for_each(|_| file.write_all(&chunk))
    });
    match written {
        Ok(()) => "written".to_owned(),
        Err(error) => format!("error: {error}"),
    }
}

/// Sleeps in many threads, after each has run for a moment.
fn threads(count: usize) {
    let run = || {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(1) {}
        thread::sleep(Duration::from_secs(3600));
    };
    for _ in 0..count {
        thread::Builder::new().stack_size(64 << 10).spawn(run).unwrap();
    }
    thread::sleep(Duration::from_secs(3600));
}

/// Two for each one, without end.
fn bomb() {
    loop {
        for _ in 0..2 {
            drop(Command::new("/proc/self/exe").arg("bomb").spawn());
        }
    }
}

fn processes() -> BTreeMap<i32, u64> {
    // By number: gVisor lists some twice once there are more than fit one call.
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
        let resident = statm.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        found.insert(pid, resident);
    }
    found
}

fn kill_largest() -> String {
    let victim = processes().into_iter().filter(|(pid, _)| *pid != 1).max_by_key(|(_, size)| *size);
    let Some((pid, _)) = victim else {
        return "none".to_owned();
    };
    unsafe { kill(pid, 9) };
    pid.to_string()
}

fn remount_daemon() -> String {
    let target = CString::new("/.tarn/tarnd").unwrap();
    let done = unsafe {
        mount(
            std::ptr::null(),
            target.as_ptr().cast(),
            std::ptr::null(),
            MS_RDONLY_OFF_REMOUNT_BIND,
            std::ptr::null(),
        )
    };
    done.to_string()
}

/// Counts how long a thread that never sleeps was away: the wall time in which the CPU time of
/// this process did not move is not its own.
fn spun(wall: Duration) -> String {
    let start = Instant::now();
    let mut rounds = 0_u64;
    while start.elapsed() < wall {
        rounds += 1;
    }
    rounds.to_string()
}
