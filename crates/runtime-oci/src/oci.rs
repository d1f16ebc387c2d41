//! The bundle's `config.json`. Pure.
//!
//! Arguments, environment and mounts are the same for every sandbox for ever: a memory snapshot
//! can be restored only into a sandbox with the same ones. What differs between sandboxes
//! reaches the daemon by `init`. Sandboxes with GPUs differ, and have no memory snapshots: gVisor
//! serves the nodes that are named here, and no others, through a proxy of its own.

use serde_json::{Value, json};
use tarn_guest_api::DAEMON_PATH;
use tarn_runtime::RuntimeSpec;
use tarn_types::{GpuDeviceNode, GpuMount};

/// Docker's default set, and what sudo, apt, ping, strace, mounts and containers inside need.
///
/// The kernel that grants them is gVisor's own, inside the sandbox; they give nothing on the host.
const CAPABILITIES: [&str; 22] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_KILL",
    "CAP_LEASE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RESOURCE",
];

/// Everybody inside may use what the sandbox was given (0666).
const DEVICE_MODE: u32 = 0o666;

/// What Docker gives; many programs are written against it.
const OPEN_FILES: u64 = 1_048_576;

/// Writes the description of a sandbox.
pub(crate) fn config(spec: &RuntimeSpec) -> Value {
    let mut config = json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": [DAEMON_PATH],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES,
                "effective": CAPABILITIES,
                "permitted": CAPABILITIES,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": OPEN_FILES, "soft": OPEN_FILES }],
            // sudo must be able to become root.
            "noNewPrivileges": false,
        },
        "root": { "path": spec.rootfs, "readonly": false },
        "hostname": spec.hostname,
        "mounts": mounts(spec),
        "linux": {
            "namespaces": [
                { "type": "pid" },
                { "type": "ipc" },
                { "type": "uts" },
                { "type": "mount" },
                { "type": "network", "path": spec.netns },
            ],
        },
    });
    if let Some(gpus) = &spec.gpus {
        config["linux"]["devices"] = gpus.devices.iter().map(device).collect();
    }
    config
}

fn device(node: &GpuDeviceNode) -> Value {
    json!({
        "path": node.path, "type": "c", "major": node.major, "minor": node.minor,
        "fileMode": DEVICE_MODE, "uid": 0, "gid": 0,
    })
}

fn driver_file(mount: &GpuMount) -> Value {
    json!({
        "destination": mount.destination, "type": "bind", "source": mount.source,
        "options": ["bind", "ro", "nosuid", "nodev"],
    })
}

/// `/tmp` is not here: it belongs to the layer, so that it counts as disk (see `bundle`).
fn mounts(spec: &RuntimeSpec) -> Vec<Value> {
    let driver = spec.gpus.iter().flat_map(|gpus| &gpus.mounts).map(driver_file);
    let common = [
        json!({
            "destination": "/proc", "type": "proc", "source": "proc",
            "options": ["nosuid", "noexec", "nodev"],
        }),
        json!({
            "destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"],
        }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"] }),
        json!({
            "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "nodev", "mode=1777"],
        }),
        json!({
            "destination": DAEMON_PATH, "type": "bind", "source": spec.tarnd,
            "options": ["bind", "ro", "nosuid", "nodev"],
        }),
    ];
    common.into_iter().chain(driver).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr},
        path::PathBuf,
    };

    use tarn_runtime::CpuShare;
    use tarn_types::{GpuFiles, Resources, SandboxId};

    use super::*;

    fn spec(name: &str) -> RuntimeSpec {
        RuntimeSpec {
            id: SandboxId::from_random([0; 21]),
            rootfs: PathBuf::from("/pool").join(name),
            netns: PathBuf::from("/run/netns").join(name),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            hostname: name.to_owned(),
            resources: Resources::default(),
            tarnd: "/opt/tarnd".into(),
            processes: 100,
            share: CpuShare::Own,
            gpus: None,
        }
    }

    #[test]
    fn the_places_given_are_the_places_used() {
        let config = config(&spec("a"));
        assert_eq!(config["root"]["path"], "/pool/a");
        assert_eq!(config["hostname"], "a");
        assert_eq!(config["process"]["args"], json!(["/.tarn/tarnd"]));
        let namespaces = config["linux"]["namespaces"].as_array().unwrap();
        assert!(namespaces.contains(&json!({ "type": "network", "path": "/run/netns/a" })));
    }

    #[test]
    fn what_a_snapshot_fixes_is_the_same_for_every_sandbox() {
        let (one, other) = (config(&spec("a")), config(&spec("b")));
        assert_eq!(one["process"], other["process"]);
        assert_eq!(one["mounts"], other["mounts"]);
    }

    #[test]
    fn the_daemon_cannot_be_written_from_inside() {
        let config = config(&spec("a"));
        let mounts = config["mounts"].as_array().unwrap();
        let daemon = mounts.iter().find(|mount| mount["destination"] == DAEMON_PATH).unwrap();
        assert!(daemon["options"].as_array().unwrap().contains(&json!("ro")));
    }
    /// The bundle of a sandbox with a GPU, as it was first written.
    const GOLDEN: &str = include_str!("../tests/golden/gpu-config.json");

    #[test]
    fn a_sandbox_with_a_gpu_has_its_nodes_and_its_driver() {
        let node = |path: &str, major, minor| GpuDeviceNode { path: path.into(), major, minor };
        let mount = |source: &str, destination: &str| GpuMount {
            source: source.into(),
            destination: destination.into(),
        };
        let gpus = GpuFiles {
            devices: vec![node("/dev/nvidia0", 195, 0), node("/dev/nvidiactl", 195, 255)],
            mounts: vec![
                mount("/usr/lib/libcuda.so.550.54", "/usr/lib/libcuda.so.1"),
                mount("/usr/bin/nvidia-smi", "/usr/bin/nvidia-smi"),
            ],
            // These reach its processes by `init`.
            library_dirs: vec!["/usr/lib".into()],
            env: vec![("NVIDIA_VISIBLE_DEVICES".to_owned(), "void".to_owned())],
        };
        let written = config(&RuntimeSpec { gpus: Some(gpus), ..spec("a") });
        let golden: Value = serde_json::from_str(GOLDEN).unwrap();
        assert_eq!(written, golden, "{written:#}");
        // Without one nothing is said of any.
        assert_eq!(config(&spec("a"))["linux"].get("devices"), None);
    }
}
