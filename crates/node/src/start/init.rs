//! What a daemon is told when its sandbox boots: who it is, what it runs, and the secrets it has.

use std::borrow::Cow;

use tarn_guest_api::{Environment, InitRequest, Limits, PROTOCOL, Secret};
use tarn_types::{
    EndCause, FailedStep, GpuFiles, ImageConfig, Launch, SecretName, SecretValue, StartFailure,
};

use super::{Files, Source, base64, failed};
use crate::{ledger::Entry, service::Shared};

/// Where the dynamic linker looks first.
const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

/// The most output that a daemon retains, whatever its memory (spec 05 §2).
const OUTPUT_MAX: u64 = 64 << 20;

/// Writes the request with which a daemon that booted becomes a sandbox's.
pub(super) async fn init_request(
    shared: &Shared,
    entry: &Entry,
    source: &Source,
    gpus: Option<&GpuFiles>,
) -> Result<InitRequest, EndCause> {
    let launch = &entry.launch;
    let image = launch.image.config().unwrap_or(&source.template.config);
    let secrets = secrets(shared, entry, source).await?;
    // A later pair wins (spec 01 §10).
    let mut env = with_driver(gpus, &image.env);
    env.extend(secrets.into_iter().map(|(name, value)| (name.into(), value.reveal().to_owned())));
    let random: [u8; 64] = shared.parts.entropy.bytes();
    Ok(InitRequest {
        protocol: PROTOCOL,
        token: Secret::new(entry.token.reveal()),
        sandbox_id: entry.id.to_string(),
        hostname: shared.config.hostname.clone(),
        env: Environment(env),
        default_user: image.user.clone(),
        working_dir: image.working_dir.clone(),
        entrypoint: entrypoint(launch, image),
        entropy: Secret::new(base64(&random)),
        now_ms: u64::try_from(shared.parts.clock.now().0).unwrap_or(0),
        limits: Limits {
            processes: shared.config.processes,
            output_bytes: OUTPUT_MAX.min(launch.resources.memory.bytes() / 16),
        },
    })
}

/// Asks for the values of the secrets that a sandbox boots with. They go into its first request
/// and nowhere else.
async fn secrets(
    shared: &Shared,
    entry: &Entry,
    source: &Source,
) -> Result<Vec<(SecretName, SecretValue)>, EndCause> {
    let names = &entry.launch.secret_names;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let revealed = shared.parts.secrets.reveal(&entry.project, names).await;
    let revealed = revealed.map_err(|bad| failed(FailedStep::Init, &bad))?;
    let gone = names.iter().find(|name| !revealed.iter().any(|(there, _)| there == *name));
    match (gone, &source.files) {
        (None, _) => {}
        // What it has made must stay within reach.
        (Some(name), Files::Own) => tracing::warn!(
            sandbox.id = %entry.id, %name, "it boots without a secret that was deleted meanwhile"
        ),
        (Some(name), Files::New | Files::Captured { .. }) => {
            return Err(misconfigured(format!(
                "secret `{name}` was deleted before the sandbox started"
            )));
        }
    }
    let sizes = revealed.iter().map(|(name, value)| name.as_str().len() + value.reveal().len());
    let (bytes, most) = (sizes.sum::<usize>(), SecretValue::MOST_TOGETHER);
    if bytes > most {
        let message =
            format!("its secrets have {bytes} bytes by now, and at most {most} are given");
        return Err(misconfigured(message));
    }
    Ok(revealed)
}

/// Adds to the environment of an image what its programs need to find the GPUs' driver.
fn with_driver(gpus: Option<&GpuFiles>, image: &[(String, String)]) -> Vec<(String, String)> {
    let Some(gpus) = gpus else { return image.to_vec() };
    let mut env = gpus.env.clone();
    env.extend(image.iter().cloned());
    let dirs: Vec<_> = gpus.library_dirs.iter().map(|dir| dir.to_string_lossy()).collect();
    if !dirs.is_empty() {
        let own = image.iter().rev().find(|(name, _)| name == LIBRARY_PATH);
        let own = own
            .map(|(_, value)| value.as_str().into())
            .filter(|own: &Cow<'_, str>| !own.is_empty());
        // The image's own come first, as they would if the driver were a part of the system.
        let all: Vec<_> = own.into_iter().chain(dirs).collect();
        env.push((LIBRARY_PATH.to_owned(), all.join(":")));
    }
    env
}

fn misconfigured(message: String) -> EndCause {
    let failure = StartFailure::Configuration;
    EndCause::StartFailed { step: FailedStep::Init, failure, message }
}

/// The request's entrypoint replaces the image's, and an empty one runs nothing; without one an
/// image ENTRYPOINT is run with its CMD, and a CMD alone is not (spec 01 §2).
fn entrypoint(launch: &Launch, image: &ImageConfig) -> Option<Vec<String>> {
    if let Some(asked) = &launch.entrypoint {
        return (!asked.is_empty()).then(|| asked.clone());
    }
    if image.entrypoint.is_empty() {
        return None;
    }
    Some(image.entrypoint.iter().chain(&image.cmd).cloned().collect())
}

#[cfg(test)]
mod tests {
    use tarn_types::{EgressPolicy, Resources};

    use super::*;

    #[test]
    fn the_driver_is_found_behind_what_the_image_says() {
        let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        let files = GpuFiles {
            library_dirs: vec!["/d".into(), "/e".into()],
            env: pairs(&[("A", "driver"), ("B", "driver")]),
            ..GpuFiles::default()
        };
        let image = pairs(&[("A", "image"), ("LD_LIBRARY_PATH", "/i")]);
        assert_eq!(with_driver(None, &image), image);
        let told: std::collections::BTreeMap<_, _> =
            with_driver(Some(&files), &image).into_iter().collect();
        let expected = [("A", "image"), ("B", "driver"), ("LD_LIBRARY_PATH", "/i:/d:/e")];
        assert_eq!(told, pairs(&expected).into_iter().collect());
        let alone = with_driver(Some(&files), &[]);
        assert!(alone.contains(&("LD_LIBRARY_PATH".to_owned(), "/d:/e".to_owned())));
    }

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
            restore: None,
            claimed_at: None,
            secret_names: Vec::new(),
        };
        let image = |entrypoint: &[&str], cmd: &[&str]| ImageConfig {
            entrypoint: strings(entrypoint),
            cmd: strings(cmd),
            ..ImageConfig::default()
        };
        let asked = launch(Some(strings(&["mine"])));
        assert_eq!(entrypoint(&asked, &image(&["e"], &["c"])), Some(strings(&["mine"])));
        assert_eq!(entrypoint(&launch(Some(vec![])), &image(&["e"], &["c"])), None);
        assert_eq!(entrypoint(&launch(None), &image(&["e"], &["c"])), Some(strings(&["e", "c"])));
        assert_eq!(entrypoint(&launch(None), &image(&[], &["c"])), None);
    }
}
