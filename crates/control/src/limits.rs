//! What a create may ask for: the pure check of a whole request.

use tarn_lifecycle::{Overrides, RestoreRefusal, restored};
use tarn_types::{
    ByteSize, Captured, EgressPolicy, GpuModel, GpuStock, Gpus, ImageName, MilliCpu,
    PoolDefinition, Resources, Restore, SandboxSpec, SnapshotKind, SnapshotRecord,
};

use crate::{
    ControlError, CreateAsk, GpuAsk, NetworkPatch, PoolAsk, ResizeAsk, text::check_launch,
};

/// The configured limits of a request (spec 01 §8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The least CPU. Default: 0.1.
    pub cpu_min: MilliCpu,
    /// The most CPU; `None` = what the largest node has.
    pub cpu_max: Option<MilliCpu>,
    /// The least memory. Default: 128 MiB.
    pub memory_min: ByteSize,
    /// The most memory; `None` = what the largest node has.
    pub memory_max: Option<ByteSize>,
    /// The least disk. Default: 1024 MiB.
    pub disk_min: ByteSize,
    /// The most disk. Default: 102400 MiB.
    pub disk_max: ByteSize,
    /// The longest time limit in seconds, and what 0 asks for; `None` = unlimited.
    pub timeout_max_secs: Option<u64>,
}

/// The most of everything that some node has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Most {
    /// CPU and memory of the largest.
    pub(crate) shape: Resources,
    /// Each model of GPU once, with the most that one node has of it.
    pub(crate) gpus: Vec<GpuStock>,
}

/// What a pool is asked to be, whole and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolSettings {
    pub(crate) definition: PoolDefinition,
    pub(crate) timeout_secs: u64,
    pub(crate) max_containers: Option<u32>,
    pub(crate) warm_containers: Option<u32>,
}

/// The time limit of a create that names none, in seconds (spec 01 §7).
const DEFAULT_TIMEOUT_SECS: u64 = 600;

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu_min: MilliCpu::from_milli(100),
            cpu_max: None,
            memory_min: ByteSize::from_mib(128),
            memory_max: None,
            disk_min: ByteSize::from_mib(1024),
            disk_max: ByteSize::from_mib(102_400),
            timeout_max_secs: None,
        }
    }
}

impl Limits {
    /// Fills in the defaults and checks every field. `most` is what the nodes have.
    ///
    /// # Errors
    /// Names the first field that is outside a limit or contradicts another.
    pub(crate) fn check(
        &self,
        ask: CreateAsk,
        default_image: ImageName,
        most: &Most,
    ) -> Result<SandboxSpec, ControlError> {
        let gpus = most.gpus(ask.gpus.as_deref())?.flatten();
        let resources = self.resources(ask.cpu, ask.memory, ask.disk, &most.shape)?;
        let resources = Resources { gpus, ..resources };
        let had = Captured {
            image: ask.image.clone().unwrap_or(default_image).into(),
            resources,
            entrypoint: ask.entrypoint.clone(),
            secret_names: ask.secret_names.clone().unwrap_or_default(),
        };
        self.spec(ask, had, None)
    }

    /// Takes from the snapshot what the request does not say, and checks every field. `node` is the
    /// shape of the node that has the snapshot, if it is there.
    ///
    /// # Errors
    /// Names the first field that the snapshot does not allow, or that is outside a limit.
    pub(crate) fn check_restore(
        &self,
        ask: CreateAsk,
        snapshot: &SnapshotRecord,
        most: &Most,
        node: Option<&Resources>,
    ) -> Result<SandboxSpec, ControlError> {
        let gpus = most.gpus(ask.gpus.as_deref());
        let overrides = Overrides {
            resources: ask.resources_present,
            cpu: ask.cpu,
            memory: ask.memory,
            disk: ask.disk,
            // Whether they may be asked for at all comes first.
            gpus: gpus.as_ref().map_or(Some(None), |gpus| *gpus),
            image: ask.image.clone(),
            entrypoint: ask.entrypoint.clone(),
            secret_names: ask.secret_names.clone(),
        };
        let had = restored(snapshot, &overrides).map_err(|why| refused(snapshot, why))?;
        gpus?;
        most.have_gpus(had.resources.gpus)?;
        // What else the snapshot brings along was within the limits when it was made.
        self.named(ask.cpu, ask.memory, ask.disk, &most.shape)?;
        if let Some(node) = node {
            fits(snapshot, &had.resources, node)?;
        }
        let restore = Restore { snapshot: snapshot.id.clone(), kind: snapshot.kind };
        self.spec(ask, had, Some(restore))
    }

