//! Following output: the bytes, the replay, the order, the end.

use serde_json::{Value, json};

use crate::daemon::{TestDaemon, pid, wait_until};

#[test]
fn a_finished_process_is_replayed_byte_for_byte() {
    let daemon = TestDaemon::open();
    let pid = daemon.start_shell("echo one; echo two");
    daemon.wait_end(pid);
    wait_until("all is read", || daemon.lines(pid, "stdout").len() == 2);
    for (stream, tag) in [("stdout", ""), ("output", r#","stream":"stdout""#)] {
        let answer = daemon.get(&format!("/processes/{pid}/{stream}/follow"));
        assert!(answer.head.contains("content-type: text/event-stream"));
        let text = String::from_utf8(answer.body).expect("UTF-8");
        let stamps: Vec<&str> = text
            .split("\"timestamp\":")
            .skip(1)
            .map(|rest| rest.split([',', '}']).next().expect("a number"))
            .collect();
        assert!(stamps.iter().all(|stamp| stamp.len() == 13), "{text}");
        let expected = format!(
            "event: output\ndata: {{\"line\":\"one\",\"timestamp\":{}{tag}}}\n\n\
             event: output\ndata: {{\"line\":\"two\",\"timestamp\":{}{tag}}}\n\n\
             event: eof\ndata: {{}}\n\n",
            stamps[0], stamps[1]
        );
        assert_eq!(text, expected);
    }
    let answer = daemon.get(&format!("/processes/{pid}/stderr/follow"));
    assert_eq!(answer.body, b"event: eof\ndata: {}\n\n");
}

#[test]
fn replay_then_live_then_eof() {
    let daemon = TestDaemon::open();
    let started = daemon.start(&json!({"command": "cat", "stdin_mode": "pipe"}));
    let stdin = format!("/api/v1/processes/{}/stdin", pid(&started));
    assert_eq!(daemon.request("POST", &stdin, b"before\n").status, 204);
    wait_until("it is read", || daemon.lines(pid(&started), "stdout").len() == 1);

    let path = format!("/processes/{}/output/follow", pid(&started));
    let mut stream = daemon.stream("GET", &path, &Value::Null);
    assert_eq!(stream.next_frame().expect("replayed")["line"], "before");
    assert_eq!(daemon.request("POST", &stdin, b"live\n").status, 204);
    assert_eq!(stream.next_frame().expect("live")["line"], "live");
    assert_eq!(daemon.request("POST", &format!("{stdin}/close"), b"").status, 204);
    assert_eq!(stream.frames(), [json!({})]);
}

#[test]
fn the_order_is_the_same_every_time() {
    let daemon = TestDaemon::open();
    let pid = daemon.start_shell("for i in $(seq 500); do echo o$i; echo e$i >&2; done");
    daemon.wait_end(pid);
    wait_until("all is read", || daemon.lines(pid, "output").len() == 1000);
    let path = format!("/processes/{pid}/output/follow");
    let first = daemon.stream("GET", &path, &Value::Null).frames();
    let second = daemon.stream("GET", &path, &Value::Null).frames();
    assert_eq!(first.len(), 1001);
    assert_eq!(first, second);
}

#[test]
fn a_slow_follower_slows_nobody_and_is_told_what_it_missed() {
    let daemon = TestDaemon::open();
    // 24 MiB: three times what is kept.
    let script = "cat gate; yes 0123456789012345678901234567890123456789 | head -n 600000";
    nix::unistd::mkfifo(&daemon.dir.path().join("gate"), nix::sys::stat::Mode::S_IRWXU)
        .expect("made");
    let pid = daemon.start_shell(script);
    let mut stream = daemon.stream("GET", &format!("/processes/{pid}/stdout/follow"), &Value::Null);
    std::fs::write(daemon.dir.path().join("gate"), "go\n").expect("opened");
    assert_eq!(daemon.wait_end(pid)["exit_code"], 0, "nobody reads, and yet it ends");

    let kept = daemon.lines(pid, "stdout");
    let dropped = |line: &str| {
        let count = line.strip_prefix("[tarn: ")?.strip_suffix(" earlier lines dropped]")?;
        count.parse::<usize>().ok()
    };
    let missing = dropped(&kept[0]).expect("the first line says what was dropped");
    assert_eq!(missing + kept.len() - 1, 600_001);

    let (mut seen, mut told) = (0, 0);
    while let Some(frame) = stream.next_frame() {
        match frame["line"].as_str() {
            Some(line) => match dropped(line) {
                Some(count) => told += count,
                None => seen += 1,
            },
            None => assert_eq!(frame, json!({})),
        }
    }
    assert!(told > 0);
    assert_eq!(seen + told, 600_001);
}

#[test]
fn text_is_made_valid_and_long_lines_are_split() {
    let daemon = TestDaemon::open();
    let pid = daemon.start_shell("printf 'a\\377b\\n'; head -c 65537 /dev/zero | tr '\\0' x; echo");
    daemon.wait_end(pid);
    wait_until("all is read", || daemon.lines(pid, "stdout").len() == 3);
    let lines = daemon.lines(pid, "stdout");
    assert_eq!(lines[0], "a\u{fffd}b");
    assert_eq!((lines[1].len(), lines[2].as_str()), (65536, "x"));
}
