use nix::unistd::Pid;
use proptest::prelude::*;

use super::*;
use crate::process::{End, EndStatus, NewProcess, Stdin};

use OutputStream::{Stderr, Stdout};

const NOW: LogsRequest = LogsRequest { ack: 0, wait_ms: 0, gather_ms: 0 };

fn table() -> ProcessTable {
    let table = ProcessTable::default();
    table.set_output_cap(64 << 20);
    table
}

fn add(table: &ProcessTable, pid: i32) -> Rc<Process> {
    let process = Rc::new(Process::new(NewProcess {
        handle: table.next_handle(),
        pid: Pid::from_raw(pid),
        command: "sh".to_owned(),
        args: vec!["-c".to_owned(), "x y".to_owned()],
        stdin: Stdin::closed(),
        output: Output::default(),
    }));
    table.insert(&process);
    process
}

fn end(table: &ProcessTable, pid: i32) {
    table.set_ended(Pid::from_raw(pid), End { status: EndStatus::Exited(0), at_ms: 1 });
}

async fn ask(table: &ProcessTable, request: LogsRequest) -> LogsResponse {
    let bytes = poll(table, "boot", request).await;
    serde_json::from_slice(&bytes).expect("our own JSON")
}

/// Reads and acknowledges until there is nothing more.
async fn drain(table: &ProcessTable) -> Vec<LogsResponse> {
    let mut batches = Vec::new();
    let mut ack = 0;
    loop {
        let batch = ask(table, LogsRequest { ack, ..NOW }).await;
        if batch.batch == 0 {
            return batches;
        }
        ack = batch.batch;
        batches.push(batch);
    }
}

fn texts(batches: &[LogsResponse], handle: u64) -> Vec<&str> {
    let lines = batches.iter().flat_map(|batch| &batch.lines);
    lines.filter(|line| line.handle == handle).map(|line| line.text.as_str()).collect()
}

/// Counts the lines of a process, the dropped ones included.
fn count(batches: &[LogsResponse], handle: u64) -> u64 {
    let lines = batches.iter().flat_map(|batch| &batch.lines);
    lines.filter(|line| line.handle == handle).map(|line| line.dropped.max(1)).sum()
}

#[tokio::test]
async fn each_line_comes_once_with_its_process() {
    let table = table();
    let process = add(&table, 7);
    table.push_output(&process, Stdout, b"one\ntwo\npartial");
    table.push_output(&process, Stderr, b"bad\n");
    let batch = ask(&table, NOW).await;
    assert_eq!((batch.boot.as_str(), batch.batch), ("boot", 1));
    let described = LoggedProcess {
        handle: 1,
        pid: 7,
        command: "sh -c x y".to_owned(),
        managed_id: None,
        managed_name: None,
    };
    assert_eq!(batch.processes, [described]);
    let lines: Vec<_> =
        batch.lines.iter().map(|line| (line.stream, line.text.as_str(), line.dropped)).collect();
    assert_eq!(lines, [(Stdout, "one", 0), (Stdout, "two", 0), (Stderr, "bad", 0)]);
    assert!(batch.lines.iter().all(|line| line.at_ms > 0));

    assert_eq!(ask(&table, LogsRequest { ack: 1, ..NOW }).await.batch, 0);
    process.output.borrow_mut().settle(Stdout, 9);
    let batch = ask(&table, LogsRequest { ack: 1, ..NOW }).await;
    assert_eq!((batch.batch, texts(&[batch], 1)), (2, vec!["partial"]));
}

#[tokio::test]
async fn what_is_not_acknowledged_is_repeated_byte_for_byte() {
    let table = table();
    let process = add(&table, 7);
    table.push_output(&process, Stdout, b"one\n");
    let first = poll(&table, "boot", NOW).await;
    table.push_output(&process, Stdout, b"two\n");
    for ack in [0, 7, u64::MAX] {
        assert_eq!(poll(&table, "boot", LogsRequest { ack, ..NOW }).await, first, "ack {ack}");
    }
    let second = ask(&table, LogsRequest { ack: 1, ..NOW }).await;
    assert_eq!((second.batch, texts(std::slice::from_ref(&second), 1)), (2, vec!["two"]));
    // A late acknowledgement of an earlier batch loses nothing.
    assert_eq!(ask(&table, LogsRequest { ack: 1, ..NOW }).await, second);
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_the_first_line_and_gathers_more() {
    let table = table();
    let process = add(&table, 7);
    let request = LogsRequest { ack: 0, wait_ms: 60_000, gather_ms: 100 };
    let write = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        table.push_output(&process, Stdout, b"one\n");
        tokio::time::sleep(Duration::from_millis(50)).await;
        table.push_output(&process, Stdout, b"two\n");
    };
    let begun = Instant::now();
    let (batch, ()) = tokio::join!(ask(&table, request), write);
    assert_eq!(texts(&[batch], 1), ["one", "two"]);
    assert_eq!(begun.elapsed().as_millis() / 10, 2010);

    let begun = Instant::now();
    let nothing = ask(&table, LogsRequest { ack: 1, ..request }).await;
    assert_eq!((nothing.batch, begun.elapsed().as_secs()), (0, 60));
}

