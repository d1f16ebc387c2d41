//! The way from an intent to a serving sandbox, and back.
//!
//! Claim or build: layer and slot side by side, then the runtime, then the daemon. Every step has
//! its undo in [`clean`], which is idempotent and serves failures, ends and restarts alike.

use std::{error::Error, net::SocketAddr, time::Duration};

use tarn_guest_api::{Environment, InitRequest, Limits, PROTOCOL, Secret};
use tarn_host::{ImageConfig, ImageError, RootFs, Slot, Template};
use tarn_node_api::Endpoint;
use tarn_runtime::{RuntimeExit, RuntimeSpec, Started};
use tarn_types::{EndCause, FailedStep, Launch, StartFailure};
use tokio::sync::watch;

use crate::{
    daemon::{self, DaemonError, knock_delay},
    ledger::{Durability, Entry},
    sandbox::Wanted,
    service::Shared,
};

/// How long a daemon may take from the runtime's start to its first answer.
const DAEMON_DEADLINE: Duration = Duration::from_secs(20);

/// The most output that a daemon retains, whatever its memory (spec 05 §2).
const OUTPUT_MAX: u64 = 64 << 20;

/// Builds a sandbox up to its open daemon. On failure everything made is still to be cleaned.
pub(crate) async fn start(
    shared: &Shared,
    entry: &mut Entry,
    wanted: watch::Receiver<Wanted>,
) -> Result<Endpoint, EndCause> {
    let template = find_template(shared, &entry.launch).await?;
    let (rootfs, slot) = place(shared, entry, &template).await?;
    let spec = runtime_spec(shared, entry, &rootfs, &slot);
    // The entry must be on disk before anybody is told that the sandbox runs, not before it starts.
    let written = shared.write(entry.clone(), Durability::Synced);
    let ran = run(shared, entry, &spec, &template.config, wanted);
    let (written, ran) = tokio::join!(written, ran);
    written.map_err(|bad| failed(FailedStep::Layer, &bad))?;
    let (started, endpoint) = ran?;
    entry.started = Some(started);
    Ok(endpoint)
}

/// Removes everything of a sandbox from the host. What cannot be removed now is said, and the call
/// may be repeated.
pub(crate) async fn clean(shared: &Shared, entry: &mut Entry) -> Result<(), String> {
    let mut trouble = Vec::new();
    if let Err(bad) = shared.parts.runtime.delete(&entry.id).await {
        // Its processes may still use layer and slot.
        return Err(chain(&bad));
    }
    if let Some(slot) = entry.slot.take() {
        shared.parts.slots.release(slot, &entry.id).await;
    }
    if let Err(bad) = shared.parts.layers.release(&entry.id).await {
        trouble.push(chain(&bad));
    }
    if trouble.is_empty() { Ok(()) } else { Err(trouble.join("; ")) }
}

/// Makes what the runtime must be told; the same for a new sandbox and for an adopted one.
pub(crate) fn runtime_spec(
    shared: &Shared,
    entry: &Entry,
    rootfs: &RootFs,
    slot: &Slot,
) -> RuntimeSpec {
    RuntimeSpec {
        id: entry.id.clone(),
        rootfs: rootfs.path.clone(),
        netns: slot.netns.clone(),
        address: slot.address,
        hostname: shared.config.hostname.clone(),
        resources: entry.launch.resources,
        tarnd: entry.tarnd.clone(),
        processes: shared.config.processes,
    }
}

async fn find_template(shared: &Shared, launch: &Launch) -> Result<Template, EndCause> {
    shared.parts.images.resolve(&launch.image).await.map_err(|bad| {
        let failure = match bad {
            ImageError::NotFound { .. }
            | ImageError::NotBuilt { .. }
            | ImageError::Unusable { .. } => StartFailure::Image,
        };
        EndCause::StartFailed { step: FailedStep::Image, failure, message: chain(&bad) }
    })
}

async fn place(
    shared: &Shared,
    entry: &mut Entry,
    template: &Template,
) -> Result<(RootFs, Slot), EndCause> {
    let disk = entry.launch.resources.disk;
    let layer = shared.parts.layers.build(&entry.id, template, disk);
    let slot = shared.parts.slots.claim(&entry.id, &entry.launch.egress);
    let (layer, slot) = tokio::join!(layer, slot);
    // Whatever was claimed is known before anything fails, so that it is released again.
    if let Ok(slot) = &slot {
        entry.slot = Some(slot.id);
    }
    let slot = slot.map_err(|bad| failed(FailedStep::Slot, &bad))?;
    let layer = layer.map_err(|bad| failed(FailedStep::Layer, &bad))?;
    Ok((layer, slot))
}

