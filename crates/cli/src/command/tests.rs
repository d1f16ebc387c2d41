use clap::Parser;

use super::*;
use crate::{ImageCommand, Quota, ScopeOptions, WaitFor};

#[derive(Debug, Parser)]
struct TestCli {
    #[command(flatten)]
    data_dir: crate::DataDirArgs,
    #[command(subcommand)]
    command: ClientCommand,
}

fn parse(line: &str) -> Result<TestCli, clap::error::ErrorKind> {
    TestCli::try_parse_from(std::iter::once("tarn").chain(line.split_whitespace()))
        .map_err(|wrong| wrong.kind())
}

#[test]
fn the_command_line_is_consistent() {
    use clap::CommandFactory as _;
    TestCli::command().debug_assert();
}

#[test]
fn gpus_are_listed_by_either_word() {
    for words in ["gpu ls", "gpu list"] {
        let list = GpuCommand::Ls(ListOptions { json: false });
        assert_eq!(parse(words).map(|cli| cli.command), Ok(ClientCommand::Gpu(list)));
    }
}

#[test]
fn commands_are_read() {
    let command = |line| parse(line).expect(line).command;
    assert_eq!(
        command("key create"),
        ClientCommand::Key(KeyCommand::Create { project: "default".to_owned() })
    );
    assert_eq!(
        command("key create --project=team"),
        ClientCommand::Key(KeyCommand::Create { project: "team".to_owned() })
    );
    assert_eq!(
        command("key revoke key_1"),
        ClientCommand::Key(KeyCommand::Revoke { id: "key_1".to_owned() })
    );
    assert_eq!(
        command("sandbox list --json"),
        ClientCommand::Sandbox(SandboxCommand::List(SandboxListOptions {
            archived: false,
            json: true
        }))
    );
    let quota = |sandboxes| {
        ClientCommand::Project(ProjectCommand::Quota { project: "team".to_owned(), sandboxes })
    };
    for (words, expected) in [
        ("project quota team --sandboxes 5", Quota::Of(5)),
        ("project quota --sandboxes=unlimited team", Quota::Unlimited),
        ("project quota team --sandboxes default", Quota::Default),
    ] {
        assert_eq!(command(words), quota(expected), "{words}");
    }
    assert_eq!(
        command("orphan list"),
        ClientCommand::Orphan(OrphanCommand::List(ListOptions { json: false }))
    );
    assert_eq!(
        command("secret set API_KEY"),
        ClientCommand::Secret(SecretCommand::Set {
            name: "API_KEY".to_owned(),
            project: "default".to_owned()
        })
    );
    assert_eq!(
        command("secret ls"),
        ClientCommand::Secret(SecretCommand::List(ListOptions { json: false }))
    );
    assert_eq!(command("secret rotate-key"), ClientCommand::Secret(SecretCommand::RotateKey));
    assert!(
        parse("secret set API_KEY value").is_err(),
        "an argument is in every list of processes"
    );
    let options = ChangeOptions { sandbox: "box".to_owned(), wait: true };
    assert_eq!(
        command("sandbox suspend box --wait"),
        ClientCommand::Sandbox(SandboxCommand::Suspend(options.clone()))
    );
    assert_eq!(
        command("sandbox resume --wait box"),
        ClientCommand::Sandbox(SandboxCommand::Resume(options))
    );
    assert_eq!(
        command("sandbox copy box --times 3"),
        ClientCommand::Sandbox(SandboxCommand::Copy {
            sandbox: "box".to_owned(),
            times: 3,
            wait: false
        })
    );
    for (words, memory, wait) in [
        ("snapshot create box --memory", true, None),
        ("snapshot create --wait box", false, Some(WaitFor::LocalReady)),
        ("snapshot create box --wait=local_ready", false, Some(WaitFor::LocalReady)),
        ("snapshot create box --wait=completed", false, Some(WaitFor::Completed)),
    ] {
        let sandbox = "box".to_owned();
        let create = SnapshotCommand::Create { sandbox, memory, wait };
        assert_eq!(command(words), ClientCommand::Snapshot(create), "{words}");
    }
    let transfers = SnapshotCommand::Transfers(ListOptions { json: true });
    assert_eq!(command("snapshot transfers --json"), ClientCommand::Snapshot(transfers));
    let list = ClientCommand::Snapshot(SnapshotCommand::List(ListOptions::default()));
    assert_eq!((command("snapshot ls"), command("snapshot list")), (list.clone(), list));
    let after = parse("key list --data-dir /d").expect("a global option goes anywhere");
    assert_eq!(after.data_dir.resolve(), Ok("/d".into()));
    for bad in [
        "",
        "key",
        "key revoke",
        "sandbox create",
        "sandbox suspend",
        "snapshot",
        "snapshot get",
        "key list --wat",
        "project quota team",
        "project quota team --sandboxes 0",
        "project quota team --sandboxes -1",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn without_a_server_it_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let list = || ClientCommand::Orphan(OrphanCommand::List(ListOptions::default()));
    let mut out = Vec::new();
    let absent = run_to(list(), dir.path(), &mut out).await.expect_err("no socket");
    assert!(matches!(absent, CliError::NotRunning { .. }), "{absent:?}");
    assert!(absent.to_string().contains("tarn up"), "{absent}");
    assert_eq!(absent.exit_code(), 3);
    // A socket whose server died.
    drop(tokio::net::UnixListener::bind(dir.path().join(crate::ADMIN_SOCKET)).expect("bound"));
    let dead = run_to(list(), dir.path(), &mut out).await.expect_err("nobody listens");
    assert!(matches!(dead, CliError::NotRunning { .. }), "{dead:?}");
    assert!(out.is_empty());
}

#[tokio::test]
async fn an_id_cannot_become_another_path() {
    let dir = tempfile::tempdir().expect("a directory");
    for id in ["", "../sandboxes", "a/b", "a?b", "a%2fb"] {
        let options = ChangeOptions { sandbox: id.to_owned(), wait: false };
        let commands = [
            ClientCommand::Key(KeyCommand::Revoke { id: id.to_owned() }),
            ClientCommand::Sandbox(SandboxCommand::Suspend(options)),
            ClientCommand::Snapshot(SnapshotCommand::Rm { id: id.to_owned() }),
        ];
        for command in commands {
            let refused = run_to(command, dir.path(), &mut Vec::new()).await.expect_err(id);
            assert_eq!(refused.exit_code(), 1, "{id}");
        }
    }
}

/// Runs a command against a socket that gives one answer; returns the request and the outcome.
async fn run_against(
    command: ClientCommand,
    status: &'static str,
    body: &'static str,
) -> (String, Result<String, CliError>) {
    let (requests, out, result) = run_against_each(command, &[(status, body)]).await;
    (requests.concat(), result.map(|()| out))
}

/// Runs a command against a socket that gives one answer after the other; returns the requests,
/// what was printed and the outcome.
async fn run_against_each(
    command: ClientCommand,
    answers: &[(&str, &str)],
) -> (Vec<String>, String, Result<(), CliError>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let dir = tempfile::tempdir().expect("a directory");
    let listener =
        tokio::net::UnixListener::bind(dir.path().join(crate::ADMIN_SOCKET)).expect("bound");
    let serve = async {
        let mut requests = Vec::new();
        for (status, body) in answers {
            let (mut stream, _peer) = listener.accept().await.expect("a connection");
            let mut request = Vec::new();
            // Requests are short: head and body arrive together, or the body right after.
            while !is_whole(&request) {
                let mut part = [0; 4096];
                let count = stream.read(&mut part).await.expect("readable");
                request.extend_from_slice(&part[..count]);
            }
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.expect("written");
            requests.push(String::from_utf8(request).expect("text"));
        }
        requests
    };
    let mut out = Vec::new();
    let (requests, result) = tokio::join!(serve, run_to(command, dir.path(), &mut out));
    (requests, String::from_utf8(out).expect("text"), result)
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.is_none_or(|length| length.parse() == Ok(body.len()))
}

#[tokio::test]
async fn a_new_key_is_all_that_is_printed() {
    let create = ClientCommand::Key(KeyCommand::Create { project: "team".to_owned() });
    let body = r#"{"id":"key_1","key":"tl_apiKey_x","project":"project_1"}"#;
    let (request, printed) = run_against(create, "200 OK", body).await;
    assert!(request.starts_with("POST /tarn/v1/keys HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with(r#"{"project":"team"}"#), "{request}");
    assert_eq!(printed.expect("made"), "tl_apiKey_x\n");
}

#[tokio::test]
async fn lists_are_columns_or_json() {
    let list = |json| {
        let options = SandboxListOptions { archived: false, json };
        ClientCommand::Sandbox(SandboxCommand::List(options))
    };
    let body = r#"{"sandboxes":[{"id":"abc","name":null,"project_name":"default",
        "status":"running","image":"debian","created_at":1700000000000,"newer_key":1}]}"#;
    let (request, printed) = run_against(list(false), "200 OK", body).await;
    assert!(request.starts_with("GET /tarn/v1/sandboxes?archived=false HTTP/1.1\r\n"), "{request}");
    assert_eq!(
        printed.expect("a list"),
        "ID   NAME  PROJECT  STATUS   IMAGE   CREATED\n\
         abc  -     default  running  debian  2023-11-14T22:13:20Z\n"
    );
    let (_, printed) = run_against(list(true), "200 OK", body).await;
    let printed: Value = serde_json::from_str(&printed.expect("a list")).expect("JSON");
    assert_eq!(printed["sandboxes"][0]["id"], "abc");

    let keys = ClientCommand::Key(KeyCommand::List(ListOptions::default()));
    let body = r#"{"keys":[{"id":"key_1","project":"project_1","project_name":"default",
        "created_at":1700000000000,"revoked_at":1700000001000}]}"#;
    let (_, printed) = run_against(keys, "200 OK", body).await;
    let printed = printed.expect("a list");
    assert!(printed.contains("revoked 2023-11-14T22:13:21Z"), "{printed}");
}

