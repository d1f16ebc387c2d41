//! Measures how long a sandbox stands still for a capture of its layer: one of 10 GiB, with much
//! in memory, and with many extents.
//!
//! `cargo run --release -p tarn-storage --example capture_times -- DIR`, as root; DIR is made, used
//! (16 GiB) and taken down.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tarn_host::{Captures as _, Layers as _, Template};
use tarn_storage::{HostCaptures, HostLayers, Pool, PoolOptions, PoolSizing, remove_all_mounts};
use tarn_task::Tasks;
use tarn_types::{BootId, ByteSize, ImageConfig, InstanceTag, SandboxId};
use tokio::time::Instant;

const MIB: u64 = 1 << 20;
/// What is written at first.
const WRITTEN_MIB: u64 = 9 << 10;
const SIZE: ByteSize = ByteSize::from_mib(10 << 10);

struct Stage {
    id: SandboxId,
    template: Template,
    layers: HostLayers,
    captures: HostCaptures,
    image: PathBuf,
    file: File,
    /// Of the scattered places.
    random: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let dir = PathBuf::from(std::env::args().nth(1).context("name a directory to make")?);
    fs::create_dir(&dir).context("make the directory")?;
    let tasks = Tasks::new();
    let measured = measure(&dir, &tasks).await;
    tasks.shutdown(Duration::from_secs(60)).await;
    remove_all_mounts(&dir)?;
    fs::remove_dir_all(&dir)?;
    measured
}

async fn measure(dir: &std::path::Path, tasks: &Tasks) -> Result<()> {
    let root = dir.join("template");
    fs::create_dir_all(root.join("etc"))?;
    let template = Template { digest: String::new(), root, config: ImageConfig::default() };
    let sizing = PoolSizing { initial: ByteSize::from_mib(16 << 10), ..PoolSizing::default() };
    let options = PoolOptions { sizing, ..PoolOptions::default() };
    let pool = Arc::new(Pool::open(dir, &InstanceTag::from_hash([0; 6]), options)?);
    let layers = HostLayers::start(pool.clone(), tasks);
    let captures = HostCaptures::start(pool, tasks, BootId::new("this"))?;
    let id = SandboxId::from_random([1; SandboxId::LENGTH]);
    let root = layers.build(&id, &template, SIZE).await?.path;
    let file = File::create_new(root.join("data"))?;
    let image = root.with_file_name("disk.img");
    let mut stage = Stage { id, template, layers, captures, image, file, random: 7 };

    for mib in 0..WRITTEN_MIB {
        stage.file.write_all_at(&[0x5A; 1 << 20], mib * MIB)?;
    }
    for round in 0..3 {
        stage.capture(&format!("written_{round}"), "9 GiB written").await?;
    }
    for mib in 0..200 {
        stage.file.write_all_at(&[0xA5; 1 << 20], mib * 40 * MIB)?;
    }
    stage.capture("dirty", "200 MiB written since").await?;
    for round in 0..20 {
        stage.scatter(1000)?;
        let text = format!("1000 scattered since, number {round}");
        stage.capture(&format!("scattered_{round}"), &text).await?;
    }
    stage.scatter(20_000)?;
    stage.capture("many", "20000 scattered since").await?;
    stage.capture("again", "nothing since").await?;
    let begin = Instant::now();
    let clone = stage.captures.open("again").await?.layer;
    let other = SandboxId::from_random([2; SandboxId::LENGTH]);
    stage.layers.build_from(&other, &stage.template, &clone, SIZE).await?;
    print(&format!("build from it: {:.1} ms", ms(begin)));
    let begin = Instant::now();
    let other = SandboxId::from_random([3; SandboxId::LENGTH]);
    let larger = ByteSize::from_mib(12 << 10);
    stage.layers.build_from(&other, &stage.template, &clone, larger).await?;
    print(&format!("build from it, larger: {:.1} ms", ms(begin)));
    Ok(())
}

impl Stage {
    fn scatter(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            // Knuth's MMIX constants.
            self.random =
                self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let block = (self.random >> 20) % (WRITTEN_MIB * 256);
            self.file.write_all_at(&[1; 4096], block * 4096)?;
        }
        Ok(())
    }

    async fn capture(&self, name: &str, what: &str) -> Result<()> {
        let begin = Instant::now();
        self.captures.begin(name, ByteSize::default()).await?;
        let begun = ms(begin);
        let begin = Instant::now();
        self.layers.sync(&self.id).await?;
        let synced = ms(begin);
        let begin = Instant::now();
        self.captures.clone_layer(name, &self.id).await?;
        let still = ms(begin);
        let begin = Instant::now();
        self.captures.commit(name, serde_json::Value::Null).await?;
        let committed = ms(begin);
        let extents = Command::new("filefrag").arg(&self.image).output()?.stdout;
        let extents = String::from_utf8_lossy(&extents);
        let extents = extents.split(": ").nth(1).unwrap_or_default().trim();
        print(&format!(
            "{what}: begin {begun:.1}, sync {synced:.1}, standing still {still:.1}, commit {committed:.1} ms; {extents}"
        ));
        Ok(())
    }
}

fn ms(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1000.0
}

#[allow(clippy::print_stdout, reason = "the figures are what this program is for")]
fn print(line: &str) {
    println!("{line}");
}
