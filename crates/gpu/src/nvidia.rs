//! The GPUs that NVIDIA's library names.

use std::{ffi::OsStr, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use nvml_wrapper::{
    Nvml,
    enum_wrappers::device::{EccCounter, MemoryError},
    error::NvmlError,
};
use tarn_host::{GpuDevice, GpuError, Gpus};
use tarn_task::Tasks;
use tarn_types::{GpuFiles, GpuId};

use crate::{cdi, model::model_of};

/// Where CDI files are; the later takes precedence (the CDI specification).
pub const CDI_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// The library of the driver.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// How long the driver may take to answer. One that hangs hangs for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// The state of MIG in which a device is given out in parts.
const MIG_ON: u32 = 1;

/// The GPUs of this machine.
#[derive(Debug)]
pub struct Nvidia {
    /// `None` is a machine without a driver.
    nvml: Option<Arc<Nvml>>,
    devices: Vec<Found>,
    cdi_dirs: Vec<PathBuf>,
    /// Why none of them can be used, whatever they say.
    obstacle: Option<String>,
    tasks: Tasks,
}

/// A device, and by which number the driver knows it.
#[derive(Debug, Clone)]
struct Found {
    device: GpuDevice,
    index: u32,
}

/// What the library says of the machine.
pub(crate) struct Census {
    /// It holds the address of each of some hundred functions.
    pub(crate) nvml: Arc<Nvml>,
    pub(crate) driver: String,
    /// Each device that answers, and what is wrong with those that do not.
    pub(crate) devices: Vec<Result<(u32, GpuDevice), String>>,
}

/// Why there is no census.
pub(crate) enum NoCensus {
    /// The library is not there.
    NoLibrary,
    /// It is there, and says this.
    Refused(String),
}

// === impl Nvidia ===

impl Nvidia {
    /// Looks what the machine has; without the driver's library that is nothing. `obstacle` says of
    /// a version of the driver why sandboxes cannot use it, if they cannot.
    pub async fn find(
        cdi_dirs: Vec<PathBuf>,
        tasks: Tasks,
        obstacle: impl AsyncFnOnce(&str) -> Option<String>,
    ) -> Self {
        let (nvml, devices, obstacle) = match census() {
            Err(NoCensus::NoLibrary) => (None, Vec::new(), None),
            Err(NoCensus::Refused(trouble)) => {
                tracing::warn!(trouble, "the GPU driver's library is there and does not answer");
                (None, Vec::new(), None)
            }
            Ok(census) => {
                let mut devices = Vec::new();
                for found in census.devices {
                    match found {
                        Ok((index, device)) => {
                            tracing::info!(
                                gpu.id = %device.id, model = %device.model,
                                product = device.product, "a GPU"
                            );
                            devices.push(Found { device, index });
                        }
                        Err(trouble) => tracing::error!(trouble, "a GPU cannot be used"),
                    }
                }
                let obstacle = match devices.is_empty() {
                    true => None,
                    false => obstacle(&census.driver).await,
                };
                (Some(census.nvml), devices, obstacle)
            }
        };
        Self { nvml, devices, cdi_dirs, obstacle, tasks }
    }

    fn found(&self, id: &GpuId) -> Result<&Found, GpuError> {
        let detail = "the driver does not name it".to_owned();
        let found = self.devices.iter().find(|found| found.device.id == *id);
        found.ok_or(GpuError::Faulty { detail })
    }

    /// Runs something of the driver's apart: it may take its time, or never come back.
    async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, GpuError> + Send + 'static,
    ) -> Result<T, GpuError> {
        let done = tokio::time::timeout(PATIENCE, self.tasks.spawn_blocking(work)).await;
        let faulty = |detail: String| Err(GpuError::Faulty { detail });
        match done {
            Ok(Ok(done)) => done,
            Ok(Err(lost)) => faulty(lost.to_string()),
            Err(_elapsed) => {
                faulty(format!("the driver did not answer in {} s", PATIENCE.as_secs()))
            }
        }
    }
}

#[async_trait]
impl Gpus for Nvidia {
    fn list(&self) -> Vec<GpuDevice> {
        self.devices.iter().map(|found| found.device.clone()).collect()
    }

