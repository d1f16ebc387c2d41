//! What a restore takes from its snapshot, and what the request may say instead (spec 02 §4).

use tarn_types::{
    ByteSize, Captured, Gpus, ImageName, MilliCpu, Resources, SecretName, SnapshotKind,
    SnapshotRecord, SnapshotStatus,
};

/// A field of a create request that a snapshot has a say in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Override {
    /// `resources`, with nothing in it that is known.
    Resources,
    /// `resources.cpus`.
    Cpu,
    /// `resources.memory_mb`.
    Memory,
    /// `resources.disk_mb`.
    Disk,
    /// `resources.gpus`.
    Gpus,
    /// `image`.
    Image,
    /// `entrypoint`.
    Entrypoint,
    /// `secret_names`.
    SecretNames,
}

/// What of a create request a snapshot has a say in. A field that is there was there and not null.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(clippy::option_option, reason = "nothing said, none asked for, and some are three things")]
pub struct Overrides {
    /// Whether `resources` is there at all.
    pub resources: bool,
    /// `resources.cpus`.
    pub cpu: Option<MilliCpu>,
    /// `resources.memory_mb`.
    pub memory: Option<ByteSize>,
    /// `resources.disk_mb`.
    pub disk: Option<ByteSize>,
    /// `resources.gpus`; an empty list is one, and asks for none.
    pub gpus: Option<Option<Gpus>>,
    /// `image`.
    pub image: Option<ImageName>,
    /// `entrypoint`.
    pub entrypoint: Option<Vec<String>>,
    /// `secret_names`; an empty list is one.
    pub secret_names: Option<Vec<SecretName>>,
}

/// Why there is no restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreRefusal {
    /// The snapshot is not whole yet, or never will be.
    NotReady(SnapshotStatus),
    /// A memory snapshot goes on as it was.
    Forbidden(Override),
    /// The files are of this image.
    OtherImage(ImageName),
    /// The layer is as large as this already.
    DiskShrink {
        /// What was asked.
        asked: ByteSize,
        /// What there is.
        least: ByteSize,
    },
}

/// Decides what a sandbox has that is restored from a snapshot. The snapshot's state counts first,
/// then the fields in the order of the request's documentation.
///
/// # Errors
/// Names the first field that the snapshot does not allow.
pub fn restored(snapshot: &SnapshotRecord, ask: &Overrides) -> Result<Captured, RestoreRefusal> {
    if !snapshot.status.is_ready() {
        return Err(RestoreRefusal::NotReady(snapshot.status));
    }
    match snapshot.kind {
        SnapshotKind::Memory => match first_present(&without_client_defaults(ask)) {
            Some(field) => Err(RestoreRefusal::Forbidden(field)),
            None => Ok(snapshot.captured.clone()),
        },
        SnapshotKind::Filesystem => over_files(&snapshot.captured, ask),
    }
}

fn over_files(captured: &Captured, ask: &Overrides) -> Result<Captured, RestoreRefusal> {
    let Captured { image, resources, entrypoint, secret_names } = captured;
    let least = resources.disk;
    let resources = Resources {
        cpu: ask.cpu.unwrap_or(resources.cpu),
        memory: ask.memory.unwrap_or(resources.memory),
        disk: ask.disk.unwrap_or(least),
        gpus: ask.gpus.unwrap_or(resources.gpus),
    };
    if resources.disk < least {
        return Err(RestoreRefusal::DiskShrink { asked: resources.disk, least });
    }
    if ask.image.as_ref().is_some_and(|asked| *asked != image.name) {
        return Err(RestoreRefusal::OtherImage(image.name.clone()));
    }
    let entrypoint = ask.entrypoint.clone().or_else(|| entrypoint.clone());
    let secret_names = ask.secret_names.as_ref().unwrap_or(secret_names).clone();
    Ok(Captured { image: image.clone(), resources, entrypoint, secret_names })
}

/// Leaves out the `resources` that some clients put into every create, restores too, whether their
/// users said them or not (npm 0.5.89, Python 0.5.113): they would never restore a memory snapshot
/// otherwise. See `docs/decisions/0016-defaults-of-clients.md`.
fn without_client_defaults(ask: &Overrides) -> Overrides {
    let defaults = Overrides {
        resources: true,
        cpu: Some(Resources::default().cpu),
        memory: Some(Resources::default().memory),
        ..Overrides::default()
    };
    let Overrides { resources, cpu, memory, disk, gpus, .. } = *ask;
    let said = Overrides { resources, cpu, memory, disk, gpus, ..Overrides::default() };
    let mut rest = ask.clone();
    if said == defaults {
        (rest.resources, rest.cpu, rest.memory) = (false, None, None);
    }
    rest
}

/// Returns the first field that is there, the parts of `resources` before the whole.
fn first_present(ask: &Overrides) -> Option<Override> {
    let present = [
        (Override::Cpu, ask.cpu.is_some()),
        (Override::Memory, ask.memory.is_some()),
        (Override::Disk, ask.disk.is_some()),
        (Override::Gpus, ask.gpus.is_some()),
        (Override::Resources, ask.resources),
        (Override::Image, ask.image.is_some()),
        (Override::Entrypoint, ask.entrypoint.is_some()),
        (Override::SecretNames, ask.secret_names.is_some()),
    ];
    present.into_iter().find_map(|(field, there)| there.then_some(field))
}

// === impl Override ===

impl Override {
    /// Returns the JSON path.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resources => "resources",
            Self::Cpu => "resources.cpus",
            Self::Memory => "resources.memory_mb",
            Self::Disk => "resources.disk_mb",
            Self::Gpus => "resources.gpus",
            Self::Image => "image",
            Self::Entrypoint => "entrypoint",
            Self::SecretNames => "secret_names",
        }
    }
}

#[cfg(test)]
mod tests;
