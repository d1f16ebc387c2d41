//! What a CDI file says that a container needs for a device.
//!
//! CDI (Container Device Interface) is how NVIDIA's toolkit tells a runtime of device nodes and of
//! the driver's files; `nvidia-ctk cdi generate` writes it. Its hooks would run programs as root
//! over the tree of a tenant. None is run: links that they would make are made as mounts, and the
//! directories that they would enter into the linker's cache are named in `LD_LIBRARY_PATH`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;
use tarn_types::{GpuDeviceNode, GpuFiles, GpuMount};

/// The kind of NVIDIA's GPUs.
const KIND: &str = "nvidia.com/gpu";

/// The node without which no other is of use.
const CONTROL_NODE: &str = "/dev/nvidiactl";

/// Whole files are read; NVIDIA's have some tens of KiB.
const FILE_MAX: u64 = 8 << 20;

/// How to get a file that can be read.
pub(crate) const REMEDY: &str =
    "nvidia-ctk cdi generate --format=json --output=/etc/cdi/nvidia.json";

/// One file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CdiFile {
    kind: String,
    #[serde(default)]
    devices: Vec<CdiDevice>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CdiDevice {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

/// What is to be changed about a container. What else a file says is of no use to a sandbox.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Mount>,
    hooks: Vec<Hook>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: PathBuf,
    host_path: Option<PathBuf>,
    major: Option<u32>,
    minor: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    host_path: PathBuf,
    container_path: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
struct Hook {
    #[serde(default)]
    args: Vec<String>,
}

/// Reads every file of these directories that is of use; a later directory takes precedence.
///
/// # Errors
/// Says why there is none.
pub(crate) fn read(dirs: &[PathBuf]) -> Result<Vec<CdiFile>, String> {
    let mut files = Vec::new();
    let mut passed_over = Vec::new();
    for dir in dirs.iter().rev() {
        let Ok(listing) = fs::read_dir(dir) else { continue };
        let mut paths: Vec<PathBuf> = listing.flatten().map(|item| item.path()).collect();
        paths.sort();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => match read_one(&path) {
                    Ok(file) if file.kind == KIND => files.push(file),
                    Ok(_) => {}
                    Err(trouble) => passed_over.push(format!("{}: {trouble}", path.display())),
                },
                Some("yaml" | "yml") => {
                    passed_over.push(format!("{}: only JSON is read", path.display()));
                }
                Some(_) | None => {}
            }
        }
    }
    if files.is_empty() {
        let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        let besides = match passed_over.is_empty() {
            true => String::new(),
            false => format!(" ({})", passed_over.join("; ")),
        };
        return Err(format!(
            "no CDI file of {KIND} is in {}{besides}; {REMEDY}",
            dirs.join(" or ")
        ));
    }
    Ok(files)
}

fn read_one(path: &Path) -> Result<CdiFile, String> {
    let size = fs::metadata(path).map_err(|bad| bad.to_string())?.len();
    if size > FILE_MAX {
        return Err(format!("{size} bytes are too many"));
    }
    let text = fs::read(path).map_err(|bad| bad.to_string())?;
    serde_json::from_slice(&text).map_err(|bad| bad.to_string())
}

/// Returns what a sandbox needs for these devices, each of which goes by any of some names.
///
/// # Errors
/// Says what the files do not say, or what the host has not.
pub(crate) fn files_for(files: &[CdiFile], devices: &[Vec<String>]) -> Result<GpuFiles, String> {
    let mut edits = Edits::default();
    let mut used = BTreeSet::new();
    for names in devices {
        let (at, device) = find(files, names).ok_or_else(|| {
            format!("no CDI file names the device {}; {REMEDY}", names.join(", "))
        })?;
        if used.insert(at) {
            edits.add(&files[at].container_edits);
        }
        edits.add(&device.container_edits);
    }
    let nodes = nodes(&edits)?;
    let (mounts, library_dirs) = libraries(&edits);
    let pair = |text: &String| {
        let (name, value) = text.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    let env = edits.env.iter().filter_map(pair).collect();
    Ok(GpuFiles { devices: nodes, mounts, library_dirs, env })
}

fn find<'a>(files: &'a [CdiFile], names: &[String]) -> Option<(usize, &'a CdiDevice)> {
    // The first name is the surest.
    names.iter().find_map(|name| {
        files.iter().enumerate().find_map(|(at, file)| {
            file.devices.iter().find(|device| device.name == *name).map(|device| (at, device))
        })
    })
}