#[tokio::test]
async fn a_quota_says_where_the_project_stands() {
    let project = |sandboxes: u64, quota: u32, is_default: bool| {
        json!({"id": "project_1", "name": "team", "created_at": 1_700_000_000_000_i64,
            "sandboxes": sandboxes, "quota": quota, "is_default": is_default})
    };
    let set = |sandboxes| {
        ClientCommand::Project(ProjectCommand::Quota { project: "team".to_owned(), sandboxes })
    };
    for (quota, wire, body, printed) in [
        (Quota::Of(5), "5", project(2, 5, false), "team: 2 sandboxes of 5\n"),
        (Quota::Unlimited, "0", project(2, 0, false), "team: 2 sandboxes of unlimited\n"),
        (Quota::Default, "null", project(2, 7, true), "team: 2 sandboxes of 7 (default)\n"),
        (
            Quota::Of(1),
            "1",
            project(2, 1, false),
            "team: 2 sandboxes of 1; what it has more runs on, and nothing new begins until enough \
             have ended\n",
        ),
    ] {
        let (request, text) = run_against(set(quota), "200 OK", body.to_string().leak()).await;
        assert!(request.starts_with("PUT /tarn/v1/quotas HTTP/1.1\r\n"), "{request}");
        let sent = format!(r#"{{"project":"team","sandboxes":{wire}}}"#);
        assert!(request.ends_with(&sent), "{request}");
        assert_eq!(text.expect("set"), printed);
    }
    let list = ClientCommand::Project(ProjectCommand::List(ListOptions::default()));
    let body = json!({"projects": [project(2, 0, true)]}).to_string().leak();
    let (_, text) = run_against(list, "200 OK", body).await;
    assert_eq!(
        text.expect("a list"),
        "ID         NAME  SANDBOXES  QUOTA                CREATED\n\
         project_1  team  2          unlimited (default)  2023-11-14T22:13:20Z\n"
    );
}

#[tokio::test]
async fn a_refusal_and_nonsense_are_told_apart() {
    let revoke = || ClientCommand::Key(KeyCommand::Revoke { id: "key_1".to_owned() });
    let body = r#"{"error":"no such key","code":"NOT_FOUND"}"#;
    let (request, refused) = run_against(revoke(), "404 Not Found", body).await;
    assert!(request.starts_with("DELETE /tarn/v1/keys/key_1 HTTP/1.1\r\n"), "{request}");
    let refused = refused.expect_err("refused");
    assert_eq!((refused.exit_code(), refused.to_string().as_str()), (1, "no such key (NOT_FOUND)"));
    for body in ["<html>", "", "{}"] {
        let (_, broken) = run_against(revoke(), "500 Oh", body).await;
        assert_eq!(broken.expect_err("nonsense").exit_code(), 4, "{body}");
    }
}

#[tokio::test]
async fn a_change_prints_where_the_sandbox_is_then() {
    let options = ChangeOptions { sandbox: "box".to_owned(), wait: true };
    let suspend = ClientCommand::Sandbox(SandboxCommand::Suspend(options));
    let (request, printed) = run_against(suspend, "200 OK", "{}").await;
    let start = "POST /tarn/v1/sandboxes/box/suspend?wait_ms=1000 HTTP/1.1\r\n";
    assert!(request.starts_with(start), "{request}");
    assert_eq!(printed.expect("done"), "suspended\n");
}

#[tokio::test]
async fn snapshots_are_made_and_listed() {
    let create = ClientCommand::Snapshot(SnapshotCommand::Create {
        sandbox: "box".to_owned(),
        memory: true,
        wait: None,
    });
    let body = r#"{"snapshot_id":"snap_1","status":"in_progress"}"#;
    let (request, printed) = run_against(create, "202 Accepted", body).await;
    assert!(request.ends_with(r#"{"snapshot_type":"memory"}"#), "{request}");
    assert_eq!(printed.expect("begun"), "snap_1\n");
    let list = ClientCommand::Snapshot(SnapshotCommand::List(ListOptions::default()));
    let body = r#"{"snapshots":[{"id":"snap_1","namespace":"default","sandbox_id":"abc",
        "status":"completed","snapshot_type":"memory","base_image":"debian","size_bytes":1048577,
        "rootfs_disk_bytes":1,"created_at":1700000000000}]}"#;
    let (_, printed) = run_against(list, "200 OK", body).await;
    assert_eq!(
        printed.expect("a list"),
        "ID      PROJECT  SANDBOX  TYPE    STATUS     SIZE   CREATED\n\
         snap_1  default  abc      memory  completed  2 MiB  2023-11-14T22:13:20Z\n"
    );
}

