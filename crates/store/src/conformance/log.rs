//! What every log store must do.

use std::{pin::Pin, sync::Arc};

use tarn_types::{LogBatch, LogLevel, LogLine, LogProcess, SandboxId, UnixMillis};
use tokio::task::JoinSet;

use super::sample::{T0, id, project};
use crate::{
    StoreError,
    log::{LogAppended, LogFilter, LogLimits, LogPage, LogPlace, LogQuery, LogStart, LogStore},
};

type CaseFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One named demand on a log store, and the limits it is made for.
type Case = (&'static str, LogLimits, fn(Arc<dyn LogStore>) -> CaseFuture);

/// Limits that no case reaches by accident.
const WIDE: LogLimits = LogLimits { sandbox_bytes: 1 << 30, total_bytes: 1 << 30 };

/// Every line of the cases costs so much, its process's 128 not counted.
const LINE: u64 = 48 + 8;

/// What a batch of ten lines costs.
const TEN: u64 = 10 * LINE + 128 + 2;

const CASES: &[Case] = &[
    ("lines come back as they were", WIDE, |s| Box::pin(lines_come_back(s))),
    ("a batch is stored once", WIDE, |s| Box::pin(a_batch_is_stored_once(s))),
    ("pages follow each other", WIDE, |s| Box::pin(pages_follow(s))),
    ("filters", WIDE, |s| Box::pin(filters(s))),
    ("the first and the last lines", WIDE, |s| Box::pin(first_and_last(s))),
    ("sandboxes do not mix", WIDE, |s| Box::pin(sandboxes_do_not_mix(s))),
    ("processes are counted", WIDE, |s| Box::pin(processes_are_counted(s))),
    ("the cap of a sandbox", LogLimits { sandbox_bytes: 3 * TEN, total_bytes: 1 << 30 }, |s| {
        Box::pin(the_cap_of_a_sandbox(s))
    }),
    ("the cap of all", LogLimits { sandbox_bytes: 1 << 30, total_bytes: 5 * TEN }, |s| {
        Box::pin(the_cap_of_all(s))
    }),
    ("old lines expire", WIDE, |s| Box::pin(old_lines_expire(s))),
    ("many at once", WIDE, |s| Box::pin(many_at_once(s))),
];

/// Runs every case on a store of its own, and fails with the names of those that failed.
///
/// # Panics
/// Panics when a case failed; what each one said went to stderr before.
pub async fn run(make: impl AsyncFn(LogLimits) -> Arc<dyn LogStore>) {
    let mut failed = Vec::new();
    for (name, limits, body) in CASES {
        let store = make(*limits).await;
        let mut task = JoinSet::new();
        task.spawn(body(store));
        if let Some(Err(_panicked)) = task.join_next().await {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "the log store fails these cases: {failed:#?}");
}

fn process(number: u64) -> LogProcess {
    let pid = i32::try_from(number).expect("small") + 100;
    LogProcess {
        id: number,
        pid,
        command: format!("p{number}"),
        managed_id: None,
        managed_name: None,
    }
}

/// Makes ten lines "LLLLLLLL": the line's number over all, in eight digits.
fn batch(sandbox: u8, number: u64, process_number: u64) -> LogBatch {
    let lines = (0..10).map(|place| {
        let line = number * 10 - 10 + place;
        LogLine {
            process: process_number,
            level: if line.is_multiple_of(2) { LogLevel::Info } else { LogLevel::Error },
            at: T0.plus_millis(line),
            dropped: 0,
            body: format!("{line:08}"),
        }
    });
    LogBatch {
        sandbox: id(sandbox),
        project: project(1),
        boot: "boot".to_owned(),
        number,
        processes: vec![process(process_number)],
        lines: lines.collect(),
    }
}

async fn append(store: &Arc<dyn LogStore>, batch: &LogBatch, at: UnixMillis) -> u64 {
    match store.log_append(batch, at).await.expect("appended") {
        LogAppended::Stored { cut_lines } => cut_lines,
        LogAppended::Repeated => unreachable!("it is new"),
    }
}

fn query(sandbox: SandboxId) -> LogQuery {
    LogQuery { sandbox, filter: LogFilter::default(), start: LogStart::After(0), most: None }
}

fn numbers(page: &LogPage) -> Vec<u64> {
    page.records.iter().filter_map(|record| record.line.body.parse().ok()).collect()
}

async fn read(store: &Arc<dyn LogStore>, query: &LogQuery) -> Vec<u64> {
    let page = store.log_read(query).await.expect("read");
    assert_eq!(page.next, None);
    numbers(&page)
}

async fn lines_come_back(store: Arc<dyn LogStore>) {
    let strange =
        ["", " ", "\0", "\u{1f980} \"'\\", "\u{1b}[31m", "a\u{2028}b", &"x".repeat(65_536)];
    let mut batch = batch(1, 1, 7);
    batch.processes[0].managed_id = Some("web".to_owned());
    batch.processes[0].managed_name = Some("w\"eb".to_owned());
    batch.lines = (0..)
        .zip(strange)
        .map(|(n, body)| LogLine {
            process: 7,
            level: LogLevel::ALL[n % 6],
            at: UnixMillis(i64::try_from(n).expect("small") - 1),
            dropped: n as u64,
            body: body.to_owned(),
        })
        .collect();
    append(&store, &batch, T0).await;
    let page = store.log_read(&query(id(1))).await.expect("read");
    let lines: Vec<_> = page.records.iter().map(|record| record.line.clone()).collect();
    assert_eq!(lines, batch.lines);
    for (record, sequence) in page.records.iter().zip(1..) {
        assert_eq!((record.sequence, record.process.as_ref()), (sequence, batch.processes.first()));
    }
    assert_eq!(store.log_read(&query(id(2))).await.expect("read"), LogPage::default());
    assert_eq!(store.log_process_list(&id(2)).await.expect("read"), []);
}

async fn a_batch_is_stored_once(store: Arc<dyn LogStore>) {
    append(&store, &batch(1, 1, 7), T0).await;
    append(&store, &batch(1, 2, 7), T0).await;
    for number in [1, 2] {
        let again = store.log_append(&batch(1, number, 7), T0).await.expect("taken");
        assert_eq!(again, LogAppended::Repeated);
    }
    assert_eq!(read(&store, &query(id(1))).await, (0..20).collect::<Vec<_>>());
    // Another life of the daemon counts from 1 again.
    let reborn = LogBatch { boot: "later".to_owned(), ..batch(1, 1, 8) };
    append(&store, &reborn, T0).await;
    assert_eq!(read(&store, &query(id(1))).await.len(), 30);
    assert_eq!(store.log_append(&reborn, T0).await.expect("taken"), LogAppended::Repeated);
}

async fn pages_follow(store: Arc<dyn LogStore>) {
    for number in 1..=230 {
        append(&store, &batch(1, number, 7), T0).await;
    }
    let mut seen = Vec::new();
    let mut query = query(id(1));
    let mut sizes = Vec::new();
    loop {
        let page = store.log_read(&query).await.expect("read");
        sizes.push(page.records.len());
        seen.extend(numbers(&page));
        let Some(LogPlace { after, most }) = page.next else { break };
        (query.start, query.most) = (LogStart::After(after), most);
    }
    assert_eq!(sizes, [1000, 1000, 300]);
    assert_eq!(seen, (0..2300).collect::<Vec<_>>());
    // A place in the middle of a batch, and one behind the end.
    query.start = LogStart::After(2295);
    assert_eq!(read(&store, &query).await, (2295..2300).collect::<Vec<_>>());
    query.start = LogStart::After(9999);
    assert_eq!(read(&store, &query).await, Vec::<u64>::new());
}

async fn filters(store: Arc<dyn LogStore>) {
    for (number, process) in [(1, 7), (2, 8), (3, 9)] {
        append(&store, &batch(1, number, process), T0).await;
    }
    let body = |text: &str| Some(text.to_owned());
    let odd = |range: std::ops::Range<u64>| range.filter(|n| n % 2 == 1).collect::<Vec<_>>();
    let error = || vec![LogLevel::Error];
    for (levels, processes, body, expected) in [
        (vec![], vec![], None, (0..30).collect()),
        (error(), vec![], None, odd(0..30)),
        (vec![LogLevel::Error, LogLevel::Info], vec![], None, (0..30).collect()),
        (vec![LogLevel::Warn], vec![], None, vec![]),
        (vec![], vec![8], None, (10..20).collect()),
        (vec![], vec![7, 9, 99], None, (0..10).chain(20..30).collect()),
        (vec![], vec![], body("0000002"), [2].into_iter().chain(20..30).collect()),
        (vec![], vec![], body(""), (0..30).collect()),
        (vec![], vec![], body("%"), vec![]),
        (error(), vec![9], body("0000002"), odd(20..30)),
    ] {
        let filter = LogFilter { levels, processes, body };
        let query = LogQuery { filter, ..query(id(1)) };
        assert_eq!(read(&store, &query).await, expected, "{:?}", query.filter);
    }
}

async fn first_and_last(store: Arc<dyn LogStore>) {
    for number in 1..=150 {
        append(&store, &batch(1, number, 7), T0).await;
    }
    let errors = LogFilter { levels: vec![LogLevel::Error], ..LogFilter::default() };
    let head = |most| LogQuery { most: Some(most), ..query(id(1)) };
    let tail = |count| LogQuery { start: LogStart::Last(count), ..query(id(1)) };
    assert_eq!(read(&store, &head(3)).await, [0, 1, 2]);
    assert_eq!(read(&store, &tail(3)).await, [1497, 1498, 1499]);
    assert_eq!(read(&store, &tail(10)).await, (1490..1500).collect::<Vec<_>>());
    assert_eq!(read(&store, &LogQuery { filter: errors.clone(), ..head(2) }).await, [1, 3]);
    assert_eq!(read(&store, &LogQuery { filter: errors, ..tail(2) }).await, [1497, 1499]);
    // More than a page: it goes on to what was asked and no further.
    for (query, first) in [(head(1200), 0), (tail(1200), 300)] {
        let page = store.log_read(&query).await.expect("read");
        assert_eq!(numbers(&page), (first..first + 1000).collect::<Vec<_>>());
        let place = page.next.expect("more");
        assert_eq!(place.most, Some(200));
        let rest = LogQuery { start: LogStart::After(place.after), most: place.most, ..query };
        let expected: Vec<_> = (first + 1000..first + 1200).collect();
        assert_eq!(read(&store, &rest).await, expected);
    }
    assert_eq!(store.log_read(&tail(5000)).await.expect("read").records.len(), 1000);
}

async fn sandboxes_do_not_mix(store: Arc<dyn LogStore>) {
    append(&store, &batch(1, 1, 7), T0).await;
    let foreign = LogBatch { project: project(2), ..batch(2, 2, 7) };
    append(&store, &foreign, T0).await;
    assert_eq!(read(&store, &query(id(1))).await, (0..10).collect::<Vec<_>>());
    assert_eq!(read(&store, &query(id(2))).await, (10..20).collect::<Vec<_>>());
    assert_eq!(store.log_owner(&id(1)).await.expect("known"), project(1));
    assert_eq!(store.log_owner(&id(2)).await.expect("known"), project(2));
    let unknown = store.log_owner(&id(3)).await;
    assert!(matches!(unknown, Err(StoreError::NotFound { .. })), "{unknown:?}");
}

async fn processes_are_counted(store: Arc<dyn LogStore>) {
    for (number, process) in [(1, 7), (2, 8), (3, 7)] {
        append(&store, &batch(1, number, process), T0).await;
    }
    let records = store.log_process_list(&id(1)).await.expect("read");
    let facts: Vec<_> = records
        .iter()
        .map(|record| {
            let span = (record.first_seen.millis_since(T0), record.last_seen.millis_since(T0));
            (record.process.clone(), span, record.lines)
        })
        .collect();
    assert_eq!(facts, [(process(7), (0, 29), 20), (process(8), (10, 19), 10)]);
}

async fn the_cap_of_a_sandbox(store: Arc<dyn LogStore>) {
    for number in 1..=3 {
        assert_eq!(append(&store, &batch(1, number, number), T0).await, 0);
    }
    for number in 4..=5 {
        assert_eq!(append(&store, &batch(1, number, number), T0).await, 10);
    }
    let page = store.log_read(&query(id(1))).await.expect("read");
    let note = &page.records[0];
    assert_eq!((note.sequence, note.line.dropped, note.process.as_ref()), (20, 20, None));
    assert_eq!(note.line.body, "[tarn: 20 earlier lines dropped]");
    assert_eq!((note.line.level, note.line.at), (LogLevel::Warn, T0.plus_millis(19)));
    assert_eq!(numbers(&page), (20..50).collect::<Vec<_>>());
    let ids = |list: Vec<crate::log::LogProcessRecord>| {
        list.iter().map(|record| record.process.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(store.log_process_list(&id(1)).await.expect("read")), [3, 4, 5]);
    // The note is there for whoever reads over the gap, whatever the level or process.
    let count = async |filter: LogFilter, start, most| {
        let query = LogQuery { filter, start, most, ..query(id(1)) };
        store.log_read(&query).await.expect("read").records.len()
    };
    let errors = || LogFilter { levels: vec![LogLevel::Error], ..LogFilter::default() };
    let body = |text: &str| LogFilter { body: Some(text.to_owned()), ..LogFilter::default() };
    assert_eq!(count(errors(), LogStart::After(0), None).await, 16);
    assert_eq!(count(errors(), LogStart::After(19), None).await, 16);
    assert_eq!(count(errors(), LogStart::After(20), None).await, 15);
    assert_eq!(count(body("earlier"), LogStart::After(0), None).await, 1);
    assert_eq!(count(body("0000004"), LogStart::After(0), None).await, 10);
    assert_eq!(count(LogFilter::default(), LogStart::After(0), Some(1)).await, 1);
    assert_eq!(count(LogFilter::default(), LogStart::Last(31), None).await, 31);
    let tail = LogQuery { start: LogStart::Last(30), ..query(id(1)) };
    assert_eq!(read(&store, &tail).await, (20..50).collect::<Vec<_>>());
    // A batch larger than the cap takes all the others' place and stays itself.
    let mut large = batch(1, 6, 6);
    large.lines[0].body = "9".repeat(10_000);
    assert_eq!(append(&store, &large, T0).await, 30);
    assert_eq!(store.log_read(&query(id(1))).await.expect("read").records.len(), 11);
}

async fn the_cap_of_all(store: Arc<dyn LogStore>) {
    for (sandbox, number) in [(1, 1), (1, 2), (2, 1), (3, 1), (3, 2)] {
        let at = T0.plus_secs(u64::from(sandbox));
        assert_eq!(append(&store, &batch(sandbox, number, 7), at).await, 0);
    }
    assert_eq!(append(&store, &batch(3, 3, 7), T0.plus_secs(4)).await, 10);
    let page = store.log_read(&query(id(1))).await.expect("read");
    assert_eq!((page.records[0].line.dropped, numbers(&page)), (10, (10..20).collect()));
    assert_eq!(read(&store, &query(id(2))).await.len(), 10);
    assert_eq!(append(&store, &batch(3, 4, 7), T0.plus_secs(5)).await, 10);
    let page = store.log_read(&query(id(1))).await.expect("read");
    assert_eq!((page.records.len(), page.records[0].line.dropped), (1, 20), "only the note");
    assert_eq!(store.log_process_list(&id(1)).await.expect("read"), []);
    assert_eq!(append(&store, &batch(3, 5, 7), T0.plus_secs(5)).await, 10);
    assert_eq!(store.log_read(&query(id(2))).await.expect("read").records.len(), 1);
    assert_eq!(read(&store, &query(id(3))).await.len(), 50);
}

async fn old_lines_expire(store: Arc<dyn LogStore>) {
    for number in 1..=6 {
        append(&store, &batch(1, number, number), T0.plus_secs(number)).await;
    }
    append(&store, &batch(2, 1, 1), T0).await;
    assert_eq!(store.log_expire(T0, 100).await.expect("expired"), 0);
    assert_eq!(store.log_expire(T0.plus_secs(4), 2).await.expect("expired"), 2);
    assert_eq!(store.log_expire(T0.plus_secs(4), 100).await.expect("expired"), 2);
    assert_eq!(read(&store, &query(id(1))).await, (30..60).collect::<Vec<_>>());
    let unknown = store.log_owner(&id(2)).await;
    assert!(matches!(unknown, Err(StoreError::NotFound { .. })), "nothing is left: {unknown:?}");
    let processes = store.log_process_list(&id(1)).await.expect("read");
    assert_eq!(processes.iter().map(|p| p.process.id).collect::<Vec<_>>(), [4, 5, 6]);
    // It goes on where it was.
    append(&store, &batch(1, 7, 7), T0.plus_secs(7)).await;
    let page = store.log_read(&query(id(1))).await.expect("read");
    assert_eq!(page.records.last().map(|record| record.sequence), Some(70));
    assert_eq!(store.log_append(&batch(1, 7, 7), T0).await.expect("taken"), LogAppended::Repeated);
}

async fn many_at_once(store: Arc<dyn LogStore>) {
    let mut tasks = JoinSet::new();
    for sandbox in 1..=20 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            for number in 1..=20 {
                append(&store, &batch(sandbox, number, 7), T0).await;
                store.log_read(&query(id(sandbox))).await.expect("read");
            }
        });
    }
    tasks.join_all().await;
    for sandbox in 1..=20 {
        assert_eq!(read(&store, &query(id(sandbox))).await, (0..200).collect::<Vec<_>>());
    }
}