/// Returns the nodes that gVisor serves; it has no use for those of a display.
fn nodes(edits: &Edits) -> Result<Vec<GpuDeviceNode>, String> {
    let mut nodes = BTreeSet::new();
    for node in &edits.device_nodes {
        if !node.path.to_string_lossy().starts_with("/dev/nvidia") {
            continue;
        }
        let host = node.host_path.as_ref().unwrap_or(&node.path);
        if *host != node.path {
            let (host, path) = (host.display(), node.path.display());
            return Err(format!("the node {host} is to be {path} inside, which cannot be done"));
        }
        let (major, minor) = match (node.major, node.minor) {
            (Some(major), Some(minor)) => (major, minor),
            _ => numbers(host).map_err(|bad| format!("the node {}: {bad}", host.display()))?,
        };
        nodes.insert(GpuDeviceNode { path: node.path.clone(), major, minor });
    }
    if !nodes.iter().any(|node| node.path == Path::new(CONTROL_NODE)) {
        return Err(format!("the CDI file does not name {CONTROL_NODE}; {REMEDY}"));
    }
    Ok(nodes.into_iter().collect())
}

fn numbers(path: &Path) -> io::Result<(u32, u32)> {
    let found = fs::metadata(path)?;
    if !found.file_type().is_char_device() {
        return Err(io::Error::other("it is no character device"));
    }
    let number = found.rdev();
    Ok((rustix::fs::major(number), rustix::fs::minor(number)))
}

/// Returns the files of the driver, the names by which programs look for them, and the directories
/// in which they do.
fn libraries(edits: &Edits) -> (Vec<GpuMount>, Vec<PathBuf>) {
    let mut sources: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for Mount { host_path, container_path } in &edits.mounts {
        // A socket of a service is of no use: the sandbox may not speak to it.
        if !fs::metadata(host_path).is_ok_and(|found| found.is_file() || found.is_dir()) {
            continue;
        }
        sources.insert(container_path.clone(), host_path.clone());
        for alias in aliases(host_path) {
            let inside = container_path.with_file_name(alias);
            sources.entry(inside).or_insert_with(|| host_path.clone());
        }
    }
    let mut dirs = Vec::new();
    for words in edits.hooks.iter().map(|hook| &hook.args) {
        let has = |name: &str| words.iter().any(|word| word == name);
        if has("update-ldcache") {
            dirs.extend(values(words, "--folder").map(PathBuf::from));
        } else if has("create-symlinks") {
            for (target, link) in values(words, "--link").filter_map(|text| text.split_once("::")) {
                let link = PathBuf::from(link);
                let target = plain(&link.parent().unwrap_or(Path::new("/")).join(target));
                if let Some(source) = sources.get(&target).cloned() {
                    sources.entry(link).or_insert(source);
                }
            }
        }
    }
    if dirs.is_empty() {
        let of_libraries = sources.keys().filter(|path| is_library(path));
        dirs = of_libraries.filter_map(|path| path.parent()).map(Path::to_owned).collect();
    }
    let mut seen = BTreeSet::new();
    dirs.retain(|dir| seen.insert(dir.clone()));
    let mounts = sources.into_iter();
    let mounts = mounts.map(|(destination, source)| GpuMount { source, destination }).collect();
    (mounts, dirs)
}

/// Takes `..` out of a path that is nobody's to change.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => plain.push(part),
        }
    }
    plain
}

/// Returns the other names that a library has beside itself on the host: what the linker would make
/// of it, and look for.
fn aliases(library: &Path) -> Vec<String> {
    if !is_library(library) {
        return Vec::new();
    }
    let (Some(dir), Ok(real)) = (library.parent(), fs::canonicalize(library)) else {
        return Vec::new();
    };
    let Ok(listing) = fs::read_dir(dir) else { return Vec::new() };
    let mut names = Vec::new();
    for item in listing.flatten() {
        let is_link = item.file_type().is_ok_and(|kind| kind.is_symlink());
        if is_link && fs::canonicalize(item.path()).is_ok_and(|path| path == real) {
            names.extend(item.file_name().to_str().map(str::to_owned));
        }
    }
    names
}

fn is_library(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so"))
}

/// Returns the values of an option that may be given several times, as `--a b` or `--a=b`.
fn values<'a>(words: &'a [String], option: &'a str) -> impl Iterator<Item = &'a str> {
    words.iter().enumerate().filter_map(move |(at, word)| {
        if word == option {
            return words.get(at + 1).map(String::as_str);
        }
        word.strip_prefix(option)?.strip_prefix('=')
    })
}

// === impl Edits ===

