//! Pulls or imports one image into a directory, and says how long that took:
//! `pull <reference> <work>`, or `pull --import <file or directory> <work>`.
//!
//! `bench/pull` compares it with other tools.

use std::{env, path::Path};

use anyhow::{Context as _, bail};
use tarn_oci::{Bounds, Progress, Puller, RegistryOptions};
use tarn_task::Tasks;
use tokio::{sync::watch, time::Instant};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let puller = Puller::new(RegistryOptions::default(), Bounds::default(), Tasks::new());
    let progress = watch::Sender::new(Progress::default());
    let began = Instant::now();
    let unpacked = match arguments.as_slice() {
        ["--import", source, work] => {
            puller.import(Path::new(source), None, Path::new(work), progress).await
        }
        [reference, work] => {
            let found = puller.look_up(&reference.parse()?, None).await.context("look up")?;
            puller.pull(&found, None, Path::new(work), progress).await
        }
        _ => bail!("say `pull <reference> <work>` or `pull --import <source> <work>`"),
    };
    let unpacked = unpacked.context("unpack")?;
    let report = serde_json::json!({
        "seconds": began.elapsed().as_secs_f64(),
        "manifest": unpacked.manifest,
        "bytes": unpacked.bytes,
        "entries": unpacked.entries,
    });
    #[allow(clippy::print_stdout, reason = "what the program is for")]
    {
        println!("{report}");
    }
    Ok(())
}
