//! Files: contents, refusals, whose rights they have.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
};

use serde_json::json;

use crate::daemon::{Answer, Stream, TOKEN, TestDaemon, wait_until};

fn put(daemon: &TestDaemon, path: &str, content: &[u8]) -> Answer {
    daemon.request("PUT", &format!("/api/v1/files?path={path}"), content)
}

fn get(daemon: &TestDaemon, path: &str) -> Answer {
    daemon.get(&format!("/files?path={path}"))
}

#[test]
fn what_is_written_is_read_listed_and_deleted() {
    let daemon = TestDaemon::open();
    let content: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    assert_eq!(put(&daemon, "new/a+b.bin", &content).status, 204);
    let answer = get(&daemon, "new/a%20b.bin");
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: application/octet-stream"), "{}", answer.head);
    assert!(answer.head.contains("content-length: 3000000"), "{}", answer.head);
    assert!(answer.body == content, "the content differs");

    assert_eq!(put(&daemon, "new/sub/empty", b"").status, 204);
    assert_eq!(get(&daemon, "new/sub/empty").body, b"");
    let listing = daemon.get("/files/list?path=new").json();
    assert_eq!(listing["path"], "new");
    let entries = listing["entries"].as_array().expect("entries");
    assert!(entries.iter().all(|entry| entry["modified_at"].as_u64() > Some(1_700_000_000_000)));
    let shown: Vec<_> =
        entries.iter().map(|e| json!([e["name"], e["is_dir"], e["size"]])).collect();
    assert_eq!(shown, [json!(["sub", true, null]), json!(["a b.bin", false, 3_000_000])]);

    let path = "/files?path=new/a%20b.bin";
    assert_eq!(daemon.request("DELETE", &format!("/api/v1{path}"), b"").status, 204);
    assert_eq!(daemon.get(path).refusal(), (404, "NOT_FOUND".to_owned()));
}

#[test]
fn chunked_bodies_are_taken() {
    let daemon = TestDaemon::open();
    let mut socket = daemon.connect();
    let request = format!(
        "PUT /api/v1/files?path=f HTTP/1.1\r\nhost: t\r\nx-tarn-token: {TOKEN}\r\n\
         transfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).expect("sent");
    assert_eq!(Stream::read_head(socket).status, 204);
    assert_eq!(get(&daemon, "f").body, b"abcdefg");
}

#[test]
fn an_interrupted_put_leaves_the_old_content() {
    let daemon = TestDaemon::open();
    assert_eq!(put(&daemon, "f", b"old").status, 204);
    let mut socket = daemon.connect();
    let head = format!(
        "PUT /api/v1/files?path=f HTTP/1.1\r\nhost: t\r\nx-tarn-token: {TOKEN}\r\ncontent-length: 100\r\n\r\nnew"
    );
    socket.write_all(head.as_bytes()).expect("sent");
    let names = || fs::read_dir(daemon.dir.path()).expect("readable").count();
    wait_until("the upload has begun", || names() == 2);
    drop(socket);
    wait_until("the upload is undone", || names() == 1);
    assert_eq!(get(&daemon, "f").body, b"old");
}

#[test]
fn an_existing_file_keeps_mode_and_owner() {
    let daemon = TestDaemon::open();
    assert_eq!(put(&daemon, "f", b"old").status, 204);
    let path = daemon.dir.path().join("f");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o751)).expect("set");
    assert_eq!(put(&daemon, "f", b"new").status, 204);
    let metadata = fs::metadata(&path).expect("there");
    assert_eq!(metadata.mode() & 0o7777, 0o751);
    assert_eq!(metadata.uid(), nix::unistd::getuid().as_raw());
    assert_eq!(fs::read(&path).expect("readable"), b"new");
}