impl Edits {
    fn add(&mut self, other: &Self) {
        self.env.extend(other.env.iter().cloned());
        self.device_nodes.extend(other.device_nodes.iter().cloned());
        self.mounts.extend(other.mounts.iter().cloned());
        self.hooks.extend(other.hooks.iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A host with a driver, and the file that NVIDIA's toolkit writes about it, with the numbers
    /// of its nodes in it. `HOST` stands for the directory of the libraries.
    fn host() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let lib = dir.path().join("lib");
        fs::create_dir(&lib).expect("a directory");
        for name in ["libcuda.so.550.54", "libnvidia-ml.so.550.54", "nvidia-smi"] {
            fs::write(lib.join(name), name).expect("a file");
        }
        symlink("libcuda.so.550.54", lib.join("libcuda.so.1")).expect("a link");
        symlink("libcuda.so.1", lib.join("libcuda.so")).expect("a link");
        let text = include_str!("../tests/nvidia.json").replace("HOST", &lib.to_string_lossy());
        let cdi = dir.path().join("cdi");
        fs::create_dir(&cdi).expect("a directory");
        fs::write(cdi.join("nvidia.json"), text).expect("a file");
        (dir, cdi)
    }

    fn names(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_sandbox_gets_its_devices_and_the_driver_and_no_hook() {
        let (dir, cdi) = host();
        let files = read(&[dir.path().join("absent"), cdi]).expect("a file");
        let devices = [names(&["GPU-aaaa", "0"]), names(&["GPU-none", "1"])];
        let got = files_for(&files, &devices).expect("what is needed");
        let nodes: Vec<_> = got
            .devices
            .iter()
            .map(|node| format!("{} {}:{}", node.path.display(), node.major, node.minor))
            .collect();
        assert_eq!(
            nodes,
            [
                "/dev/nvidia-uvm 511:0",
                "/dev/nvidia-uvm-tools 511:1",
                "/dev/nvidia0 195:0",
                "/dev/nvidia1 195:1",
                "/dev/nvidiactl 195:255",
            ]
        );
        let lib = dir.path().join("lib");
        let mounts: Vec<_> = got
            .mounts
            .iter()
            .map(|mount| {
                let source = mount.source.strip_prefix(&lib).expect("below");
                format!("{} {}", source.display(), mount.destination.display())
            })
            .collect();
        assert_eq!(
            mounts,
            [
                "nvidia-smi /usr/bin/nvidia-smi",
                "libcuda.so.550.54 /usr/lib/libcuda.so",
                "libcuda.so.550.54 /usr/lib/libcuda.so.1",
                "libcuda.so.550.54 /usr/lib/libcuda.so.550.54",
                "libnvidia-ml.so.550.54 /usr/lib/libnvidia-ml.so.550.54",
                "libcuda.so.550.54 /usr/lib/vdpau/libcuda_link.so",
                "libcuda.so.550.54 /usr/lib/vdpau/libcuda_up.so",
            ]
        );
        assert_eq!(got.library_dirs, [PathBuf::from("/usr/lib"), "/usr/lib/vdpau".into()]);
        assert_eq!(got.env, [("NVIDIA_VISIBLE_DEVICES".to_owned(), "void".to_owned())]);
        let one = files_for(&files, &devices[..1]).expect("what is needed");
        let others = |node: &GpuDeviceNode| node.path == Path::new("/dev/nvidia1");
        assert!(!one.devices.iter().any(others), "the other one is another's");
    }

    #[test]
    fn what_is_missing_is_said_with_the_remedy() {
        let (dir, cdi) = host();
        let files = read(&[cdi]).expect("a file");
        let unknown = files_for(&files, &[names(&["GPU-zzzz", "7"])]).expect_err("none");
        assert!(unknown.contains("GPU-zzzz, 7") && unknown.contains(REMEDY), "{unknown}");
        let absent = read(&[dir.path().join("absent")]).expect_err("none");
        assert!(absent.contains(REMEDY), "{absent}");
        let other = dir.path().join("other");
        fs::create_dir(&other).expect("a directory");
        fs::write(other.join("nvidia.yaml"), "kind: x").expect("a file");
        fs::write(other.join("torn.json"), "{").expect("a file");
        fs::write(other.join("fpga.json"), r#"{"kind": "acme.com/fpga"}"#).expect("a file");
        let trouble = read(&[other]).expect_err("none");
        for part in ["only JSON is read", "torn.json: EOF", REMEDY] {
            assert!(trouble.contains(part), "{trouble}");
        }
    }

    #[test]
    fn nodes_that_cannot_be_served_are_refused() {
        let file = |nodes: &str| -> CdiFile {
            let text = format!(
                r#"{{"kind":"nvidia.com/gpu","devices":[{{"name":"0","containerEdits":
                    {{"deviceNodes":[{nodes}]}}}}]}}"#
            );
            serde_json::from_str(&text).expect("JSON")
        };
        let first = [names(&["0"])];
        for (nodes, expected) in [
            (r#"{"path":"/dev/nvidia0","major":195,"minor":0}"#, "does not name /dev/nvidiactl"),
            (r#"{"path":"/dev/nvidiactl","hostPath":"/x/nvidiactl"}"#, "which cannot be done"),
            (r#"{"path":"/dev/nvidia-absent"}"#, "the node /dev/nvidia-absent: "),
        ] {
            let trouble = files_for(&[file(nodes)], &first).expect_err("refused");
            assert!(trouble.contains(expected), "{trouble}");
        }
    }
}
