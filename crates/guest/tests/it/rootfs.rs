//! Builds that a client drives: what is asked over the bridge, what is said, and who goes when.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use serde_json::{Value, json};
use tarn_guest_api::{COPY_ANNOUNCEMENT, RootfsMetadata, RootfsNews};

/// A bridge, the server's end of it, and the command of a client.
struct Build {
    bridge: Child,
    server: TcpStream,
    command: Child,
}

fn start(dir: &Path, spec: &Value) -> Build {
    fs::write(dir.join("spec.json"), spec.to_string()).expect("written");
    let socket = dir.join("run/build.sock");
    let program = |name: &str| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_tarnd"));
        program.arg(name).arg("--socket").arg(&socket);
        program.stdout(Stdio::piped()).stderr(Stdio::piped());
        program
    };
    let mut bridge = program("rootfs-bridge").spawn().expect("it starts");
    let mut line = String::new();
    let stdout = bridge.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let port = line.trim().strip_prefix(COPY_ANNOUNCEMENT).and_then(|port| port.parse().ok());
    let port: u16 = port.expect("a port");
    let server = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let mut command = program("rootfs-build");
    command.arg("--spec").arg(dir.join("spec.json"));
    command.arg("--metadata-out").arg(dir.join("metadata.json"));
    Build { bridge, server, command: command.spawn().expect("it starts") }
}

fn spec() -> Value {
    json!({
        "buildId": "build_1", "contextDir": "/context", "rootfsDiskBytes": 7, "dockerfile": "FROM x",
        "builder": {"image": "x"}, "dockerConfigJson": "{}",
    })
}

fn say(server: &mut TcpStream, news: &RootfsNews) {
    let line = serde_json::to_string(news).expect("JSON");
    writeln!(server, "{line}").expect("sent");
}

fn asked(server: &TcpStream) -> Value {
    let mut line = String::new();
    BufReader::new(server).read_line(&mut line).expect("a line");
    serde_json::from_str(&line).expect("JSON")
}

fn ended(command: Child) -> (Output, String) {
    let output = command.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

#[test]
fn a_build_is_asked_for_told_and_written_down() {
    let dir = tempfile::tempdir().expect("a directory");
    let Build { mut bridge, mut server, command } = start(dir.path(), &spec());
    let expected = json!({
        "build_id": "build_1", "context_dir": "/context", "disk_bytes": 7, "docker_config": "{}",
    });
    assert_eq!(asked(&server), expected);
    say(&mut server, &RootfsNews::Line("one\u{1b}[0m".to_owned()));
    let metadata = RootfsMetadata {
        snapshot_id: "snap_1".to_owned(),
        snapshot_uri: "snapshot://snap_1".to_owned(),
        snapshot_format_version: "v".to_owned(),
        snapshot_size_bytes: 1,
        rootfs_disk_bytes: 7,
        rootfs_node_kind: "base".to_owned(),
    };
    say(&mut server, &RootfsNews::Done(metadata.clone()));
    let (output, said) = ended(command);
    assert!(output.status.success(), "{said}");
    assert_eq!(output.stdout, b"one\x1b[0m\n");
    let written = fs::read(dir.path().join("metadata.json")).expect("written");
    assert_eq!(serde_json::from_slice::<RootfsMetadata>(&written).expect("JSON"), metadata);
    // The command has gone, and so does the bridge.
    assert_eq!(server.read(&mut [0; 8]).expect("an end"), 0);
    assert!(bridge.wait().expect("it ends").success());
}

#[test]
fn a_build_that_fails_or_is_given_up_fails() {
    for (news, words) in [
        (Some(RootfsNews::Failed { out_of_memory: false }), "the build failed"),
        (None, "given the build up"),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let Build { mut bridge, mut server, command } = start(dir.path(), &spec());
        asked(&server);
        if let Some(news) = news {
            say(&mut server, &news);
        }
        drop(server);
        let (output, said) = ended(command);
        assert!(!output.status.success() && said.contains(words), "{said}");
        assert!(!dir.path().join("metadata.json").exists());
        bridge.wait().expect("it ends");
    }
}

#[test]
fn a_server_that_goes_before_the_build_begins_leaves_no_bridge() {
    let dir = tempfile::tempdir().expect("a directory");
    let Build { mut bridge, server, command } = start(dir.path(), &json!({}));
    let (output, said) = ended(command);
    assert!(!output.status.success() && said.contains("spec.json"), "{said}");
    drop(server);
    assert!(bridge.wait().expect("it ends").success());
    assert!(!dir.path().join("run/build.sock").exists());
}

#[test]
fn a_command_that_is_killed_is_seen() {
    let dir = tempfile::tempdir().expect("a directory");
    let Build { mut bridge, mut server, mut command } = start(dir.path(), &spec());
    asked(&server);
    command.kill().expect("killed");
    command.wait().expect("it ends");
    assert_eq!(server.read(&mut [0; 8]).expect("an end"), 0);
    drop(server);
    bridge.wait().expect("it ends");
}
