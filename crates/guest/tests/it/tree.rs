//! Killing everything that came from one start.

use serde_json::{Value, json};

use crate::daemon::{TestDaemon, wait_until};

fn kill_and_expect_nobody(script: &str, processes: u64) {
    let daemon = TestDaemon::open();
    let request = json!({"command": "bash", "args": ["-c", script]});
    let pid = crate::daemon::pid(&daemon.start(&request));
    wait_until("all are there", || daemon.guest_processes() == processes);
    let answer = daemon.api("DELETE", &format!("/processes/{pid}"), &Value::Null);
    assert_eq!(answer.status, 204);
    let ended = daemon.info(pid);
    assert_eq!((&ended["status"], &ended["signal"]), (&json!("signaled"), &json!(9)));
    wait_until("nobody is left", || daemon.guest_processes() == 0);
}

#[test]
fn a_plain_tree_goes() {
    kill_and_expect_nobody("sleep 1000 & sleep 1001 & wait", 3);
}

#[test]
fn children_in_sessions_of_their_own_go() {
    kill_and_expect_nobody("setsid sleep 1000 & setsid -f sleep 1001; wait", 3);
}

#[test]
fn orphans_of_a_double_fork_go() {
    kill_and_expect_nobody("(setsid sh -c 'sleep 1000 & sleep 1001; :' &); sleep 1002; :", 5);
}

#[test]
fn orphans_without_their_environment_go() {
    kill_and_expect_nobody("(env -i sleep 1000 &); setsid env -i sleep 1001 & wait", 3);
}

#[test]
fn a_daemon_that_wiped_parent_session_and_environment_at_once_goes() {
    // It is there before anybody could look at its way.
    kill_and_expect_nobody("(setsid env -i sleep 1000 >/dev/null 2>&1 &); exec sleep 1001", 2);
}

#[test]
fn processes_that_ignore_signals_go() {
    kill_and_expect_nobody(
        "trap '' TERM INT HUP; setsid -f sleep 1000; while :; do sleep 1; done",
        3,
    );
}

#[test]
fn a_tree_that_grows_all_the_time_goes() {
    let daemon = TestDaemon::open();
    let script =
        "grow() { while :; do (setsid sleep 0.5 &); sleep 0.01; done; }; grow & grow & grow & wait";
    let pid =
        crate::daemon::pid(&daemon.start(&json!({"command": "bash", "args": ["-c", script]})));
    wait_until("it has grown", || daemon.guest_processes() > 30);
    assert_eq!(daemon.api("DELETE", &format!("/processes/{pid}"), &Value::Null).status, 204);
    wait_until("nobody is left", || daemon.guest_processes() == 0);
}

#[test]
fn the_leftovers_of_a_finished_process_go() {
    let daemon = TestDaemon::open();
    let pid = daemon.start_shell("setsid -f sleep 1000; exit 0");
    assert_eq!(daemon.wait_end(pid)["exit_code"], 0);
    wait_until("the leftover is there", || daemon.guest_processes() == 1);
    assert_eq!(daemon.api("DELETE", &format!("/processes/{pid}"), &Value::Null).status, 204);
    wait_until("nobody is left", || daemon.guest_processes() == 0);
    assert_eq!(daemon.info(pid)["exit_code"], 0, "it still ended by itself");
    assert_eq!(daemon.api("DELETE", &format!("/processes/{pid}"), &Value::Null).status, 204);
}

#[test]
fn one_tree_is_not_another() {
    let daemon = TestDaemon::open();
    let (first, second) =
        (daemon.start_shell("sleep 1000; :"), daemon.start_shell("sleep 1001; :"));
    wait_until("all are there", || daemon.guest_processes() == 4);
    assert_eq!(daemon.api("DELETE", &format!("/processes/{first}"), &Value::Null).status, 204);
    wait_until("the first has gone", || daemon.guest_processes() == 2);
    assert_eq!(daemon.info(second)["status"], "running");
}

#[test]
fn too_many_processes_are_ended_and_their_tree_is_told() {
    let daemon = TestDaemon::closed();
    let limits = json!({"processes": 20, "output_bytes": 1 << 20});
    assert_eq!(daemon.init(&json!({"limits": limits})).status, 200);
    let bystander = daemon.start_shell("sleep 1000; :");
    let bomb = daemon.start_shell("for i in $(seq 100); do sleep 1000 & done; wait");
    let ended = daemon.wait_end(bomb);
    assert_eq!(ended["signal"], 9);
    wait_until("only the bystander is left", || daemon.guest_processes() == 2);
    assert_eq!(daemon.info(bystander)["status"], "running");
    let note = "[tarn: killed: more than 20 processes in this sandbox]";
    assert!(daemon.lines(bomb, "stderr").iter().any(|line| line == note));
}

#[test]
fn a_full_sandbox_starts_nothing_more() {
    let daemon = TestDaemon::closed();
    let limits = json!({"processes": 2, "output_bytes": 1 << 20});
    assert_eq!(daemon.init(&json!({"limits": limits})).status, 200);
    let first = daemon.start_shell("exec sleep 1000");
    daemon.start_shell("exec sleep 1000");
    let answer = daemon.api("POST", "/processes", &json!({"command": "true"}));
    assert_eq!(answer.refusal(), (400, "PROCESS_START_FAILED".to_owned()));
    assert_eq!(daemon.api("DELETE", &format!("/processes/{first}"), &Value::Null).status, 204);
    wait_until("there is room", || daemon.guest_processes() == 1);
    daemon.start(&json!({"command": "true"}));
}

#[test]
fn the_kill_signal_takes_those_who_left_the_group() {
    let daemon = TestDaemon::open();
    let pid = daemon.start_shell("setsid -f sleep 1000; exec sleep 1001");
    wait_until("all are there", || daemon.guest_processes() == 2);
    let path = format!("/processes/{pid}/signal");
    assert_eq!(daemon.api("POST", &path, &json!({"signal": 9})).status, 200);
    assert_eq!(daemon.wait_end(pid)["signal"], 9);
    wait_until("nobody is left", || daemon.guest_processes() == 0);
}
