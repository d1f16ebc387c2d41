//! Where everything lies. Pure.

use std::path::{Path, PathBuf};

use tarn_types::SandboxId;

/// The files of one server's sandboxes.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    root: PathBuf,
    bundles: PathBuf,
    programs: PathBuf,
}

// === impl Paths ===

impl Paths {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self {
            root: state_dir.join("root"),
            bundles: state_dir.join("bundle"),
            programs: state_dir.with_file_name("programs"),
        }
    }

    /// The `--root` of the backend.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn bundles(&self) -> &Path {
        &self.bundles
    }

    /// Where the backend's programs lie in memory, beside the state.
    pub(crate) fn programs(&self) -> PathBuf {
        self.programs.clone()
    }

    /// The directory in which `tarn-prewarmer` looks for a file named after the id.
    pub(crate) fn shapes(&self) -> PathBuf {
        self.root.join("shape")
    }

    pub(crate) fn shape(&self, id: &SandboxId) -> PathBuf {
        self.shapes().join(id.as_str())
    }

    /// The network namespace of every gofer; the name is the backend's.
    pub(crate) fn null_netns(&self) -> PathBuf {
        self.root.join("null-netns")
    }

    pub(crate) fn bundle(&self, id: &SandboxId) -> PathBuf {
        self.bundles.join(id.as_str())
    }

    /// What the backend complains into.
    pub(crate) fn log(&self, id: &SandboxId) -> PathBuf {
        self.bundle(id).join("runsc.log")
    }

    pub(crate) fn state(&self, id: &SandboxId) -> PathBuf {
        self.root.join(format!("{id}_sandbox:{id}.state"))
    }

    /// Every file that the backend keeps of a sandbox.
    pub(crate) fn backend_files(&self, id: &SandboxId) -> [PathBuf; 3] {
        [
            self.state(id),
            self.root.join(format!("{id}_sandbox:{id}.lock")),
            self.root.join(format!("runsc-{id}.sock")),
        ]
    }
}

/// Recognises the id in the name of a backend's file.
pub(crate) fn id_of_backend_file(name: &str) -> Option<SandboxId> {
    let id = match name.strip_prefix("runsc-") {
        Some(rest) => rest.strip_suffix(".sock")?,
        None => name.split_once("_sandbox:")?.0,
    };
    id.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_every_backend_file_and_nowhere_else() {
        let id: SandboxId = "0123456789abcdefghijk".parse().unwrap();
        for path in Paths::new(Path::new("/d")).backend_files(&id) {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(id_of_backend_file(name), Some(id.clone()), "{name}");
        }
        for other in ["null-netns", "shape", "runsc-x.sock", "x_sandbox:x.state", ""] {
            assert_eq!(id_of_backend_file(other), None, "{other}");
        }
    }
}
