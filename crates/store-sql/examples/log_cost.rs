//! Measures what storing and reading lines costs on the disk of a directory, and what it costs the
//! store beside it.
//!
//! `cargo run --release -p tarn-store-sql --example log_cost -- DIRECTORY LINES PER_BATCH`
//! appends LINES lines of 80 characters in batches of PER_BATCH, reads them in pages and searches
//! them in vain; then inserts sandboxes one by one, alone and while another task appends.

#![allow(clippy::print_stdout, reason = "printing figures is what it is for")]
#![allow(clippy::disallowed_methods, reason = "it measures wall-clock time")]

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tarn_store::{
    Store as _,
    log::{LogFilter, LogQuery, LogStart, LogStore as _},
};
use tarn_store_sql::{LogLimits, SqliteLogStore, SqliteStore};
use tarn_task::Tasks;
use tarn_types::{LogBatch, LogLevel, LogLine, LogProcess, ProjectId, SandboxId, UnixMillis};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().ok_or("arguments: DIRECTORY LINES PER_BATCH");
    let directory = PathBuf::from(next()?);
    let lines: u64 = next()?.parse()?;
    let per_batch: u64 = next()?.parse()?;
    let limits = LogLimits { sandbox_bytes: 64 << 20, total_bytes: 4 << 30 };
    let tasks = Tasks::new();
    let store =
        Arc::new(SqliteLogStore::open(&directory.join("log_cost.db"), limits, &tasks).await?);

    let begun = Instant::now();
    for number in 1..=lines / per_batch {
        store.log_append(&batch(1, number, per_batch), UnixMillis(0)).await?;
    }
    let commits = store.write_counts().commits;
    println!("{lines} lines in batches of {per_batch}: {:?}, {commits} commits", begun.elapsed());

    let begun = Instant::now();
    let mut query = LogQuery {
        sandbox: sandbox(1),
        filter: LogFilter::default(),
        start: LogStart::After(0),
        most: None,
    };
    let mut read = 0;
    loop {
        let page = store.log_read(&query).await?;
        read += page.records.len();
        let Some(place) = page.next else { break };
        query.start = LogStart::After(place.after);
    }
    println!("{read} lines read in pages: {:?}", begun.elapsed());
    let begun = Instant::now();
    query.start = LogStart::After(0);
    query.filter.body = Some("no such text".to_owned());
    let found = store.log_read(&query).await?.records.len();
    println!("searched in vain ({found}): {:?}", begun.elapsed());

    let main_store = SqliteStore::open(&directory.join("log_cost_main.db"), &tasks).await?;
    facts(&main_store, "alone").await?;
    let stop = Arc::new(AtomicBool::new(false));
    let appending = tasks.spawn("append", {
        let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
        async move {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let appended = store.log_append(&batch(2, number, per_batch), UnixMillis(0)).await;
                appended.expect("appended");
                // A MiB a second, as the default rate has it, of four sandboxes.
                let pause = per_batch * 128 / 4000;
                tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
            }
        }
    });
    facts(&main_store, "beside four sandboxes at their rate").await?;
    stop.store(true, Ordering::Relaxed);
    appending.await?;
    Ok(())
}

/// Measures commits of the main store, which creates wait for.
async fn facts(store: &SqliteStore, when: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut micros = Vec::new();
    for number in 0..1000 {
        let begun = Instant::now();
        store.fact_set("number", &number.to_string()).await?;
        micros.push(begun.elapsed().as_micros());
    }
    micros.sort_unstable();
    println!("a commit of the main store, {when}: p50 {} µs, p99 {} µs", micros[500], micros[990]);
    Ok(())
}

fn sandbox(number: u8) -> SandboxId {
    SandboxId::from_random([number; SandboxId::LENGTH])
}

fn batch(of: u8, number: u64, lines: u64) -> LogBatch {
    let line = |n| LogLine {
        process: 1,
        level: LogLevel::Info,
        at: UnixMillis(1_800_000_000_000),
        dropped: 0,
        body: format!("{n:080}"),
    };
    LogBatch {
        sandbox: sandbox(of),
        project: ProjectId::from_random([1; 16]),
        boot: "boot".to_owned(),
        number,
        processes: vec![LogProcess {
            id: 1,
            pid: 2,
            command: "yes".to_owned(),
            managed_id: None,
            managed_name: None,
        }],
        lines: (0..lines).map(line).collect(),
    }
}