#[tokio::test]
async fn copies_are_printed_by_their_ids() {
    let copy = SandboxCommand::Copy { sandbox: "box".to_owned(), times: 2, wait: true };
    let body = r#"{"source_sandbox_id":"abc","sandboxes":[
        {"sandbox_id":"one","status":"running"},{"sandbox_id":"two","status":"running"}]}"#;
    let (request, printed) = run_against(ClientCommand::Sandbox(copy), "200 OK", body).await;
    assert!(request.starts_with("POST /tarn/v1/sandboxes/box/copy?times=2 HTTP/1.1"), "{request}");
    assert_eq!(printed.expect("copied"), "one\ntwo\n");
}

#[tokio::test]
async fn copies_that_end_are_printed_too_and_say_why() {
    let copy = SandboxCommand::Copy { sandbox: "box".to_owned(), times: 3, wait: true };
    let copied = r#"{"source_sandbox_id":"abc","sandboxes":[
        {"sandbox_id":"one","status":"terminated"},{"sandbox_id":"two","status":"pending"},
        {"sandbox_id":"three","status":"terminated"}]}"#;
    let now = |id: &str, status: &str, trouble: Option<&str>| {
        json!({"id": id, "name": null, "project_name": "default", "status": status,
            "image": "debian", "created_at": 1_700_000_000_000_i64, "trouble": trouble})
        .to_string()
    };
    let one = now("one", "terminated", Some("init: no such file"));
    let two = now("two", "running", None);
    let three = now("three", "terminated", None);
    let answers =
        [("202 Accepted", copied), ("200 OK", &*one), ("200 OK", &*two), ("200 OK", &*three)];
    let (requests, printed, result) =
        run_against_each(ClientCommand::Sandbox(copy), &answers).await;
    assert!(requests[1].starts_with("GET /tarn/v1/sandboxes/one HTTP/1.1\r\n"), "{requests:?}");
    assert_eq!(printed, "one\ntwo\nthree\n");
    let ended = result.expect_err("two have ended");
    assert_eq!(ended.exit_code(), 1);
    assert_eq!(
        ended.to_string(),
        "2 of 3 copies of box have ended: one: init: no such file; three: the server's log says why"
    );
}

