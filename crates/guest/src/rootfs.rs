//! `tarnd rootfs-build` and `tarnd rootfs-bridge`: a build of the legacy image family, as its
//! client drives it (spec 06 §3).
//!
//! ```text
//!  client ──starts──▶ rootfs-build ──socket──▶ rootfs-bridge ◀──port── the server, who started it
//! ```
//!
//! The client runs `rootfs-build` in a sandbox of its own and waits for its end. What it asks for
//! is done by the server in other sandboxes, so it only asks, repeats what the server says, and
//! writes the metadata down. The server cannot be reached from a sandbox, but reaches it: the
//! bridge, a process that the server started, takes the one call and carries its bytes.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write},
    net::{Shutdown, TcpStream},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde::Deserialize;
use tarn_guest_api::{ROOTFS_LINE_BYTES, ROOTFS_SOCKET, RootfsAsk, RootfsMetadata, RootfsNews};

use crate::copy;

/// How often a build looks for its bridge, which is started when the sandbox is: for 30 s.
const BRIDGE_LOOKS: u32 = 600;
const BRIDGE_LOOK: Duration = Duration::from_millis(50);

/// The largest spec.
const MAX_SPEC: u64 = 16 << 20;

/// The program that clients ask why a build failed. It tells of the sandboxes of the build what a
/// kernel of theirs would.
const DMESG: &str = "/usr/local/bin/dmesg";
const OUT_OF_MEMORY: &str =
    "#!/bin/sh\necho 'tl-rootfs-build: Out of memory: a process of the build was killed'\n";

/// What a command line asks for.
pub(crate) enum RootfsCommand {
    Build { spec: PathBuf, metadata: PathBuf, socket: PathBuf },
    Bridge { socket: PathBuf },
}

/// What of the spec matters here. There is more in it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    build_id: String,
    context_dir: String,
    #[serde(default)]
    import_image_reference: Option<String>,
    rootfs_disk_bytes: u64,
    #[serde(default)]
    docker_config_json: Option<String>,
}

// === impl RootfsCommand ===

impl RootfsCommand {
    /// Reads a command line; `None` means that it asks for something else.
    pub(crate) fn parse(args: &[String]) -> Option<Result<Self, String>> {
        let (command, options) = args.split_first()?;
        if !matches!(command.as_str(), "rootfs-build" | "rootfs-bridge") {
            return None;
        }
        let (mut spec, mut metadata, mut socket) = (None, None, PathBuf::from(ROOTFS_SOCKET));
        for pair in options.chunks(2) {
            match pair {
                [name, value] if name == "--spec" => spec = Some(PathBuf::from(value)),
                [name, value] if name == "--metadata-out" => metadata = Some(PathBuf::from(value)),
                [name, value] if name == "--socket" => socket = PathBuf::from(value),
                [name, ..] => return Some(Err(format!("{command}: `{name}` is no option of it"))),
                [] => {}
            }
        }
        match (command.as_str(), spec, metadata) {
            ("rootfs-bridge", None, None) => Some(Ok(Self::Bridge { socket })),
            ("rootfs-build", Some(spec), Some(metadata)) => {
                Some(Ok(Self::Build { spec, metadata, socket }))
            }
            ("rootfs-build", _, _) => {
                Some(Err(format!("{command}: give `--spec` and `--metadata-out`")))
            }
            _ => None,
        }
    }

    /// Does it; what goes wrong is the last line of standard error.
    pub(crate) fn run(&self) -> ExitCode {
        let done = match self {
            Self::Build { spec, metadata, socket } => build(spec, metadata, socket),
            Self::Bridge { socket } => bridge(socket).map_err(|error| error.to_string()),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(said) => {
                drop(writeln!(io::stderr(), "tl-rootfs-build: {said}"));
                ExitCode::FAILURE
            }
        }
    }
}