    async fn check(&self, id: &GpuId) -> Result<(), GpuError> {
        if let Some(detail) = self.obstacle.clone() {
            return Err(GpuError::Faulty { detail });
        }
        // One whose files are not known is of no use to anybody.
        self.files(std::slice::from_ref(id)).await?;
        let (nvml, id) = (self.nvml.clone(), id.clone());
        self.apart(move || match nvml {
            Some(nvml) => is_well(&nvml, &id),
            None => Ok(()),
        })
        .await
    }

    async fn files(&self, ids: &[GpuId]) -> Result<GpuFiles, GpuError> {
        let mut names = Vec::new();
        for id in ids {
            let found = self.found(id)?;
            names.push(vec![id.to_string(), found.index.to_string()]);
        }
        let dirs = self.cdi_dirs.clone();
        // Read anew each time: an update of the driver writes them anew.
        self.apart(move || {
            let files = cdi::read(&dirs).and_then(|files| cdi::files_for(&files, &names));
            files.map_err(|detail| GpuError::Files { detail })
        })
        .await
    }
}

/// Asks the library what there is.
pub(crate) fn census() -> Result<Census, NoCensus> {
    let nvml = match Nvml::builder().lib_path(OsStr::new(LIBRARY)).init() {
        Ok(nvml) => Arc::new(nvml),
        Err(NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound) => {
            return Err(NoCensus::NoLibrary);
        }
        Err(refused) => return Err(NoCensus::Refused(refused.to_string())),
    };
    let refused = |bad: NvmlError| NoCensus::Refused(bad.to_string());
    let driver = nvml.sys_driver_version().map_err(refused)?;
    let count = nvml.device_count().map_err(refused)?;
    let devices = (0..count).map(|index| {
        let found = device(&nvml, index);
        found.map_err(|bad| format!("GPU {index} of the driver: {bad}"))
    });
    let devices = devices.collect();
    Ok(Census { nvml, driver, devices })
}

fn device(nvml: &Nvml, index: u32) -> Result<(u32, GpuDevice), String> {
    let device = nvml.device_by_index(index).map_err(|bad| bad.to_string())?;
    let id = GpuId::new(device.uuid().map_err(|bad| bad.to_string())?);
    let product = device.name().map_err(|bad| bad.to_string())?;
    let model = model_of(&product).ok_or_else(|| format!("`{product}` names no model"))?;
    Ok((index, GpuDevice { id, product, model }))
}

/// Looks whether a device answers, is whole, has no errors that a program would meet, and is used
/// by nobody.
fn is_well(nvml: &Nvml, id: &GpuId) -> Result<(), GpuError> {
    let faulty = |detail: String| GpuError::Faulty { detail };
    let failed = |bad: NvmlError| faulty(format!("the driver says: {bad}"));
    let device = nvml.device_by_uuid(id.as_str()).map_err(failed)?;
    if known(device.mig_mode())?.is_some_and(|mig| mig.current == MIG_ON) {
        return Err(faulty("it is divided (MIG is on), and is given out whole".to_owned()));
    }
    let errors = device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile);
    if let Some(errors) = known(errors)?.filter(|errors| *errors > 0) {
        return Err(faulty(format!("{errors} errors of its memory that were not corrected")));
    }
    if known(device.are_pages_pending_retired())? == Some(true) {
        return Err(faulty("it must be reset before faulty memory is left out".to_owned()));
    }
    let computing = known(device.running_compute_processes())?.unwrap_or_default();
    let drawing = known(device.running_graphics_processes())?.unwrap_or_default();
    let pids: Vec<String> =
        computing.iter().chain(&drawing).map(|process| process.pid.to_string()).collect();
    if !pids.is_empty() {
        return Err(GpuError::Busy { detail: format!("processes {}", pids.join(", ")) });
    }
    Ok(())
}

/// Returns what a device says, or `None` of what such a device, or its driver, has no notion of.
fn known<T>(said: Result<T, NvmlError>) -> Result<Option<T>, GpuError> {
    match said {
        Ok(value) => Ok(Some(value)),
        Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => Ok(None),
        Err(bad) => Err(GpuError::Faulty { detail: format!("the driver says: {bad}") }),
    }
}