async fn run(
    shared: &Shared,
    entry: &Entry,
    spec: &RuntimeSpec,
    image: &ImageConfig,
    wanted: watch::Receiver<Wanted>,
) -> Result<(Started, Endpoint), EndCause> {
    let runtime = &shared.parts.runtime;
    runtime.create(spec).await.map_err(|bad| failed(FailedStep::Create, &bad))?;
    let started = runtime.start(&entry.id).await.map_err(|bad| failed(FailedStep::Start, &bad))?;
    open_daemon(started.daemon, &init_request(shared, entry, image), wanted).await?;
    let endpoint = Endpoint { daemon: started.daemon, token: entry.token.clone() };
    Ok((started, endpoint))
}

/// Knocks until the daemon is open, the sandbox has ended by itself, or the deadline has passed.
async fn open_daemon(
    daemon: SocketAddr,
    request: &InitRequest,
    mut wanted: watch::Receiver<Wanted>,
) -> Result<(), EndCause> {
    let knock = async {
        let mut round = 0;
        loop {
            match daemon::init(daemon, request).await {
                Err(DaemonError::Unreachable(_)) => {
                    tokio::time::sleep(knock_delay(round)).await;
                    round = round.saturating_add(1);
                }
                answered => break answered,
            }
        }
    };
    let exited = async {
        match wanted.wait_for(|wanted| wanted.exit.is_some()).await {
            Ok(wanted) => wanted.exit.clone(),
            Err(_handle_gone) => None,
        }
    };
    let answered = tokio::select! {
        answered = tokio::time::timeout(DAEMON_DEADLINE, knock) => answered,
        exit = exited => return Err(died_at_start(exit.as_ref())),
    };
    match answered {
        Err(_elapsed) => Err(EndCause::StartFailed {
            step: FailedStep::Daemon,
            failure: StartFailure::Internal,
            message: format!("no answer within {} s", DAEMON_DEADLINE.as_secs()),
        }),
        Ok(Ok(_opened)) => Ok(()),
        Ok(Err(DaemonError::Configuration(message))) => Err(EndCause::StartFailed {
            step: FailedStep::Init,
            failure: StartFailure::Configuration,
            message,
        }),
        Ok(Err(bad)) => Err(failed(FailedStep::Init, &bad)),
    }
}

fn died_at_start(exit: Option<&RuntimeExit>) -> EndCause {
    let message = match exit {
        Some(RuntimeExit::OutOfMemory) => "it ran out of memory before its daemon answered",
        Some(RuntimeExit::Died(reason)) => reason,
        None => "it ended before its daemon answered",
    };
    EndCause::StartFailed {
        step: FailedStep::Daemon,
        failure: StartFailure::Internal,
        message: message.to_owned(),
    }
}

fn init_request(shared: &Shared, entry: &Entry, image: &ImageConfig) -> InitRequest {
    let launch = &entry.launch;
    let random: [u8; 64] = shared.parts.entropy.bytes();
    InitRequest {
        protocol: PROTOCOL,
        token: Secret::new(entry.token.reveal()),
        sandbox_id: entry.id.to_string(),
        hostname: shared.config.hostname.clone(),
        env: Environment(image.env.clone()),
        default_user: image.user.clone(),
        working_dir: image.working_dir.clone(),
        entrypoint: entrypoint(launch, image),
        entropy: Secret::new(base64(&random)),
        now_ms: u64::try_from(shared.parts.clock.now().0).unwrap_or(0),
        limits: Limits {
            processes: shared.config.processes,
            output_bytes: OUTPUT_MAX.min(launch.resources.memory.bytes() / 16),
        },
    }
}

/// The request's entrypoint replaces the image's; without one an image ENTRYPOINT is run with its
/// CMD, and a CMD alone is not (spec 01 §2).
fn entrypoint(launch: &Launch, image: &ImageConfig) -> Option<Vec<String>> {
    if let Some(asked) = &launch.entrypoint {
        return Some(asked.clone());
    }
    if image.entrypoint.is_empty() {
        return None;
    }
    Some(image.entrypoint.iter().chain(&image.cmd).cloned().collect())
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

pub(crate) fn failed(step: FailedStep, bad: &(dyn Error + 'static)) -> EndCause {
    EndCause::StartFailed { step, failure: StartFailure::Internal, message: chain(bad) }
}

/// Writes an error and its causes in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tarn_types::{EgressPolicy, Resources};

    use super::*;

    #[test]
    fn which_entrypoint_is_run() {
        let strings = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let launch = |entrypoint| Launch {
            image: "a".parse().expect("a good name"),
            resources: Resources::default(),
            entrypoint,
            egress: EgressPolicy::OPEN,
            named: false,
            timeout_secs: 0,
        };
        let image = |entrypoint: &[&str], cmd: &[&str]| ImageConfig {
            entrypoint: strings(entrypoint),
            cmd: strings(cmd),
            ..ImageConfig::default()
        };
        let asked = launch(Some(strings(&["mine"])));
        assert_eq!(entrypoint(&asked, &image(&["e"], &["c"])), Some(strings(&["mine"])));
        assert_eq!(entrypoint(&launch(None), &image(&["e"], &["c"])), Some(strings(&["e", "c"])));
        assert_eq!(entrypoint(&launch(None), &image(&[], &["c"])), None);
    }
}