    /// Fills in the defaults of a pool and checks every field. `network` is what the pool has.
    ///
    /// # Errors
    /// Names the first field that is outside a limit or contradicts another.
    pub(crate) fn check_pool(
        &self,
        ask: PoolAsk,
        network: Option<&EgressPolicy>,
        most: &Most,
    ) -> Result<PoolSettings, ControlError> {
        let gpus = most.gpus(ask.gpus.as_deref())?.flatten();
        let resources = self.resources(ask.cpu, ask.memory, ask.disk, &most.shape)?;
        let resources = Resources { gpus, ..resources };
        if let (Some(warm), Some(max)) = (ask.warm_containers, ask.max_containers)
            && warm > max
        {
            let reason = format!("{warm} are more than `max_containers`, which is {max}");
            return Err(ControlError::Invalid { field: "warm_containers", reason });
        }
        if ask.max_containers == Some(0) {
            let reason = "0 would leave every claim waiting; ask for at least 1, or leave it out";
            return Err(ControlError::Invalid { field: "max_containers", reason: reason.into() });
        }
        check_launch(ask.entrypoint.as_deref(), None)?;
        Ok(PoolSettings {
            definition: PoolDefinition {
                image: ask.image.into(),
                resources,
                entrypoint: ask.entrypoint,
                network: match ask.network {
                    NetworkPatch::Keep => network.cloned(),
                    NetworkPatch::Clear => None,
                    NetworkPatch::Replace(policy) => Some(policy),
                },
            },
            timeout_secs: self.timeout(Some(ask.timeout_secs.unwrap_or(0)))?,
            max_containers: ask.max_containers,
            warm_containers: ask.warm_containers,
        })
    }

    /// Returns what a sandbox has after a resize. `node` is the shape of its node.
    ///
    /// What is not asked for stays, and was within the limits when it was made.
    ///
    /// # Errors
    /// Names the first field that is outside a limit, or a disk that would shrink.
    pub(crate) fn resized(
        &self,
        had: &Resources,
        ask: ResizeAsk,
        node: &Resources,
    ) -> Result<Resources, ControlError> {
        if let Some(asked) = ask.disk.filter(|asked| *asked < had.disk) {
            let least = had.disk;
            return Err(ControlError::DiskShrinkForbidden { of: "sandbox", asked, least });
        }
        let cpu_max = self.cpu_max.map_or(node.cpu, |most| most.min(node.cpu));
        let memory_max = self.memory_max.map_or(node.memory, |most| most.min(node.memory));
        Ok(Resources {
            cpu: changed("resources.cpus", ask.cpu, had.cpu, (self.cpu_min, cpu_max))?,
            memory: changed(
                "resources.memory_mb",
                ask.memory,
                had.memory,
                (self.memory_min, memory_max),
            )?,
            disk: changed("resources.disk_mb", ask.disk, had.disk, (self.disk_min, self.disk_max))?,
            gpus: had.gpus,
        })
    }

    /// Checks what the sandboxes of a build are to have.
    ///
    /// # Errors
    /// Names the first field that is outside a limit.
    pub(crate) fn check_build(
        &self,
        asked: &Resources,
        largest: &Resources,
    ) -> Result<Resources, ControlError> {
        self.resources(Some(asked.cpu), Some(asked.memory), Some(asked.disk), largest)
    }

