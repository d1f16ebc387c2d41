//! Images of layers that a test writes, as blobs by their digests.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tarn_oci::{Bounds, Digest, OciError, Progress, Puller, RegistryOptions, Unpacked};
use tarn_task::Tasks;
use tempfile::TempDir;
use tokio::sync::watch;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// How a layer is compressed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum By {
    Nothing,
    Gzip,
    Zstd,
}

/// An image.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) blobs: BTreeMap<Digest, Vec<u8>>,
    pub(crate) manifest: Digest,
    pub(crate) layers: Vec<Digest>,
    pub(crate) config: Digest,
}

/// A directory with room for a pull, and a tree beside it that must not change.
pub(crate) struct Place {
    dir: TempDir,
}

pub(crate) fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

pub(crate) fn compress(bytes: &[u8], by: By) -> Vec<u8> {
    match by {
        By::Nothing => bytes.to_vec(),
        By::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        By::Zstd => zstd::encode_all(bytes, 1).unwrap(),
    }
}

impl Image {
    pub(crate) fn new(layers: &[(&[u8], By)]) -> Self {
        Self::with(layers, |_config| {}, |_manifest| {})
    }

    /// Makes an image whose documents are changed before they are named.
    pub(crate) fn with(
        layers: &[(&[u8], By)],
        change_config: impl FnOnce(&mut Value),
        change_manifest: impl FnOnce(&mut Value),
    ) -> Self {
        let mut blobs = BTreeMap::new();
        let mut add = |bytes: Vec<u8>| {
            let digest = Digest::of(&bytes);
            blobs.insert(digest.clone(), bytes);
            digest
        };
        let diff_ids: Vec<_> = layers.iter().map(|(tar, _)| Digest::of(tar)).collect();
        let mut descriptors = Vec::new();
        let mut names = Vec::new();
        for (tar, by) in layers {
            let kind = match by {
                By::Nothing => "",
                By::Gzip => "+gzip",
                By::Zstd => "+zstd",
            };
            let bytes = compress(tar, *by);
            let size = bytes.len();
            let digest = add(bytes);
            let media_type = format!("application/vnd.oci.image.layer.v1.tar{kind}");
            descriptors.push(json!({"mediaType": media_type, "digest": digest, "size": size}));
            names.push(digest);
        }
        let mut config = json!({
            "architecture": architecture(), "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        change_config(&mut config);
        let config = serde_json::to_vec(&config).unwrap();
        let size = config.len();
        let config = add(config);
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config, "size": size},
            "layers": descriptors,
        });
        change_manifest(&mut manifest);
        let manifest = add(serde_json::to_vec(&manifest).unwrap());
        Self { blobs, manifest, layers: names, config }
    }

    /// Adds an index of manifests, each with its platform; returns its digest.
    pub(crate) fn index(&mut self, entries: &[(&Digest, &str)]) -> Digest {
        let manifests: Vec<_> = entries
            .iter()
            .map(|(digest, architecture)| {
                let size = self.blobs.get(digest).map_or(0, Vec::len);
                json!({"mediaType": MANIFEST, "digest": digest, "size": size,
                       "platform": {"os": "linux", "architecture": architecture}})
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        let bytes = serde_json::to_vec(&index).unwrap();
        let digest = Digest::of(&bytes);
        self.blobs.insert(digest.clone(), bytes);
        digest
    }

    /// Writes it as a layout; returns where that is.
    pub(crate) fn write_layout(&self, place: &Path) -> PathBuf {
        let layout = place.join("layout");
        fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        for (digest, bytes) in &self.blobs {
            fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        }
        let size = self.blobs[&self.manifest].len();
        let index = json!({"schemaVersion": 2, "manifests": [
            {"mediaType": MANIFEST, "digest": self.manifest, "size": size}]});
        fs::write(layout.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        layout
    }
}

impl Place {
    pub(crate) fn new() -> Self {
        // In memory where that goes: whoever else writes to the disk would be waited for.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        fs::create_dir(dir.path().join("work")).unwrap();
        fs::create_dir(dir.path().join("beside")).unwrap();
        fs::write(dir.path().join("beside/sentinel"), "untouched").unwrap();
        fs::write(dir.path().join("sentinel"), "untouched").unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// Returns a path in the tree.
    pub(crate) fn root(&self, path: &str) -> PathBuf {
        self.dir.path().join("work/rootfs").join(path)
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.root(path).symlink_metadata().is_ok()
    }

    /// Checks that nothing beside the work directory changed or came.
    pub(crate) fn check_sentinels(&self, case: &str) {
        for path in ["sentinel", "beside/sentinel"] {
            let content = fs::read_to_string(self.dir.path().join(path));
            assert_eq!(content.unwrap(), "untouched", "{case}");
            let meta = fs::metadata(self.dir.path().join(path)).unwrap();
            assert_eq!(std::os::unix::fs::MetadataExt::nlink(&meta), 1, "{case}");
        }
        let names = |path: &Path| {
            let mut names: Vec<_> = fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(&self.dir.path().join("beside")), ["sentinel"], "{case}");
        let mut beside = names(self.dir.path());
        beside.retain(|name| name != "layout");
        assert_eq!(beside, ["beside", "sentinel", "work"], "{case}");
    }

    /// Imports layers by way of a layout.
    pub(crate) async fn unpack(
        &self,
        layers: &[&[u8]],
        bounds: Bounds,
    ) -> Result<Unpacked, OciError> {
        let layers: Vec<_> = layers.iter().map(|layer| (*layer, By::Gzip)).collect();
        self.import(&Image::new(&layers), bounds).await
    }

    pub(crate) async fn import(&self, image: &Image, bounds: Bounds) -> Result<Unpacked, OciError> {
        let layout = image.write_layout(self.path());
        let puller = Puller::new(RegistryOptions::default(), bounds, Tasks::new());
        puller.import(&layout, None, &self.work(), progress()).await
    }
}

pub(crate) fn progress() -> watch::Sender<Progress> {
    watch::Sender::new(Progress::default())
}
