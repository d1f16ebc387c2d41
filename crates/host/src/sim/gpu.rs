//! GPUs that are names.

use std::{fs, path::PathBuf};

use async_trait::async_trait;
use tarn_types::{GpuFiles, GpuId, GpuModel};

use crate::{GpuDevice, GpuError, Gpus};

/// The variable in which a sandbox finds the names of its GPUs.
pub const SIM_GPUS_VARIABLE: &str = "TARN_SIMULATED_GPUS";

/// GPUs of these models, of which nothing is there. The device `GPU-sim-N` is faulty while a file
/// of that name is in `faults`, and in use while the file begins with `busy`.
#[derive(Debug, Default)]
pub struct SimGpus {
    devices: Vec<GpuDevice>,
    faults: Option<PathBuf>,
}

// === impl SimGpus ===

impl SimGpus {
    /// Makes one device for each name of a model.
    #[must_use]
    pub fn new(models: &[GpuModel], faults: Option<PathBuf>) -> Self {
        let device = |(number, model): (usize, &GpuModel)| GpuDevice {
            id: GpuId::new(format!("GPU-sim-{number}")),
            product: format!("simulated {model}"),
            model: *model,
        };
        Self { devices: models.iter().enumerate().map(device).collect(), faults }
    }
}

#[async_trait]
impl Gpus for SimGpus {
    fn list(&self) -> Vec<GpuDevice> {
        self.devices.clone()
    }

    async fn check(&self, id: &GpuId) -> Result<(), GpuError> {
        let Some(faults) = &self.faults else { return Ok(()) };
        match fs::read_to_string(faults.join(id.as_str())) {
            Err(_absent) => Ok(()),
            Ok(detail) if detail.starts_with("busy") => Err(GpuError::Busy { detail }),
            Ok(detail) => Err(GpuError::Faulty { detail: detail.trim().to_owned() }),
        }
    }

    async fn files(&self, ids: &[GpuId]) -> Result<GpuFiles, GpuError> {
        let names: Vec<&str> = ids.iter().map(GpuId::as_str).collect();
        let env = vec![(SIM_GPUS_VARIABLE.to_owned(), names.join(","))];
        Ok(GpuFiles { env, ..GpuFiles::default() })
    }
}
