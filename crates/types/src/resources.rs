//! The shape of a sandbox.

use serde::{Deserialize, Serialize};

use crate::{ByteSize, Gpus, MilliCpu};

/// What a sandbox may use: CPU by quota, memory and disk by limit, whole GPUs for
/// itself (spec 01 §8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resources {
    /// CPU quota, in thousandths.
    pub cpu: MilliCpu,
    /// Memory limit, in bytes.
    pub memory: ByteSize,
    /// Size of the writable layer, in bytes.
    pub disk: ByteSize,
    /// GPUs that nobody else has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Gpus>,
}

impl Default for Resources {
    /// One CPU, 1024 MiB of memory, 10240 MiB of disk, no GPU.
    fn default() -> Self {
        Self {
            cpu: MilliCpu::from_milli(1000),
            memory: ByteSize::from_mib(1024),
            disk: ByteSize::from_mib(10240),
            gpus: None,
        }
    }
}