#[test]
fn refusals_have_their_codes() {
    let daemon = TestDaemon::open();
    assert_eq!(put(&daemon, "file", b"x").status, 204);
    let at = |name: &str| daemon.dir.path().join(name);
    fs::create_dir(at("dir")).expect("made");
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("made");
    let long = format!("path={}", "x".repeat(5000));
    let component = format!("path={}", "x".repeat(300));
    let table = [
        ("GET", "", "", 400, "INVALID_REQUEST"),
        ("GET", "", "path=", 400, "INVALID_REQUEST"),
        ("GET", "", "path=a%00b", 400, "INVALID_REQUEST"),
        ("GET", "", &long, 400, "INVALID_REQUEST"),
        ("GET", "", &component, 400, "INVALID_REQUEST"),
        ("GET", "", "path=none", 404, "NOT_FOUND"),
        ("GET", "", "path=file/x", 404, "NOT_FOUND"),
        ("GET", "", "path=dir", 400, "IS_DIRECTORY"),
        ("GET", "", "path=fifo", 400, "INVALID_REQUEST"),
        ("GET", "", "path=/dev/zero", 400, "INVALID_REQUEST"),
        ("GET", "", "path=../x", 403, "PATH_TRAVERSAL"),
        ("GET", "", "path=%2e%2e/x", 403, "PATH_TRAVERSAL"),
        ("GET", "", "path=dir/../file", 403, "PATH_TRAVERSAL"),
        ("PUT", "", "path=dir", 400, "IS_DIRECTORY"),
        ("PUT", "", "path=new/", 400, "IS_DIRECTORY"),
        ("PUT", "", "path=/", 400, "IS_DIRECTORY"),
        ("PUT", "", "path=file/x", 400, "NOT_A_DIRECTORY"),
        ("PUT", "", "path=fifo", 400, "INVALID_REQUEST"),
        ("PUT", "", "path=/dev/null", 400, "INVALID_REQUEST"),
        ("PUT", "", "path=../x", 403, "PATH_TRAVERSAL"),
        ("PUT", "", &component, 400, "INVALID_REQUEST"),
        ("PUT", "", "path=/proc/nothing/here", 404, "NOT_FOUND"),
        ("DELETE", "", "path=none", 404, "NOT_FOUND"),
        ("DELETE", "", "path=dir", 400, "IS_DIRECTORY"),
        ("DELETE", "", "path=..", 403, "PATH_TRAVERSAL"),
        ("GET", "/list", "path=file", 400, "NOT_A_DIRECTORY"),
        ("GET", "/list", "path=none", 404, "NOT_FOUND"),
        ("GET", "/list", "path=..", 403, "PATH_TRAVERSAL"),
        ("GET", "/list", "", 400, "INVALID_REQUEST"),
    ];
    for (method, route, query, status, code) in table {
        let path = format!("/api/v1/files{route}?{query}");
        let answer = daemon.request(method, &path, b"");
        assert_eq!(answer.refusal(), (status, code.to_owned()), "{method} {route} {query}");
    }
    let answer = daemon.request("DELETE", "/api/v1/files?path=fifo", b"");
    assert_eq!(answer.status, 204, "what can't be read can still be deleted");
}

#[test]
fn files_of_proc_are_read_to_their_end() {
    let daemon = TestDaemon::open();
    let answer = get(&daemon, "/proc/self/status");
    assert_eq!(answer.status, 200);
    assert!(String::from_utf8_lossy(&answer.body).contains("tarnd"));
}

#[test]
fn everything_has_the_rights_of_the_default_user() {
    let daemon = TestDaemon::closed();
    if !nix::unistd::getuid().is_root() {
        let answer = daemon.init(&json!({"default_user": "no-such-user"}));
        assert_eq!(answer.refusal(), (400, "CONFIGURATION_ERROR".to_owned()));
        return;
    }
    let at = |name: &str| daemon.dir.path().join(name);
    fs::set_permissions(daemon.dir.path(), fs::Permissions::from_mode(0o755)).expect("set");
    fs::create_dir(at("mine")).expect("made");
    std::os::unix::fs::chown(at("mine"), Some(4242), Some(4343)).expect("given");
    fs::write(at("secret"), "root's").expect("written");
    fs::set_permissions(at("secret"), fs::Permissions::from_mode(0o600)).expect("set");
    fs::write(at("shared"), "for all").expect("written");
    fs::set_permissions(at("shared"), fs::Permissions::from_mode(0o666)).expect("set");
    assert_eq!(daemon.init(&json!({"default_user": "4242:4343"})).status, 200);

    let denied = (500, "INTERNAL_ERROR".to_owned());
    assert_eq!(get(&daemon, "secret").refusal(), denied);
    assert_eq!(put(&daemon, "secret", b"x").refusal(), denied);
    assert_eq!(put(&daemon, "elsewhere", b"x").refusal(), denied);
    let answer = daemon.request("DELETE", "/api/v1/files?path=secret", b"");
    assert_eq!(answer.refusal(), denied);
    assert_eq!(fs::read(at("secret")).expect("readable"), b"root's");

    assert_eq!(put(&daemon, "mine/a/b/file", b"x").status, 204);
    for path in ["mine/a", "mine/a/b", "mine/a/b/file"] {
        let metadata = fs::metadata(at(path)).expect("there");
        assert_eq!((metadata.uid(), metadata.gid()), (4242, 4343), "{path}");
    }
    // A file that may be written in a directory that may not.
    assert_eq!(put(&daemon, "shared", b"changed").status, 204);
    assert_eq!(fs::read(at("shared")).expect("readable"), b"changed");
    // Somebody else's file in one's own directory stays somebody else's.
    fs::write(at("mine/foreign"), "old").expect("written");
    fs::set_permissions(at("mine/foreign"), fs::Permissions::from_mode(0o666)).expect("set");
    assert_eq!(put(&daemon, "mine/foreign", b"new").status, 204);
    let metadata = fs::metadata(at("mine/foreign")).expect("there");
    assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (0, 0o666));
    assert_eq!(fs::read(at("mine/foreign")).expect("readable"), b"new");
}
