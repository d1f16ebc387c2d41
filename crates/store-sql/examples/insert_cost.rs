//! Measures what inserts cost on the disk of a directory.
//!
//! `cargo run --release -p tarn-store-sql --example insert_cost -- DIRECTORY COUNT CALLERS`
//! inserts COUNT sandboxes by CALLERS at a time into a new database in DIRECTORY. Run it under
//! `strace -f -c -e trace=fsync,fdatasync` to count what reaches the disk.

#![allow(clippy::print_stdout, reason = "printing figures is what it is for")]
#![allow(clippy::disallowed_methods, reason = "it measures wall-clock time")]

use std::{path::PathBuf, sync::Arc, time::Instant};

use tarn_store::Store as _;
use tarn_store_sql::SqliteStore;
use tarn_task::Tasks;
use tarn_types::{
    Generation, Intent, PortAccess, ProjectId, Resources, SandboxId, SandboxRecord, SandboxSpec,
    SandboxStatus, Target, UnixMillis,
};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().ok_or("arguments: DIRECTORY COUNT CALLERS");
    let directory = PathBuf::from(next()?);
    let count: u32 = next()?.parse()?;
    let callers: u32 = next()?.parse()?;
    let store = SqliteStore::open(&directory.join("insert_cost.db"), &Tasks::new()).await?;
    let store = Arc::new(store);
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let mut micros = Vec::new();
            for number in (caller..count).step_by(callers as usize) {
                let record = record(number);
                let begun = Instant::now();
                let inserted = store.sandbox_insert(&record, SandboxStatus::Pending).await;
                micros.push(begun.elapsed().as_micros());
                inserted.expect("a new sandbox is inserted");
            }
            micros
        });
    }
    let mut micros: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    let elapsed = begun.elapsed();
    micros.sort_unstable();
    let at = |share: usize| micros[(micros.len() * share / 100).min(micros.len() - 1)];
    let counts = store.write_counts();
    println!(
        "{count} inserts by {callers}: {:.0} per second, p50 {} µs, p95 {} µs, p99 {} µs, {} commits",
        f64::from(count) / elapsed.as_secs_f64(),
        at(50),
        at(95),
        at(99),
        counts.commits,
    );
    Ok(())
}

fn record(number: u32) -> SandboxRecord {
    let mut random = [0; SandboxId::LENGTH];
    for (place, byte) in random.iter_mut().zip(format!("{number:010}").bytes()) {
        *place = byte - b'0';
    }
    SandboxRecord {
        id: SandboxId::from_random(random),
        project: ProjectId::from_random([1; 16]),
        created_at: UnixMillis(i64::from(number)),
        asked: SandboxSpec {
            name: format!("box-{number}").parse().ok(),
            image: "tensorlake/ubuntu-minimal".parse().expect("a good image name"),
            resources: Resources::default(),
            timeout_secs: 600,
            entrypoint: None,
            network: None,
            ports: PortAccess::default(),
            auto_resume: true,
            max_pending_secs: None,
            restore: None,
            secret_names: Vec::new(),
            template_id: None,
        },
        intent: Intent {
            generation: Generation::FIRST,
            target: Target::Running,
            node: None,
            pending_reason: None,
        },
        observed: None,
        sequence: 1,
        running_at: None,
        terminated_at: None,
        end: None,
        capturing: None,
        member: None,
        resize: None,
    }
}