#[tokio::test]
async fn a_network_log_is_columns_with_advice_or_json() {
    let ask = |json| {
        ClientCommand::Sandbox(SandboxCommand::Network(NetworkOptions {
            sandbox: "box".to_owned(),
            denied: true,
            since: Some(3600),
            json,
        }))
    };
    let body = r#"{"sandbox_id":"abc","since":1700000000000,"until":null,"entries":[
        {"first_at":1700000000000,"last_at":1700000001000,"direction":"out","name":"a.example",
        "address":"203.0.113.7","port":443,"protocol":"tcp","verdict":"denied",
        "reason":"not_in_allow_out","count":3,"open":0,"bytes_sent":0,"bytes_received":0,
        "advice":"add it"}],"counters":{"packets_sent":1,"bytes_sent":2,"packets_received":3,
        "bytes_received":4,"connections":5,"packets_denied":6,"dns_answered":7,"dns_refused":8},
        "lost":{"rate":9,"room":10,"node":11}}"#;
    let (request, printed) = run_against(ask(false), "200 OK", body).await;
    let start = "GET /tarn/v1/sandboxes/box/network?denied=true&since_secs=3600 HTTP/1.1\r\n";
    assert!(request.starts_with(start), "{request}");
    assert_eq!(
        printed.expect("a log"),
        "2023-11-14T22:13:20Z to now: 5 connections, 2 bytes sent, 4 received; 6 packets denied; \
         7 questions answered, 8 refused\n\
         not all of it is shown: 9 attempts came too fast, 10 older entries had no room, 11 notes \
         of all sandboxes were lost\n\
         LAST                  VERDICT           COUNT  PROTOCOL  DESTINATION               \
         \u{20}  SENT  RECEIVED  ADVICE\n\
         2023-11-14T22:13:21Z  not_in_allow_out  3      tcp       a.example \
         (203.0.113.7:443)  0     0         add it\n"
    );
    let (_, printed) = run_against(ask(true), "200 OK", body).await;
    let printed: Value = serde_json::from_str(&printed.expect("a log")).expect("JSON");
    assert_eq!(printed["entries"][0]["reason"], "not_in_allow_out");
}

#[test]
fn commands_about_images_are_read() {
    let command = |line| parse(line).expect(line).command;
    let scope = |global| ScopeOptions { project: None, global };
    assert_eq!(
        command("image pull python:3.12 --global"),
        ClientCommand::Image(ImageCommand::Pull {
            reference: "python:3.12".to_owned(),
            name: None,
            scope: scope(true)
        })
    );
    assert_eq!(
        command("image remove app"),
        ClientCommand::Image(ImageCommand::Rm { image: "app".to_owned(), scope: scope(false) })
    );
    assert_eq!(
        command("image rm app --project team"),
        ClientCommand::Image(ImageCommand::Rm {
            image: "app".to_owned(),
            scope: ScopeOptions { project: Some("team".to_owned()), global: false }
        })
    );
    assert!(parse("image pull app --global --project p").is_err());
    assert!(
        parse("image login ghcr.io -u bob --password hush").is_err(),
        "an argument is in every list of processes"
    );
}
