//! Copies of an image build: what goes in, what comes out, and what is refused.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::json;
use tar::{Archive, Builder, EntryType, Header};
use tarn_guest_api::{COPY_ANNOUNCEMENT, CopyHead};

/// Starts a copy and connects to it.
fn start(command: &str, ask: &serde_json::Value) -> (Child, Option<TcpStream>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tarnd"))
        .args([command, &ask.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let port = line.trim().strip_prefix(COPY_ANNOUNCEMENT).and_then(|port| port.parse().ok());
    let peer = port.map(|port: u16| TcpStream::connect(("127.0.0.1", port)).expect("it listens"));
    (child, peer)
}

fn end(child: Child) -> Result<(), String> {
    let done = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    if done.status.success() { Ok(()) } else { Err(said) }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(nix::unistd::getuid().as_raw().into());
    header.set_gid(nix::unistd::getgid().as_raw().into());
    header.set_mtime(7);
    header
}

/// Sends files, and returns what became of them.
fn copy_in(dest: &str, is_one_file: bool, files: &[(&str, u32, &str)]) -> Result<(), String> {
    let (child, peer) = start("copy-in", &json!({ "dest": dest }));
    let mut peer = peer.expect("it listens");
    let head = serde_json::to_string(&CopyHead { is_one_file }).expect("a head");
    writeln!(peer, "{head}").expect("sent");
    let mut archive = Builder::new(&mut peer);
    for (path, mode, content) in files {
        if path.ends_with('/') {
            let mut header = header(EntryType::Directory, *mode, 0);
            archive.append_data(&mut header, path, &b""[..]).expect("sent");
        } else if let Some(target) = content.strip_prefix("-> ") {
            let mut header = header(EntryType::Symlink, *mode, 0);
            archive.append_link(&mut header, path, target).expect("sent");
        } else {
            let mut header = header(EntryType::Regular, *mode, content.len() as u64);
            archive.append_data(&mut header, path, content.as_bytes()).expect("sent");
        }
    }
    archive.finish().expect("sent");
    drop(archive);
    drop(peer);
    end(child)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("it is there and is text")
}

#[test]
fn files_go_in() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path();
    fs::create_dir(root.join("real")).expect("made");
    symlink("real", root.join("link")).expect("made");
    fs::write(root.join("old"), "old").expect("made");
    let dest = |path: &str| format!("{}/{path}", root.display());
    let files = [
        ("d/", 0o700, ""),
        ("d/f", 0o640, "one"),
        ("link/g", 0o4755, "two"),
        ("l", 0o777, "-> d/f"),
    ];
    copy_in(&dest(""), false, &files).expect("it works");
    assert_eq!(read(&root.join("l")), "one");
    assert_eq!(read(&root.join("real/g")), "two");
    let mode = |path: &str| fs::metadata(root.join(path)).expect("there").permissions().mode();
    assert_eq!((mode("d") & 0o7777, mode("d/f") & 0o7777), (0o700, 0o640));
    assert_eq!(mode("real/g") & 0o7777, 0o4755);
    for path in ["d", "d/f", "l"] {
        let facts = fs::symlink_metadata(root.join(path)).expect("there");
        assert_eq!(facts.mtime(), 7, "{path}");
    }
    // One file may become the destination itself, or go into it.
    copy_in(&dest("new/name"), true, &[("f", 0o644, "three")]).expect("it works");
    copy_in(&dest("real"), true, &[("f", 0o644, "four")]).expect("it works");
    copy_in(&dest("old"), true, &[("f", 0o600, "five")]).expect("it works");
    assert_eq!(read(&root.join("new/name")), "three");
    assert_eq!(read(&root.join("real/f")), "four");
    assert_eq!((read(&root.join("old")), mode("old") & 0o777), ("five".to_owned(), 0o600));
    copy_in(&dest("empty/"), true, &[]).expect("it works");
    assert!(root.join("empty").is_dir());
}

#[test]
fn what_is_wrong_is_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let dest = format!("{}/", dir.path().display());
    fs::create_dir_all(dir.path().join("full/x")).expect("made");
    let refused =
        copy_in(&dest, false, &[("full", 0o644, "a file")]).expect_err("it is in the way");
    assert!(refused.contains("full"), "{refused}");
    // A connection that breaks is no end.
    let (child, peer) = start("copy-in", &json!({ "dest": dest }));
    let mut peer = peer.expect("it listens");
    peer.write_all(b"{\"is_one_file\":false}\n").expect("sent");
    drop(peer);
    assert!(end(child).expect_err("cut off").contains("cut off"));
    for ask in [json!({ "dest": dest, "chown": "nobody-like-this" }), json!({})] {
        let (child, peer) = start("copy-in", &ask);
        assert!(peer.is_none());
        end(child).expect_err("it is refused");
    }
    let (child, peer) = start("copy-out", &json!({ "sources": ["/nothing/there*"] }));
    assert!(peer.is_none());
    assert!(end(child).expect_err("it is refused").contains("nothing/there"));
}

#[test]
fn files_come_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path();
    fs::create_dir_all(root.join("d/e")).expect("made");
    fs::write(root.join("d/e/f"), "one").expect("made");
    fs::write(root.join("d/a1"), "two").expect("made");
    symlink("e/f", root.join("d/l")).expect("made");
    let out = |source: &str| {
        let ask = json!({ "sources": [format!("{}/{source}", root.display())] });
        let (child, peer) = start("copy-out", &ask);
        let mut bytes = Vec::new();
        peer.expect("it listens").read_to_end(&mut bytes).expect("it comes");
        end(child).expect("it works");
        let line = bytes.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
        let head: CopyHead = serde_json::from_slice(&bytes[..line]).expect("a head");
        let mut archive = Archive::new(&bytes[line..]);
        let names = archive.entries().expect("an archive").map(|entry| {
            let entry = entry.expect("an entry");
            entry.path().expect("a path").display().to_string()
        });
        (head.is_one_file, names.collect::<Vec<_>>().join(" "))
    };
    assert_eq!(out("d"), (false, "a1 e e/f l".to_owned()));
    assert_eq!(out("d/a?"), (true, "a1".to_owned()));
    assert_eq!(out("d/l"), (true, "l".to_owned()));
    assert_eq!(out("d/[el]"), (false, "f l".to_owned()));
}