    fn spec(
        &self,
        ask: CreateAsk,
        had: Captured,
        restore: Option<Restore>,
    ) -> Result<SandboxSpec, ControlError> {
        // `true` is the default, and so no wish that an unnamed sandbox could not fulfil.
        if ask.auto_resume == Some(false) && ask.name.is_none() {
            return Err(ControlError::Ephemeral { field: "auto_resume" });
        }
        // What a snapshot brings along was within the bound when it was made.
        check_launch(ask.entrypoint.as_deref(), ask.secret_names.as_deref())?;
        let timeout_secs = self.timeout(ask.timeout_secs)?;
        Ok(SandboxSpec {
            name: ask.name,
            image: had.image,
            resources: had.resources,
            timeout_secs,
            entrypoint: had.entrypoint,
            network: ask.network,
            ports: ask.ports,
            auto_resume: ask.auto_resume.unwrap_or(true),
            max_pending_secs: ask.max_pending_secs,
            restore,
            secret_names: had.secret_names,
            template_id: None,
        })
    }

    fn resources(
        &self,
        cpu: Option<MilliCpu>,
        memory: Option<ByteSize>,
        disk: Option<ByteSize>,
        largest: &Resources,
    ) -> Result<Resources, ControlError> {
        let default = Resources::default();
        let cpu = cpu.unwrap_or(default.cpu);
        let memory = memory.unwrap_or(default.memory);
        let disk = disk.unwrap_or(default.disk);
        self.named(Some(cpu), Some(memory), Some(disk), largest)?;
        Ok(Resources { cpu, memory, disk, gpus: None })
    }

    /// Checks what a request names.
    fn named(
        &self,
        cpu: Option<MilliCpu>,
        memory: Option<ByteSize>,
        disk: Option<ByteSize>,
        largest: &Resources,
    ) -> Result<(), ControlError> {
        let cpu_max = self.cpu_max.unwrap_or(largest.cpu);
        let memory_max = self.memory_max.unwrap_or(largest.memory);
        if let Some(cpu) = cpu {
            within("resources.cpus", cpu, self.cpu_min, cpu_max)?;
        }
        if let Some(memory) = memory {
            within("resources.memory_mb", memory, self.memory_min, memory_max)?;
        }
        if let Some(disk) = disk {
            within("resources.disk_mb", disk, self.disk_min, self.disk_max)?;
        }
        Ok(())
    }

    fn timeout(&self, asked: Option<u64>) -> Result<u64, ControlError> {
        match (asked.unwrap_or(DEFAULT_TIMEOUT_SECS), self.timeout_max_secs) {
            (0, max) => Ok(max.unwrap_or(0)),
            (secs, Some(max)) if secs > max => Err(ControlError::LimitExceeded {
                field: "timeout_secs",
                value: secs.to_string(),
                limit: format!("at most {max} s"),
            }),
            (secs, _) => Ok(secs),
        }
    }
}

/// Makes of a request one for the files of a registered image. `asked` is the disk that the request
/// names, and `node` the shape of the node that has the files, if it is there.
///
/// # Errors
/// Fails when the disk would be smaller than the image's, or the node can never hold it.
pub(crate) fn over_image(
    spec: &mut SandboxSpec,
    asked: Option<ByteSize>,
    files: &SnapshotRecord,
    node: Option<&Resources>,
) -> Result<(), ControlError> {
    spec.resources.disk = disk_over(asked, spec.resources.disk, files)?;
    if let Some(node) = node {
        fits(files, &spec.resources, node)?;
    }
    spec.restore = spec.image.files();
    Ok(())
}