#[tokio::test]
async fn forgotten_processes_leave_their_unread_lines() {
    let table = table();
    for pid in 1..=400 {
        let process = add(&table, pid);
        table.push_output(&process, Stdout, format!("{pid}\n").as_bytes());
        end(&table, pid);
    }
    let batches = drain(&table).await;
    for handle in 1..=400 {
        assert_eq!(texts(&batches, handle), [handle.to_string()]);
        let named = |batch: &LogsResponse| batch.processes.iter().any(|p| p.handle == handle);
        assert!(batches.iter().any(named));
    }
    assert!(table.log.state.borrow().departed.processes.is_empty());
    assert_eq!(table.log.state.borrow().cursors.len(), 256);
}

#[tokio::test]
async fn forgotten_processes_that_said_too_much_leave_a_note() {
    let table = table();
    let line = [vec![b'x'; 999], vec![b'\n']].concat();
    // Each is forgotten at once, because the next has its pid.
    for _ in 0..20 {
        let process = add(&table, 9);
        for _ in 0..500 {
            table.push_output(&process, Stdout, &line);
        }
        end(&table, 9);
    }
    add(&table, 9);
    assert!(table.log.state.borrow().departed.bytes < DEPARTED_BYTES + (64 << 10));
    let batches = drain(&table).await;
    let total: u64 = (1..=20).map(|handle| count(&batches, handle)).sum();
    assert_eq!(total, 20 * 500, "every line is there or counted");
    let notes = batches.iter().flat_map(|batch| &batch.lines).filter(|line| line.dropped > 0);
    let notes: Vec<_> = notes.collect();
    assert_eq!(notes.len(), 1);
    assert_eq!(notes[0].text, dropped_text(notes[0].dropped));
}

#[tokio::test]
async fn a_flood_does_not_keep_the_others_waiting() {
    let table = table();
    let (flood, small) = (add(&table, 1), add(&table, 2));
    let line = [vec![b'x'; 999], vec![b'\n']].concat();
    for _ in 0..12_000 {
        table.push_output(&flood, Stdout, &line);
    }
    table.push_output(&small, Stdout, b"me too\n");
    let first = ask(&table, NOW).await;
    assert_eq!(texts(std::slice::from_ref(&first), 2), ["me too"]);
    let bytes: usize = first.lines.iter().map(|line| line.text.len()).sum();
    assert!((LOG_BATCH_BYTES / 2..LOG_BATCH_BYTES + 1000).contains(&bytes), "{bytes}");
    let mut batches = vec![first];
    batches.extend(drain(&table).await.into_iter().skip(1));
    assert_eq!(count(&batches, 1), 12_000);
    assert!(batches.iter().flat_map(|batch| &batch.lines).any(|line| line.dropped > 0));
}

#[test]
fn commands_are_cut_between_characters() {
    let args = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    assert_eq!(command_line("true", &[]), "true");
    assert_eq!(command_line("sh", &args(&["-c", "a b"])), "sh -c a b");
    let long = command_line("sh", &args(&["ä".repeat(5000).as_str(), "never"]));
    assert!((1020..=1024).contains(&long.len()) && long.ends_with('ä'), "{}", long.len());
}

proptest! {
    /// However calls and writes interleave, the lines of a process come in order, each once.
    #[test]
    fn no_line_is_lost_or_doubled(
        steps in prop::collection::vec((0_usize..3, any::<bool>()), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let (batches, written) = runtime.block_on(async {
            let table = table();
            let processes = [add(&table, 1), add(&table, 2), add(&table, 3)];
            let mut written = [0, 0, 0];
            let mut batches: Vec<LogsResponse> = Vec::new();
            for (which, acked) in steps {
                let text = format!("{}\n", written[which]);
                written[which] += 1;
                table.push_output(&processes[which], Stdout, text.as_bytes());
                let ack = if acked { batches.last().map_or(0, |batch| batch.batch) } else { 0 };
                let batch = ask(&table, LogsRequest { ack, ..NOW }).await;
                if batch.batch > batches.last().map_or(0, |last| last.batch) {
                    batches.push(batch);
                } else {
                    assert_eq!(batches.last(), Some(&batch), "a repetition");
                }
            }
            let ack = batches.last().map_or(0, |batch| batch.batch);
            let last = ask(&table, LogsRequest { ack, ..NOW }).await;
            batches.push(last);
            (batches, written)
        });
        for (handle, count) in (1..).zip(written) {
            let expected: Vec<String> = (0..count).map(|n: i32| n.to_string()).collect();
            prop_assert_eq!(texts(&batches, handle), expected);
        }
    }
}
