//! The GPUs of a node: which are given out, what the metrics and the doctor say of them.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context as _;
use tarn_control::{Control, GpuState, GpuView};
use tarn_gpu::{CDI_DIRS, Nvidia};
use tarn_host::{Gpus, sim::SimGpus};
use tarn_http::MetricsSource;
use tarn_runtime_oci::{GvisorConfig, driver_obstacle};
use tarn_task::Tasks;
use tarn_types::GpuModel;

use crate::{config::DataDir, metric};

/// Where a file named after a simulated GPU says what is wrong with it.
const SIMULATED_FAULTS: &str = "simulated-gpu-faults";

/// Returns where CDI files are looked for.
pub(crate) fn cdi_dirs() -> Vec<PathBuf> {
    CDI_DIRS.map(PathBuf::from).to_vec()
}

/// Looks what this machine has, and whether gVisor can drive it.
pub(crate) async fn find(gvisor: &GvisorConfig, tasks: &Tasks) -> Arc<dyn Gpus> {
    let obstacle = async |driver: &str| driver_obstacle(gvisor, driver).await;
    Arc::new(Nvidia::find(cdi_dirs(), tasks.clone(), obstacle).await)
}

/// Reads the models of simulated GPUs, divided by commas.
pub(crate) fn simulated_models(list: &str) -> anyhow::Result<Vec<GpuModel>> {
    let names = list.split(',').filter(|name| !name.is_empty());
    names.map(|name| name.parse().context("understand --simulated-gpus")).collect()
}

/// Makes GPUs of which nothing is there.
pub(crate) fn simulated(models: &[GpuModel], data: &DataDir) -> Arc<dyn Gpus> {
    if !models.is_empty() {
        tracing::warn!("the GPUs are simulated, and compute nothing; they are for tests");
    }
    Arc::new(SimGpus::new(models, Some(data.root.join(SIMULATED_FAULTS))))
}

/// Returns what shows the GPUs.
pub(crate) fn metrics(control: &Control) -> MetricsSource {
    let control = control.clone();
    Arc::new(move || render(&control.gpus()))
}

/// Writes them in the Prometheus text format.
fn render(gpus: &[GpuView]) -> String {
    let mut rows: Vec<(String, u64)> = Vec::new();
    let mut out_of_use = Vec::new();
    for GpuView { id, model, state, .. } in gpus {
        let labels = format!("{{model=\"{model}\",state=\"{}\"}}", state.as_str());
        match rows.iter_mut().find(|(known, _)| *known == labels) {
            Some((_, count)) => *count += 1,
            None => rows.push((labels, 1)),
        }
        if let GpuState::OutOfUse { .. } = state {
            out_of_use.push((format!("{{gpu=\"{id}\",model=\"{model}\"}}"), "1".to_owned()));
        }
    }
    let mut text = String::new();
    let rows: Vec<_> =
        rows.iter().map(|(labels, count)| (labels.as_str(), count.to_string())).collect();
    metric::family(&mut text, "gpus", "gauge", "GPUs by model, and where they are.", &rows);
    let rows: Vec<_> =
        out_of_use.iter().map(|(labels, value)| (labels.as_str(), value.clone())).collect();
    let help = "GPUs that are not well, and are given to nobody until the server starts again.";
    metric::family(&mut text, "gpu_out_of_use", "gauge", help, &rows);
    text
}

#[cfg(test)]
mod tests {
    use tarn_types::{GpuId, SandboxId};

    use super::*;

    #[test]
    fn the_numbers_are_there() {
        let view = |number: u32, model: &str, state| GpuView {
            id: GpuId::new(format!("GPU-{number}")),
            product: model.to_owned(),
            model: model.parse().expect("a name"),
            state,
        };
        let text = render(&[
            view(0, "H100", GpuState::Free),
            view(1, "H100", GpuState::Free),
            view(2, "H100", GpuState::Held { by: SandboxId::from_random([1; 21]) }),
            view(3, "A10", GpuState::OutOfUse { reason: "it is gone".to_owned() }),
        ]);
        for line in [
            "tarn_gpus{model=\"H100\",state=\"free\"} 2",
            "tarn_gpus{model=\"H100\",state=\"held\"} 1",
            "tarn_gpus{model=\"A10\",state=\"out_of_use\"} 1",
            "tarn_gpu_out_of_use{gpu=\"GPU-3\",model=\"A10\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn simulated_models_are_names() {
        let names = simulated_models("H100,H100,A10").expect("names");
        assert_eq!(names.iter().map(GpuModel::as_str).collect::<Vec<_>>(), ["H100", "H100", "A10"]);
        assert!(simulated_models("").expect("none").is_empty());
        assert!(simulated_models("H 100").is_err());
    }
}