/// Returns the disk of what is made from a registered image: what is asked for, else the default or
/// more if the image's is larger.
///
/// # Errors
/// Fails when the one asked for is smaller than the image's.
pub(crate) fn disk_over(
    asked: Option<ByteSize>,
    default: ByteSize,
    files: &SnapshotRecord,
) -> Result<ByteSize, ControlError> {
    let least = files.captured.resources.disk;
    match asked {
        Some(asked) if asked < least => {
            Err(ControlError::DiskShrinkForbidden { of: "image", asked, least })
        }
        Some(asked) => Ok(asked),
        None => Ok(default.max(least)),
    }
}

// === impl Most ===

impl Most {
    /// Reads a wish for GPUs; `None` is no wish, and an empty one asks for none.
    ///
    /// # Errors
    /// Fails when no node has that model, or none has so many of it.
    #[allow(clippy::option_option, reason = "no wish, and a wish for none, are two things")]
    fn gpus(&self, ask: Option<&[GpuAsk]>) -> Result<Option<Option<Gpus>>, ControlError> {
        let Some(ask) = ask else { return Ok(None) };
        let Some(first) = ask.first() else { return Ok(Some(None)) };
        let no_such = |_wrong| ControlError::NoSuchGpu(first.model.clone());
        let model: GpuModel = first.model.parse().map_err(no_such)?;
        let count = ask.iter().fold(0_u32, |sum, gpu| sum.saturating_add(gpu.count));
        let gpus = Some(Gpus { model, count });
        self.have_gpus(gpus)?;
        Ok(Some(gpus))
    }

    /// Refuses what no node has, busy or not: nobody would ever come to it.
    fn have_gpus(&self, gpus: Option<Gpus>) -> Result<(), ControlError> {
        let Some(Gpus { model, count }) = gpus else { return Ok(()) };
        match self.gpus.iter().find(|stock| stock.model == model) {
            None => Err(ControlError::NoSuchGpu(model.to_string())),
            Some(stock) if count > stock.total => Err(ControlError::LimitExceeded {
                field: "resources.gpus[0].count",
                value: count.to_string(),
                limit: format!(
                    "at most {}, which is how many of model `{model}` one node has",
                    stock.total
                ),
            }),
            Some(_) => Ok(()),
        }
    }
}

/// Says in a caller's words why a snapshot cannot be restored like that.
fn refused(snapshot: &SnapshotRecord, why: RestoreRefusal) -> ControlError {
    match why {
        RestoreRefusal::NotReady(_) => ControlError::not_ready(snapshot),
        RestoreRefusal::Forbidden(field) => ControlError::SnapshotOverrideForbidden {
            field: field.as_str(),
            remedy: "what is restored from a memory snapshot goes on as it was; leave it out"
                .to_owned(),
        },
        RestoreRefusal::OtherImage(image) => ControlError::SnapshotOverrideForbidden {
            field: "image",
            remedy: format!("name its image, `{image}`, or leave it out"),
        },
        RestoreRefusal::DiskShrink { asked, least } => {
            ControlError::DiskShrinkForbidden { of: "snapshot", asked, least }
        }
    }
}

/// Refuses what the snapshot's node can never hold.
fn fits(
    snapshot: &SnapshotRecord,
    wanted: &Resources,
    node: &Resources,
) -> Result<(), ControlError> {
    let (field, value, most) = if wanted.cpu > node.cpu {
        ("resources.cpus", wanted.cpu.to_string(), node.cpu.to_string())
    } else if wanted.memory > node.memory {
        ("resources.memory_mb", wanted.memory.to_string(), node.memory.to_string())
    } else {
        return Ok(());
    };
    Err(match snapshot.kind {
        SnapshotKind::Filesystem => {
            let limit =
                format!("at most {most}, which is what the snapshot's node has; ask for less");
            ControlError::LimitExceeded { field, value, limit }
        }
        SnapshotKind::Memory => ControlError::SnapshotIncompatible {
            id: snapshot.id.clone(),
            reason: format!("its {field} is {value}, and its node has {most}"),
        },
    })
}

