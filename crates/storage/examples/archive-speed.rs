//! Says how fast captures go into an object store in a directory and come back, and how much a
//! small change sends. Needs root, and 2 GiB in `/var/tmp`.
//!
//! `cargo run --release -p tarn-storage --example archive-speed`

#![allow(clippy::print_stdout, reason = "it prints what it measured")]

use std::{
    fs::File, future::Future, os::unix::fs::FileExt as _, path::Path, sync::Arc, time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use tarn_host::{Archive as _, Captures as _, Layers as _};
use tarn_storage::{
    HostCaptures, HostLayers, MasterKey, ObjectArchive, ObjectStoreConfig, Pool, PoolOptions,
    remove_all_mounts,
};
use tarn_task::{Entropy as _, SeededEntropy, Tasks};
use tarn_types::{BootId, ByteSize, InstanceTag, Pace, ProjectId, SandboxId};
use tokio::time::Instant;

const MIB: usize = 1 << 20;
const IMAGE: usize = 200 * MIB;
const CHANGE: usize = 20 * MIB;

#[tokio::main]
async fn main() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("tarn-archive-").tempdir_in("/var/tmp")?;
    let data = dir.path().join("data");
    let measured = measure(&data).await;
    remove_all_mounts(&data)?;
    measured
}

async fn measure(data: &Path) -> Result<()> {
    let tag = InstanceTag::from_hash([1, 2, 3, 4, 5, 6]);
    let pool = Arc::new(Pool::open(data, &tag, PoolOptions::default())?);
    let tasks = Tasks::new();
    let layers = HostLayers::start(pool.clone(), &tasks);
    let captures = Arc::new(HostCaptures::start(pool, &tasks, BootId::new("this"))?);
    let key = MasterKey::open_or_create(&data.join("key"))?;
    let config = ObjectStoreConfig::new(format!("file://{}", data.join("objects").display()));
    let archive = ObjectArchive::open(&config, key, captures.clone())?;

    let lower = data.join("template");
    std::fs::create_dir_all(&lower)?;
    let template = tarn_host::Template {
        digest: format!("sha256:{}", "0".repeat(64)),
        root: lower,
        config: tarn_types::ImageConfig::default(),
    };
    let texts: [(&str, Vec<u8>); 2] = [("random", noise(1, IMAGE)), ("text", text(IMAGE))];
    for (number, (kind, content)) in texts.into_iter().enumerate() {
        let id = SandboxId::from_random([u8::try_from(number)?; SandboxId::LENGTH]);
        let root = layers.build(&id, &template, ByteSize::from_mib(512)).await?.path;
        let file = File::create(root.join("file"))?;
        file.write_all_at(&content, 0)?;
        run(&archive, &captures, &id, &format!("{kind}_first")).await?;
        let change = noise(100 + number as u64, CHANGE);
        file.write_all_at(&change, 100 * MIB as u64 + 12_345)?;
        run(&archive, &captures, &id, &format!("{kind}_second")).await?;
    }
    tasks.shutdown(Duration::from_secs(20)).await;
    Ok(())
}

/// Captures a sandbox, sends it, and brings it back.
async fn run(
    archive: &ObjectArchive,
    captures: &HostCaptures,
    id: &SandboxId,
    name: &str,
) -> Result<()> {
    let project = ProjectId::from_random([7; 16]);
    captures.begin(name, ByteSize::default()).await?;
    captures.clone_layer(name, id).await?;
    captures.commit(name, serde_json::Value::Null).await?;
    captures.verify(name, Pace::Full).await?;
    let mut archived = None;
    let stored = timed(async {
        archived = Some(archive.store(&project, name, &|_| ()).await?);
        Ok(())
    });
    let stored = stored.await?;
    captures.discard(name).await?;
    let fetched = timed(async { Ok(archive.fetch(&project, name, &|_| ()).await?) }).await?;
    let verified = timed(async { Ok(archive.verify(&project, name).await?) }).await?;
    let archived = archived.context("it was stored")?;
    let size = archived.size.mib();
    println!("{name}: {size} MiB, sent {} MiB", archived.sent.mib());
    for (what, Cost { took, cpu }) in [("store", stored), ("fetch", fetched), ("verify", verified)]
    {
        let speed = size as f64 / took.as_secs_f64();
        let per_gib = cpu.as_secs_f64() * 1024.0 / size as f64;
        println!("  {what}: {speed:.0} MiB/s, {per_gib:.2} s of CPU a GiB");
    }
    Ok(())
}

/// What something took.
struct Cost {
    took: Duration,
    /// Of all CPUs, and of the whole process.
    cpu: Duration,
}

async fn timed(work: impl Future<Output = Result<()>>) -> Result<Cost> {
    let (start, used) = (Instant::now(), cpu()?);
    work.await?;
    Ok(Cost { took: start.elapsed(), cpu: cpu()? - used })
}

fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let parts = [usage.user_time(), usage.system_time()];
    let parts = parts.map(|it| Ok(Duration::from_micros(u64::try_from(it.num_microseconds())?)));
    parts.into_iter().sum()
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    SeededEntropy::new(seed).fill(&mut bytes);
    bytes
}

/// Words in an order that does not repeat: it shrinks about as sources and logs do.
fn text(length: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(length + 16);
    let words = ["sandbox", "layer", "return", "chunk", "error:", "0x7f3a", "let", "\n    ", "if"];
    for byte in noise(3, length) {
        if text.len() >= length {
            break;
        }
        text.extend_from_slice(words[usize::from(byte) % words.len()].as_bytes());
        text.push(b' ');
    }
    text.truncate(length);
    text
}
