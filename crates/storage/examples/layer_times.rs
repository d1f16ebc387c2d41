//! Measures what a layer costs: build and release one by one, and twenty at once.
//!
//! `cargo run --release -p tarn-storage --example layer_times -- DIR`, as root; DIR is made, used
//! and taken down.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use tarn_host::{Layers as _, Template};
use tarn_storage::{HostLayers, Pool, PoolOptions, remove_all_mounts};
use tarn_task::Tasks;
use tarn_types::{ByteSize, ImageConfig, InstanceTag, SandboxId};
use tokio::time::Instant;

const ROUNDS: u8 = 50;
const BURST: u8 = 20;

#[tokio::main]
async fn main() -> Result<()> {
    let dir = PathBuf::from(std::env::args().nth(1).context("name a directory to make")?);
    std::fs::create_dir(&dir).context("make the directory")?;
    let measured = measure(&dir).await;
    remove_all_mounts(&dir)?;
    std::fs::remove_dir_all(&dir)?;
    measured
}

async fn measure(dir: &std::path::Path) -> Result<()> {
    let root = dir.join("template");
    std::fs::create_dir_all(root.join("etc"))?;
    let template = Template { digest: String::new(), root, config: ImageConfig::default() };
    let size = ByteSize::from_mib(10 << 10);
    let tasks = Tasks::new();

    let begin = Instant::now();
    let pool = Pool::open(dir, &InstanceTag::from_hash([0; 6]), PoolOptions::default())?;
    print("open a new pool", &mut [begin.elapsed()]);
    let begin = Instant::now();
    let pool = Arc::new({
        drop(pool);
        Pool::open(dir, &InstanceTag::from_hash([0; 6]), PoolOptions::default())?
    });
    print("open it again", &mut [begin.elapsed()]);
    let layers = Arc::new(HostLayers::start(pool, &tasks));
    let begin = Instant::now();
    layers.prepare(size).await?;
    print("format a blank", &mut [begin.elapsed()]);

    let (mut builds, mut releases) = (Vec::new(), Vec::new());
    for number in 0..ROUNDS {
        let id = SandboxId::from_random([number; SandboxId::LENGTH]);
        let begin = Instant::now();
        layers.build(&id, &template, size).await?;
        builds.push(begin.elapsed());
        let begin = Instant::now();
        layers.release(&id).await?;
        releases.push(begin.elapsed());
    }
    print("build", &mut builds);
    print("release", &mut releases);

    let (mut builds, mut releases) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        builds.push(burst(&tasks, &layers, &template, size, Verb::Build).await?);
        releases.push(burst(&tasks, &layers, &template, size, Verb::Release).await?);
    }
    print("20 builds at once", &mut builds);
    print("20 releases at once", &mut releases);
    tasks.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

#[derive(Clone, Copy)]
enum Verb {
    Build,
    Release,
}

async fn burst(
    tasks: &Tasks,
    layers: &Arc<HostLayers>,
    template: &Template,
    size: ByteSize,
    verb: Verb,
) -> Result<Duration> {
    let begin = Instant::now();
    let mut running = Vec::new();
    for number in 0..BURST {
        let (layers, template) = (layers.clone(), template.clone());
        let id = SandboxId::from_random([number; SandboxId::LENGTH]);
        running.push(tasks.spawn("burst", async move {
            match verb {
                Verb::Build => layers.build(&id, &template, size).await.map(drop),
                Verb::Release => layers.release(&id).await,
            }
        }));
    }
    for one in running {
        one.await??;
    }
    Ok(begin.elapsed())
}

#[allow(clippy::print_stdout, reason = "the figures are what this program is for")]
fn print(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let ms = |at: usize| times[at.min(times.len() - 1)].as_secs_f64() * 1000.0;
    let (count, p95) = (times.len(), times.len() * 95 / 100);
    println!("{what}: n={count} min {:.2} p50 {:.2} p95 {:.2} ms", ms(0), ms(count / 2), ms(p95));
}
