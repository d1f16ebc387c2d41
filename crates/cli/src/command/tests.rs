use clap::Parser;

use super::*;

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
        ClientCommand::Sandbox(SandboxCommand::List(ListOptions { json: true }))
    );
    assert_eq!(
        command("orphan list"),
        ClientCommand::Orphan(OrphanCommand::List(ListOptions { json: false }))
    );
    let after = parse("key list --data-dir /d").expect("a global option goes anywhere");
    assert_eq!(after.data_dir.resolve(), Ok("/d".into()));
    for bad in ["", "key", "key revoke", "sandbox create", "key list --wat"] {
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
        let revoke = ClientCommand::Key(KeyCommand::Revoke { id: id.to_owned() });
        let refused = run_to(revoke, dir.path(), &mut Vec::new()).await.expect_err(id);
        assert_eq!(refused.exit_code(), 1, "{id}");
    }
}