fn build(spec: &Path, metadata: &Path, socket: &Path) -> Result<(), String> {
    let ask = read_spec(spec).map_err(|error| format!("{}: {error}", spec.display()))?;
    let mut server = connect(socket)?;
    let broken = |error: io::Error| format!("the server: {error}");
    let mut line = serde_json::to_vec(&ask).map_err(|error| error.to_string())?;
    line.push(b'\n');
    server.write_all(&line).map_err(broken)?;
    let mut news = BufReader::new(server);
    let mut stdout = io::stdout();
    loop {
        let mut line = String::new();
        news.by_ref().take(ROOTFS_LINE_BYTES).read_line(&mut line).map_err(broken)?;
        if line.is_empty() {
            return Err("the server has given the build up, or was restarted; build again".into());
        }
        match serde_json::from_str(&line).map_err(|error| format!("the server: {error}"))? {
            RootfsNews::Line(line) => {
                // Nobody may listen; the build goes on all the same.
                drop(writeln!(stdout, "{line}"));
            }
            RootfsNews::Done(facts) => return write_metadata(metadata, &facts),
            RootfsNews::Failed { out_of_memory } => {
                if out_of_memory {
                    tell_of_memory();
                }
                return Err("the build failed".to_owned());
            }
        }
    }
}

fn read_spec(path: &Path) -> Result<RootfsAsk, String> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_SPEC).read_to_string(&mut text).map_err(|error| error.to_string())?;
    let spec: Spec = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    Ok(RootfsAsk {
        build_id: spec.build_id,
        context_dir: spec.context_dir,
        import: spec.import_image_reference,
        disk_bytes: spec.rootfs_disk_bytes,
        docker_config: spec.docker_config_json,
    })
}

fn connect(socket: &Path) -> Result<UnixStream, String> {
    let mut looks = 0;
    loop {
        looks += 1;
        match UnixStream::connect(socket) {
            Ok(server) => return Ok(server),
            Err(_not_yet) if looks < BRIDGE_LOOKS => thread::sleep(BRIDGE_LOOK),
            Err(error) => {
                return Err(format!(
                    "no build is awaited from this sandbox ({error}); the server may have been \
                     restarted: build again"
                ));
            }
        }
    }
}

fn write_metadata(path: &Path, facts: &RootfsMetadata) -> Result<(), String> {
    let text = serde_json::to_vec(facts).map_err(|error| error.to_string())?;
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn tell_of_memory() {
    let told = fs::write(DMESG, OUT_OF_MEMORY)
        .and_then(|()| fs::set_permissions(DMESG, fs::Permissions::from_mode(0o755)));
    if let Err(error) = told {
        drop(writeln!(io::stderr(), "tl-rootfs-build: {DMESG}: {error}"));
    }
}

/// Carries the bytes of one call, until either side has no more.
fn bridge(socket: &Path) -> io::Result<()> {
    if let Some(dir) = socket.parent() {
        fs::create_dir_all(dir)?;
    }
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(socket)?;
    let server = copy::announce()?;
    // It is silent until the build begins, and while a command is.
    server.set_read_timeout(None)?;
    server.set_write_timeout(None)?;
    let (watched, own) = (server.try_clone()?, socket.to_owned());
    let given_up = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&given_up);
    thread::spawn(move || {
        // Until the build begins the server has nothing to say but that it is gone.
        if watched.peek(&mut [0]).is_ok_and(|bytes| bytes == 0) {
            flag.store(true, Ordering::Release);
            // Once the build has begun, nobody listens there.
            drop(UnixStream::connect(own));
        }
    });
    let (build, _) = listener.accept()?;
    // There is one build, and it begins once.
    fs::remove_file(socket)?;
    drop(listener);
    if given_up.load(Ordering::Acquire) {
        return Ok(());
    }
    carry(&server, &build)
}

fn carry(server: &TcpStream, build: &UnixStream) -> io::Result<()> {
    let (mut asks, mut to_server) = (build.try_clone()?, server.try_clone()?);
    let asking = thread::spawn(move || {
        let sent = io::copy(&mut asks, &mut to_server);
        // A build that was killed is given up.
        drop(to_server.shutdown(Shutdown::Both));
        sent
    });
    let (mut news, mut to_build) = (server, build);
    let told = io::copy(&mut news, &mut to_build);
    drop(build.shutdown(Shutdown::Both));
    drop(asking.join());
    told.map(drop)
}
