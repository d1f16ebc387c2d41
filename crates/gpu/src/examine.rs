//! Says what GPUs a machine has, and what keeps sandboxes from them.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    cdi,
    nvidia::{NoCensus, census},
};

/// Something found out about the GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuFact {
    /// What was looked at.
    pub name: &'static str,
    /// Whether it is well; a machine without GPUs is.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to do when it is not well.
    pub remedy: Option<String>,
}

/// Looks at the GPUs of this machine. `obstacle` says of a version of the driver why sandboxes
/// cannot use it, if they cannot.
pub async fn examine(
    cdi_dirs: &[PathBuf],
    obstacle: impl AsyncFnOnce(&str) -> Option<String>,
) -> Vec<GpuFact> {
    let well = |detail: &str| {
        vec![GpuFact { name: "GPUs", ok: true, detail: detail.to_owned(), remedy: None }]
    };
    let census = match census() {
        Ok(census) => census,
        Err(NoCensus::NoLibrary) => return well("none: the NVIDIA driver is not installed"),
        Err(NoCensus::Refused(trouble)) => {
            return vec![GpuFact {
                name: "GPUs",
                ok: false,
                detail: format!("none: the NVIDIA driver's library says: {trouble}"),
                remedy: Some("install the driver that fits the library, and load it".to_owned()),
            }];
        }
    };
    let mut models: BTreeMap<String, usize> = BTreeMap::new();
    let mut devices = Vec::new();
    let mut broken = Vec::new();
    for found in census.devices {
        match found {
            Ok((index, device)) => {
                *models.entry(device.model.to_string()).or_default() += 1;
                devices.push(vec![device.id.to_string(), index.to_string()]);
            }
            Err(trouble) => broken.push(trouble),
        }
    }
    let counted: Vec<_> =
        models.iter().map(|(model, count)| format!("{count} × {model}")).collect();
    let mut facts = vec![GpuFact {
        name: "GPUs",
        ok: broken.is_empty(),
        detail: [vec![format!("driver {}", census.driver)], counted, broken].concat().join(", "),
        remedy: Some("reset what does not answer: nvidia-smi --gpu-reset".to_owned()),
    }];
    if devices.is_empty() {
        return facts;
    }
    let trouble = obstacle(&census.driver).await;
    facts.push(GpuFact {
        name: "GPU driver for gVisor",
        ok: trouble.is_none(),
        detail: trouble.unwrap_or_else(|| format!("{} is one that gVisor speaks", census.driver)),
        remedy: Some("install a driver of a version that it names".to_owned()),
    });
    let files = cdi::read(cdi_dirs).and_then(|files| cdi::files_for(&files, &devices));
    facts.push(GpuFact {
        name: "GPU driver's files (CDI)",
        ok: files.is_ok(),
        detail: match files {
            Ok(files) => format!("{} nodes, {} files", files.devices.len(), files.mounts.len()),
            Err(trouble) => format!("no sandbox can have a GPU: {trouble}"),
        },
        remedy: Some(cdi::REMEDY.to_owned()),
    });
    for fact in &mut facts {
        fact.remedy = fact.remedy.take().filter(|_| !fact.ok);
    }
    facts
}