/// Returns what a field has after a change, which must be within the limits.
fn changed<T: Ord + Copy + ToString>(
    field: &'static str,
    asked: Option<T>,
    had: T,
    (min, max): (T, T),
) -> Result<T, ControlError> {
    match asked {
        Some(asked) if asked != had => within(field, asked, min, max),
        Some(_) | None => Ok(had),
    }
}

fn within<T: Ord + Copy + ToString>(
    field: &'static str,
    value: T,
    min: T,
    max: T,
) -> Result<T, ControlError> {
    let limit = if value < min {
        format!("at least {}", min.to_string())
    } else if value > max {
        format!("at most {}", max.to_string())
    } else {
        return Ok(value);
    };
    Err(ControlError::LimitExceeded { field, value: value.to_string(), limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ask: CreateAsk) -> Result<SandboxSpec, String> {
        let shape = Resources {
            cpu: MilliCpu::from_milli(2000),
            memory: ByteSize::from_mib(24_000),
            ..Resources::default()
        };
        let gpus = [("A10", 2), ("H100", 8)].map(|(name, total)| GpuStock {
            model: name.parse().expect("a name"),
            total,
            free: 0,
        });
        let most = Most { shape, gpus: gpus.to_vec() };
        let limits = Limits { timeout_max_secs: Some(86_400), ..Limits::default() };
        let default = "tensorlake/ubuntu-minimal".parse().expect("a good name");
        limits.check(ask, default, &most).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_spec() {
        let spec = check(CreateAsk::default()).expect("an empty request is fine");
        assert_eq!(spec.resources, Resources::default());
        assert_eq!((spec.timeout_secs, spec.auto_resume), (600, true));
        assert_eq!(spec.image.name.as_str(), "tensorlake/ubuntu-minimal");
        let unlimited = check(CreateAsk { timeout_secs: Some(0), ..CreateAsk::default() });
        assert_eq!(unlimited.map(|spec| spec.timeout_secs), Ok(86_400));
    }

    #[test]
    fn each_limit_names_its_field() {
        let cpu =
            |milli| CreateAsk { cpu: Some(MilliCpu::from_milli(milli)), ..Default::default() };
        let memory =
            |mib| CreateAsk { memory: Some(ByteSize::from_mib(mib)), ..Default::default() };
        let disk = |mib| CreateAsk { disk: Some(ByteSize::from_mib(mib)), ..Default::default() };
        let table = [
            (cpu(99), "resources.cpus: 0.099 is outside the limit; at least 0.1"),
            (cpu(2001), "resources.cpus: 2.001 is outside the limit; at most 2"),
            (memory(127), "resources.memory_mb: 127 MiB is outside the limit; at least 128 MiB"),
            (
                memory(24_001),
                "resources.memory_mb: 24001 MiB is outside the limit; at most 24000 MiB",
            ),
            (disk(1), "resources.disk_mb: 1 MiB is outside the limit; at least 1024 MiB"),
            (
                CreateAsk { timeout_secs: Some(90_000), ..Default::default() },
                "timeout_secs: 90000 is outside the limit; at most 86400 s",
            ),
            (
                CreateAsk { auto_resume: Some(false), ..Default::default() },
                "auto_resume: only a named sandbox has it; give the sandbox a name",
            ),
            (
                CreateAsk { entrypoint: Some(vec!["x".repeat(65_534)]), ..Default::default() },
                "entrypoint: 65537 bytes of JSON is outside the limit; at most 65536, \
                 `secret_names` included",
            ),
            (
                gpus(&[("A100-80GB", 1)]),
                "resources.gpus[0].model: no node has a GPU of model `A100-80GB`",
            ),
            (gpus(&[("a10", 1)]), "resources.gpus[0].model: no node has a GPU of model `a10`"),
            (
                gpus(&[("no name", 1)]),
                "resources.gpus[0].model: no node has a GPU of model `no name`",
            ),
            (
                gpus(&[("A10", 2), ("A10", 1)]),
                "resources.gpus[0].count: 3 is outside the limit; at most 2, which is how many of \
                 model `A10` one node has",
            ),
        ];
        for (ask, expected) in table {
            assert_eq!(check(ask).expect_err("outside"), expected);
        }
    }

    fn gpus(asked: &[(&str, u32)]) -> CreateAsk {
        let one = |(model, count): &(&str, u32)| GpuAsk { model: (*model).into(), count: *count };
        CreateAsk { gpus: Some(asked.iter().map(one).collect()), ..CreateAsk::default() }
    }

    #[test]
    fn gpus_are_of_a_model_that_a_node_has_busy_or_not() {
        let model = |name: &str| name.parse().expect("a name");
        for (asked, expected) in [
            (gpus(&[]), None),
            (gpus(&[("A10", 2)]), Some(Gpus { model: model("A10"), count: 2 })),
            (gpus(&[("H100", 3), ("H100", 5)]), Some(Gpus { model: model("H100"), count: 8 })),
        ] {
            assert_eq!(check(asked).map(|spec| spec.resources.gpus), Ok(expected));
        }
    }

    #[test]
    fn a_restore_is_judged_by_what_it_names_alone() {
        let largest = Resources {
            cpu: MilliCpu::from_milli(2000),
            memory: ByteSize::from_mib(24_000),
            ..Resources::default()
        };
        let limits = Limits {
            disk_max: ByteSize::from_mib(5120),
            cpu_min: MilliCpu::from_milli(1500),
            ..Limits::default()
        };
        assert!(limits.resources(None, None, None, &largest).is_err(), "the defaults are outside");
        assert!(limits.named(None, None, None, &largest).is_ok());
        let disk = Some(ByteSize::from_mib(6000));
        assert!(limits.named(None, None, disk, &largest).is_err());
    }

    #[test]
    fn a_resize_changes_what_it_names_within_the_limits_of_its_node() {
        let mib = ByteSize::from_mib;
        let node = Resources {
            cpu: MilliCpu::from_milli(2000),
            memory: mib(4096),
            ..Resources::default()
        };
        // Made when the limits were others.
        let had = Resources { memory: mib(64), ..Resources::default() };
        let limits = Limits { cpu_max: Some(MilliCpu::from_milli(64_000)), ..Limits::default() };
        let resized = |ask| limits.resized(&had, ask, &node).map_err(|why| why.to_string());
        let cpu =
            |milli| ResizeAsk { cpu: Some(MilliCpu::from_milli(milli)), ..Default::default() };
        let memory = |size| ResizeAsk { memory: Some(mib(size)), ..Default::default() };
        let disk = |size| ResizeAsk { disk: Some(mib(size)), ..Default::default() };
        assert_eq!(resized(ResizeAsk::default()), Ok(had));
        assert_eq!(resized(memory(64)), Ok(had), "what stays is not judged");
        let larger = Resources { disk: mib(20_480), ..had };
        assert_eq!(resized(disk(20_480)), Ok(larger));
        let table = [
            (cpu(2001), "resources.cpus: 2.001 is outside the limit; at most 2"),
            (cpu(50), "resources.cpus: 0.05 is outside the limit; at least 0.1"),
            (memory(4097), "resources.memory_mb: 4097 MiB is outside the limit; at most 4096 MiB"),
            (memory(127), "resources.memory_mb: 127 MiB is outside the limit; at least 128 MiB"),
            (
                disk(102_401),
                "resources.disk_mb: 102401 MiB is outside the limit; at most 102400 MiB",
            ),
            (
                disk(10_239),
                "resources.disk_mb: 10239 MiB is less than the 10240 MiB of the sandbox; a disk \
                 only grows",
            ),
        ];
        for (ask, expected) in table {
            assert_eq!(resized(ask).expect_err("outside"), expected);
        }
    }
}
