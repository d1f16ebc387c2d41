//! `tarn doctor`: each requirement, found or not, what it costs to lack it, and the remedy.
//!
//! `tarn up` makes the same checks and stops with the same words.

use std::{
    fmt::Write as _,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::bail;
use clap::Args;
use serde::{Serialize, de::DeserializeOwned};
use tarn_api::response::{AdminGpu, AdminGpuList, OrphanList, SnapshotList, TransferList};
use tarn_cli::{CliError, ClientCommand, GpuCommand, ListOptions, OrphanCommand, SnapshotCommand};
use tarn_runtime_oci::{GvisorConfig, driver_obstacle};
use tarn_types::SnapshotStatus;

use crate::{
    config::{Config, DataDir},
    gpu,
    host::{runsc_dir, slots_config},
    identity,
    tls::{self, Outlook},
    up,
};

/// What `tarn doctor` takes.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Where gVisor and the images are [default: $XDG_DATA_HOME/tarn, else ~/.local/share/tarn].
    #[arg(long, env = "TARN_ASSETS_DIR", value_name = "DIR")]
    assets_dir: Option<PathBuf>,
    /// The configuration [default: `tarn.toml` in the data directory, if there is one].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    pub(crate) name: String,
    pub(crate) ok: bool,
    /// What was found, and what it costs where it is not well.
    pub(crate) detail: String,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
    /// Whether the server starts without it.
    pub(crate) optional: bool,
}

/// Prints every finding. Fails when something required is missing.
#[allow(clippy::print_stderr, reason = "this is the command line")]
pub(crate) fn run(args: &DoctorArgs, data: &DataDir) -> ExitCode {
    let mut findings = Vec::new();
    let looked = identity::block_on(async {
        let assets = args.assets_dir.clone().map_or_else(identity::default_assets_dir, Ok)?;
        let config = up::read_config(args.config.as_deref(), data);
        findings = look(&assets, data, config.as_ref().ok()).await;
        findings.extend(on_demand_findings(&assets));
        match &config {
            Ok(config) => {
                findings.push(certificate(config, data));
                findings.extend(key_service(config).await);
            }
            Err(bad) => findings.push(misconfigured(bad)),
        }
        findings.extend(server_findings(data).await);
        print(&findings, args.json)
    });
    if let Err(bad) = looked {
        eprintln!("tarn: {bad:#}");
        return ExitCode::FAILURE;
    }
    if findings.iter().any(|finding| !finding.ok && !finding.optional) {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Stops a start that cannot succeed, with the words of the doctor.
pub(crate) async fn require(assets: &Path, data: &DataDir, config: &Config) -> anyhow::Result<()> {
    let findings = look(assets, data, Some(config)).await;
    for finding in findings.iter().filter(|finding| !finding.ok && finding.optional) {
        tracing::warn!("{}", line(finding));
    }
    let missing: Vec<String> =
        findings.iter().filter(|finding| !finding.ok && !finding.optional).map(line).collect();
    if !missing.is_empty() {
        bail!("this machine lacks what sandboxes need:\n  {}", missing.join("\n  "));
    }
    Ok(())
}

/// Looks at what a start needs. Without a configuration the network is left out: it is examined as
/// it would be set up.
async fn look(assets: &Path, data: &DataDir, config: Option<&Config>) -> Vec<Finding> {
    let mut findings = vec![root()];
    findings.extend(tarn_storage::host_facts().into_iter().map(|fact| Finding {
        // Without XFS the pool copies, which works and is slow.
        optional: fact.name.contains("xfs"),
        name: fact.name.to_owned(),
        ok: fact.ok,
        detail: fact.detail,
        remedy: fact.remedy,
    }));
    findings.extend(config.map(|config| network_findings(config, data)).unwrap_or_default());
    findings.extend(gvisor_findings(assets, data).await);
    findings.extend(gpu_findings(assets, data).await);
    findings.push(images(assets));
    findings
}

fn root() -> Finding {
    let ok = nix::unistd::geteuid().is_root();
    Finding {
        name: "root".to_owned(),
        ok,
        detail: if ok {
            "runs as root".to_owned()
        } else {
            "namespaces, mounts and cgroups need root; no sandbox can be made".to_owned()
        },
        remedy: (!ok).then(|| "start it with sudo".to_owned()),
        optional: false,
    }
}

/// Without these no slot can be made; the rest of the network's facts are advice.
const NETWORK_REQUIRED: [&str; 2] = ["nftables", "kernel rules"];

fn network_findings(config: &Config, data: &DataDir) -> Vec<Finding> {
    let slots = match slots_config(config, data) {
        Ok(slots) => slots,
        Err(bad) => return vec![misconfigured(&bad)],
    };
    let facts = tarn_hostnet::facts(&slots).into_iter();
    facts
        .map(|fact| Finding {
            optional: !NETWORK_REQUIRED.contains(&fact.name),
            name: fact.name.to_owned(),
            ok: fact.ok,
            detail: fact.detail,
            remedy: fact.remedy,
        })
        .collect()
}

async fn gvisor_findings(assets: &Path, data: &DataDir) -> Vec<Finding> {
    let dir = match runsc_dir(assets) {
        Ok(dir) => dir,
        Err(bad) => {
            return vec![Finding {
                name: "gVisor (runsc)".to_owned(),
                ok: false,
                detail: format!("{bad:#}"),
                remedy: Some("./x setup".to_owned()),
                optional: false,
            }];
        }
    };
    let config = GvisorConfig::new(dir, data.runsc(), identity::tag(data));
    let facts = tarn_runtime_oci::examine(&config).await.into_iter();
    facts
        .map(|fact| Finding {
            name: fact.name.to_owned(),
            ok: fact.ok,
            remedy: (!fact.ok).then(|| fact.remedy.to_owned()),
            detail: fact.detail,
            optional: false,
        })
        .collect()
}

/// GPUs are nothing that a server needs; what keeps sandboxes from those that are there is said.
async fn gpu_findings(assets: &Path, data: &DataDir) -> Vec<Finding> {
    let config =
        runsc_dir(assets).map(|dir| GvisorConfig::new(dir, data.runsc(), identity::tag(data)));
    let obstacle = async |driver: &str| match &config {
        Ok(config) => driver_obstacle(config, driver).await,
        Err(bad) => Some(format!("{bad:#}")),
    };
    let facts = tarn_gpu::examine(&gpu::cdi_dirs(), obstacle).await.into_iter();
    facts
        .map(|fact| Finding {
            name: fact.name.to_owned(),
            ok: fact.ok,
            detail: fact.detail,
            remedy: fact.remedy,
            optional: true,
        })
        .collect()
}

fn images(assets: &Path) -> Finding {
    let dir = assets.join("images");
    let count = std::fs::read_dir(&dir)
        .map(|entries| {
            entries.flatten().filter(|entry| entry.path().join("image.json").exists()).count()
        })
        .unwrap_or(0);
    Finding {
        name: "stock image".to_owned(),
        ok: count > 0,
        detail: if count > 0 {
            format!("{count} in {}", dir.display())
        } else {
            format!("none in {}; no sandbox can be made", dir.display())
        },
        remedy: (count == 0).then(|| "./x setup".to_owned()),
        optional: false,
    }
}

/// The images that the set-up leaves out. Not for `require`: a server without them lacks nothing
/// that it was set up for, and says so itself when one is asked for.
fn on_demand_findings(assets: &Path) -> Vec<Finding> {
    let found = tarn_storage::on_demand_images(assets).unwrap_or_default().into_iter();
    found
        .map(|(image, usable)| Finding {
            name: format!("image {}", image.name),
            ok: usable,
            detail: if usable {
                "built".to_owned()
            } else {
                "not built, so a create that names it is refused; nothing else needs it".to_owned()
            },
            remedy: (!usable).then(|| image.command.to_owned()),
            optional: true,
        })
        .collect()
}

/// The start fails with the same words.
fn misconfigured(bad: &anyhow::Error) -> Finding {
    Finding {
        name: "configuration".to_owned(),
        ok: false,
        detail: format!(
            "{bad:#}; no server starts with it, and what depends on it was not checked"
        ),
        remedy: Some("correct it; docs/configuration.md has every key".to_owned()),
        optional: false,
    }
}

/// Looks at the certificate that the configuration names.
fn certificate(config: &Config, data: &DataDir) -> Finding {
    let (ok, optional, detail, remedy) = match tls::outlook(config, data) {
        Ok(Outlook { detail, remedy }) => (remedy.is_none(), true, detail, remedy),
        // The start fails with the same words.
        Err(bad) => {
            (false, false, format!("{bad:#}"), Some("correct [tls] in tarn.toml".to_owned()))
        }
    };
    Finding { name: "TLS certificate".to_owned(), ok, detail, remedy, optional }
}

/// The key service, where one is configured. The server starts without it.
async fn key_service(config: &Config) -> Option<Finding> {
    let tried = config.secrets.outlook().await.transpose()?;
    let (ok, detail) = match tried {
        Ok(outlook) => (outlook.is_well, outlook.detail),
        Err(bad) => (false, format!("{bad:#}")),
    };
    Some(Finding {
        name: "key service (secrets.kms_command)".to_owned(),
        ok,
        detail: if ok { detail } else { format!("{detail}; what needs secrets is refused") },
        remedy: (!ok).then(|| {
            "put right what it says; docs/secrets.md shows what the program must do".to_owned()
        }),
        optional: true,
    })
}

/// What only a running server knows: sandboxes that it keeps and does not serve, and how it goes
/// with the object store.
async fn server_findings(data: &DataDir) -> Vec<Finding> {
    let list = unserved(data).await;
    // What keeps one question from being asked keeps all.
    if let Err(bad) = &list
        && let Some(CliError::NotRunning { .. } | CliError::NotAllowed { .. }) =
            bad.downcast_ref::<CliError>()
    {
        return vec![unanswered("sandboxes kept and not served, object store", bad)];
    }
    let mut findings = match list {
        Ok(list) => unserved_findings(&list),
        Err(bad) => vec![unanswered("sandboxes kept and not served", &bad)],
    };
    findings.push(match transfers(data).await {
        Ok(transfers) => object_store(&transfers),
        Err(bad) => unanswered("object store", &bad),
    });
    let name = "GPUs out of use";
    findings.push(match gpus_out_of_use(data).await {
        Ok(gpus) => kept(
            name,
            "given to nobody",
            &gpus,
            "mend what each one has (nvidia-smi says more), and start the server again",
        ),
        Err(bad) => unanswered(name, &bad),
    });
    let name = "damaged snapshots";
    findings.push(match damaged_snapshots(data).await {
        Ok(damaged) => kept(
            name,
            "not restored any more, and kept until they are deleted",
            &damaged,
            "look after the disk below the pool; take new snapshots, and delete these",
        ),
        Err(bad) => unanswered(name, &bad),
    });
    findings
}

/// Says that the server was not asked, or did not answer. That none runs is nothing wrong.
fn unanswered(name: &str, bad: &anyhow::Error) -> Finding {
    let ok = matches!(bad.downcast_ref::<CliError>(), Some(CliError::NotRunning { .. }));
    let nobody = "no server runs on this data directory, so there is nobody to ask";
    Finding {
        name: name.to_owned(),
        ok,
        detail: if ok { nobody.to_owned() } else { format!("unknown: {bad:#}") },
        remedy: (!ok).then(|| "put right what it says, and call this again".to_owned()),
        optional: true,
    }
}

fn unserved_findings(list: &OrphanList) -> Vec<Finding> {
    let unfound: Vec<_> =
        list.unfound.iter().map(|lost| format!("{} ({})", lost.id, lost.trouble)).collect();
    vec![
        kept(
            "orphaned sandboxes",
            "frozen and kept, because the store does not know them",
            &list.orphans,
            "if the store was replaced by mistake, stop the server, restore the store and start \
             again; otherwise they are removed after node.orphan_grace_secs",
        ),
        kept(
            "sandboxes not taken over",
            "left as they are since the server started, and looked for again",
            &unfound,
            "put right what each one lacks; what is lost for good does not come back, so delete \
             those once nothing in them is needed",
        ),
    ]
}

fn object_store(list: &TransferList) -> Finding {
    let troubles: Vec<_> = list
        .troubles
        .iter()
        .map(|it| {
            format!(
                "{} of {} failed {} times ({})",
                it.attempt, it.snapshot_id, it.failures, it.error
            )
        })
        .collect();
    let place = match &list.object_store {
        Some(place) => format!("snapshots go to {place}"),
        None => "none is configured, so snapshots are as safe as this machine's disk".to_owned(),
    };
    let uploads = list.transfers.iter().filter(|each| each.direction == "upload").count();
    let ok = troubles.is_empty();
    Finding {
        name: "object store".to_owned(),
        ok,
        detail: match (ok, uploads) {
            (true, 0) => place,
            (true, _) => format!("{place}; {uploads} are on their way"),
            (false, _) => format!("{place}; {}", troubles.join("; ")),
        },
        remedy: (!ok).then(|| {
            "put right what the errors name; each is tried again by itself, and what was not \
             uploaded can be restored all the same"
                .to_owned()
        }),
        optional: true,
    }
}

fn kept(name: &str, what: &str, things: &[String], remedy: &str) -> Finding {
    let ok = things.is_empty();
    let all = || format!("{} {what}: {}", things.len(), things.join(", "));
    Finding {
        name: name.to_owned(),
        ok,
        detail: if ok { "none".to_owned() } else { all() },
        remedy: (!ok).then(|| remedy.to_owned()),
        optional: true,
    }
}

async fn unserved(data: &DataDir) -> anyhow::Result<OrphanList> {
    ask(data, ClientCommand::Orphan(OrphanCommand::List(ListOptions { json: true }))).await
}

async fn transfers(data: &DataDir) -> anyhow::Result<TransferList> {
    let list = SnapshotCommand::Transfers(ListOptions { json: true });
    ask(data, ClientCommand::Snapshot(list)).await
}

/// Asks the server for the GPUs that it gives to nobody.
async fn gpus_out_of_use(data: &DataDir) -> anyhow::Result<Vec<String>> {
    let list = ClientCommand::Gpu(GpuCommand::Ls(ListOptions { json: true }));
    let list: AdminGpuList = ask(data, list).await?;
    let out = list.gpus.into_iter().filter_map(|gpu| {
        let AdminGpu { id, model, reason, .. } = gpu;
        Some(format!("{id}, {model} ({})", reason?))
    });
    Ok(out.collect())
}

/// Asks the server of the data directory, by the same command that an operator would use.
async fn ask<T: DeserializeOwned>(data: &DataDir, command: ClientCommand) -> anyhow::Result<T> {
    let mut text = Vec::new();
    tarn_cli::run_to(command, &data.root, &mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}

/// Asks the server for the snapshots that were found damaged.
async fn damaged_snapshots(data: &DataDir) -> anyhow::Result<Vec<String>> {
    let list = ClientCommand::Snapshot(SnapshotCommand::List(ListOptions { json: true }));
    let list: SnapshotList = ask(data, list).await?;
    // One that failed to be taken was never any size.
    let damaged = list.snapshots.into_iter().filter(|snapshot| {
        snapshot.status == SnapshotStatus::Failed.as_str() && snapshot.size_bytes.is_some()
    });
    Ok(damaged
        .map(|snapshot| format!("{} ({})", snapshot.id, snapshot.error.unwrap_or_default()))
        .collect())
}

fn print(findings: &[Finding], json: bool) -> anyhow::Result<()> {
    let text = if json {
        serde_json::to_string_pretty(findings)? + "\n"
    } else {
        lines(findings, std::io::stdout().is_terminal())
    };
    Ok(tarn_cli::print(text.as_bytes())?)
}

fn lines(findings: &[Finding], colour: bool) -> String {
    let mut out = String::new();
    for finding in findings {
        let (mark, code) = match (finding.ok, finding.optional) {
            (true, _) => ("ok     ", "32"),
            (false, true) => ("warning", "33"),
            (false, false) => ("missing", "31"),
        };
        let line = line(finding);
        // Writing to a `String` cannot fail.
        _ = if colour {
            writeln!(out, "\x1b[{code}m{mark}\x1b[0m {line}")
        } else {
            writeln!(out, "{mark} {line}")
        };
    }
    out
}

fn line(finding: &Finding) -> String {
    match &finding.remedy {
        Some(remedy) => format!("{}: {} → {remedy}", finding.name, finding.detail),
        None => format!("{}: {}", finding.name, finding.detail),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io};

    use super::*;

    fn data() -> (tempfile::TempDir, DataDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().to_owned();
        (dir, DataDir { root })
    }

    #[test]
    fn that_no_server_runs_is_well_and_anything_else_is_not() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let data_dir = PathBuf::from("/d");
        let found = unanswered("it", &CliError::NotRunning { data_dir, source: refused() }.into());
        assert!(found.ok && found.detail.contains("no server runs"), "{found:?}");
        let socket = PathBuf::from("/d/admin.sock");
        let (message, code) = ("its store is away".to_owned(), "UNAVAILABLE".to_owned());
        let reason = "nothing within 30 s".to_owned();
        for (bad, part) in [
            (CliError::NotAllowed { socket, source: refused() }, "another user"),
            (CliError::Refused { message, code }, "its store is away"),
            (CliError::BadAnswer { reason }, "nothing within 30 s"),
        ] {
            let found = unanswered("it", &bad.into());
            assert!(!found.ok && found.optional && found.detail.contains(part), "{found:?}");
        }
        let nonsense = unanswered("it", &anyhow::anyhow!("expected value at line 1"));
        assert!(!nonsense.ok && nonsense.detail.contains("line 1"), "{nonsense:?}");
    }

    #[tokio::test]
    async fn without_a_server_nothing_is_wrong() {
        let (_dir, data) = data();
        let found = server_findings(&data).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].ok, "{found:?}");
    }

    #[test]
    fn a_mistake_is_one_of_the_configuration_and_names_the_file() {
        let (_dir, data) = data();
        let path = data.root.join("tarn.toml");
        for (text, part) in [
            ("nonsense", "tarn.toml"),
            ("[tls]\nmode = 1", "mode"),
            ("[network]\nrange = \"everywhere\"", "network.range"),
        ] {
            fs::write(&path, text).expect("written");
            let found = misconfigured(&up::read_config(None, &data).expect_err(text));
            assert!(!found.ok && !found.optional && found.detail.contains(part), "{found:?}");
        }
    }

    #[test]
    fn a_finding_is_a_line() {
        let finding = |ok, optional| Finding {
            name: "it".to_owned(),
            ok,
            detail: "there".to_owned(),
            remedy: (!ok).then(|| "mend it".to_owned()),
            optional,
        };
        let findings = [finding(true, false), finding(false, true), finding(false, false)];
        assert_eq!(
            lines(&findings, false),
            "ok      it: there\nwarning it: there → mend it\nmissing it: there → mend it\n"
        );
        assert!(lines(&findings, true).starts_with("\x1b[32mok     \x1b[0m it: there\n"));
    }
}
