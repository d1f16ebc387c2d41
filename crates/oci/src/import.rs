//! Images from files: OCI layouts, as directories or in a tar, and what `docker save` writes.
//!
//! An archive is indexed once and then read in place; names in it are looked up in that index,
//! never on disk. In a directory no link is followed.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use serde::Deserialize;

use crate::{
    Bounds, Digest, OciError, Reference,
    config::Config,
    digest::{Hasher, shown},
    manifest::{Descriptor, Document, Manifest, Platform, choose},
    unpack::tar,
    work::Work,
};

use self::{archive::Archive, directory::Directory};

mod archive;
mod directory;

/// How many indexes may stand before a manifest.
const MOST_INDEXES: usize = 4;
/// The annotation that names an image within a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation with which containerd and Docker name it whole.
const IMAGE_NAME: &str = "io.containerd.image.name";

/// Where an archive is decompressed, what it may cost, and what tells to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort<'a> {
    pub(crate) work: &'a Work,
    pub(crate) bounds: &'a Bounds,
    pub(crate) stop: &'a AtomicBool,
}

/// An image that was found in a file.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) digest: Digest,
    pub(crate) config: Config,
    /// The lowest first.
    pub(crate) layers: Vec<Layer>,
}

/// A layer in a file.
#[derive(Debug)]
pub(crate) struct Layer {
    content: Content,
    /// What it should be, where the file says so; its digest uncompressed is checked anyway.
    digest: Option<Digest>,
}

/// Some bytes of a file.
#[derive(Debug)]
pub(crate) struct Content {
    file: File,
    offset: u64,
    size: u64,
}

/// Reads the content of a layer, and checks its digest at the end.
pub(crate) struct LayerReader<'a> {
    content: &'a Content,
    at: u64,
    check: Option<(Hasher, Digest)>,
}

/// Something in which files are found by name.
trait Store {
    /// Opens a file; `None` if there is none.
    fn open(&self, name: &str) -> Result<Option<Content>, OciError>;
}

/// An entry of `manifest.json`, as `docker save` writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Finds an image in a file or directory. Blocks; gives up soon after it is told to stop.
pub(crate) fn open(
    source: &Path,
    name: Option<&str>,
    effort: Effort<'_>,
    machine: &Platform,
) -> Result<Image, OciError> {
    let meta = std::fs::metadata(source).map_err(|error| OciError::disk("open", source, error))?;
    let store: Box<dyn Store> = if meta.is_dir() {
        Box::new(Directory::open(source)?)
    } else if meta.is_file() {
        Box::new(Archive::open(source, effort)?)
    } else {
        return Err(OciError::Unsupported {
            what: format!("{}, which is neither a file nor a directory,", source.display()),
            advice: "name an OCI layout or an archive",
        });
    };
    let finder = Finder { store: &*store, name, bounds: effort.bounds, machine };
    // Newer versions of Docker write both; only the layout has the digests of everything.
    if let Some(index) = finder.text("index.json")? {
        return finder.layout(&index);
    }
    if let Some(manifest) = finder.text("manifest.json")? {
        return finder.saved(&manifest);
    }
    Err(OciError::malformed(
        source.display().to_string(),
        "it has neither `index.json`, as an OCI layout has, nor `manifest.json`, as `docker save` writes",
    ))
}

/// Looks for one image in a store.
struct Finder<'a> {
    store: &'a dyn Store,
    name: Option<&'a str>,
    bounds: &'a Bounds,
    machine: &'a Platform,
}

// === impl Effort ===

impl Effort<'_> {
    /// Fails once it is told to stop.
    fn go_on(&self) -> Result<(), OciError> {
        if self.stop.load(Ordering::Relaxed) { Err(OciError::Cancelled) } else { Ok(()) }
    }
}

// === impl Finder ===

impl Finder<'_> {
    /// Finds an image by the index of a layout.
    fn layout(&self, index: &[u8]) -> Result<Image, OciError> {
        let Document::Index(named) = Document::parse(index)? else {
            return Err(OciError::malformed("`index.json`", "it is no index"));
        };
        let mut chosen = self.named(&named)?.clone();
        for _ in 0..MOST_INDEXES {
            let bytes = self.blob(&chosen, self.bounds.manifest_bytes, "the size of a manifest")?;
            match Document::parse(&bytes)? {
                Document::Index(manifests) => chosen = choose(&manifests, self.machine)?.clone(),
                Document::Manifest(manifest) => return self.image(chosen.digest, &manifest),
            }
        }
        Err(OciError::malformed("an index", "it leads to indexes without end"))
    }

    /// Returns the entry of the name that was asked for, or that of this machine.
    fn named<'m>(&self, manifests: &'m [Descriptor]) -> Result<&'m Descriptor, OciError> {
        let Some(name) = self.name else {
            let has_name = |it: &&Descriptor| !it.annotations.is_empty();
            return match manifests {
                [only] => Ok(only),
                _ if manifests.iter().filter(has_name).count() > 1 => {
                    let names = manifests.iter().filter_map(|it| {
                        it.annotations.get(IMAGE_NAME).or_else(|| it.annotations.get(REF_NAME))
                    });
                    Err(ambiguous(names))
                }
                _ => choose(manifests, self.machine),
            };
        };
        let fits = |it: &&Descriptor| {
            let annotations = [REF_NAME, IMAGE_NAME].map(|key| it.annotations.get(key));
            annotations.into_iter().flatten().any(|found| is_named(found, name))
                || it.digest.as_str() == name
        };
        let found: Vec<_> = manifests.iter().filter(fits).collect();
        match found.as_slice() {
            [] => Err(OciError::NotFound { what: format!("`{}` in the archive", shown(name)) }),
            [only] => Ok(only),
            [first, ..] => {
                // One name for several machines.
                let here = |it: &&&Descriptor| {
                    it.platform.as_ref().is_some_and(|it| it.runs_on(self.machine))
                };
                Ok(found.iter().find(here).unwrap_or(first))
            }
        }
    }

    fn image(&self, digest: Digest, manifest: &Manifest) -> Result<Image, OciError> {
        manifest.check(self.bounds)?;
        let what = "the size of its configuration";
        let config = self.blob(&manifest.config, self.bounds.config_bytes, what)?;
        let config = Config::parse(&config, manifest.layers.len(), self.machine)?;
        let layers = manifest.layers.iter().map(|layer| {
            let content = self.content(&blob_name(&layer.digest))?;
            if content.size != layer.size {
                let (what, expected) = (format!("the layer {}", layer.digest), layer.size);
                return Err(OciError::BadSize { what, expected, found: content.size });
            }
            Ok(Layer { content, digest: Some(layer.digest.clone()) })
        });
        Ok(Image { digest, config, layers: layers.collect::<Result<_, _>>()? })
    }

    /// Finds an image by the list that `docker save` writes.
    fn saved(&self, manifest: &[u8]) -> Result<Image, OciError> {
        let saved: Vec<SavedImage> = serde_json::from_slice(manifest)
            .map_err(|error| OciError::malformed("`manifest.json`", error.to_string()))?;
        let tags = || saved.iter().flat_map(|image| image.repo_tags.iter().flatten());
        let image = match (self.name, saved.as_slice()) {
            (None, [only]) => only,
            (None, []) => return Err(OciError::NotFound { what: "in the archive".to_owned() }),
            (None, _) => return Err(ambiguous(tags())),
            (Some(name), images) => {
                let fits = |image: &&SavedImage| {
                    image.repo_tags.iter().flatten().any(|tag| is_named(tag, name))
                };
                images.iter().find(fits).ok_or_else(|| OciError::NotFound {
                    what: format!("`{}` in the archive", shown(name)),
                })?
            }
        };
        if image.layers.len() > self.bounds.layers {
            let limit = self.bounds.layers as u64;
            return Err(OciError::TooLarge { what: "the number of its layers", limit });
        }
        let content = self.content(&image.config)?;
        let what = "the size of its configuration";
        let config = content.read(self.bounds.config_bytes, what)?;
        let digest = Digest::of(&config);
        // Its name is its digest, and whoever changed it would have to change that, too.
        let stem = image.config.trim_end_matches(".json").rsplit('/').next().unwrap_or_default();
        if let Ok(expected) = format!("sha256:{stem}").parse::<Digest>()
            && expected != digest
        {
            let what = "the image's configuration".to_owned();
            return Err(OciError::BadDigest { what, expected, found: digest });
        }
        let config = Config::parse(&config, image.layers.len(), self.machine)?;
        let layers = image
            .layers
            .iter()
            .map(|name| Ok(Layer { content: self.content(name)?, digest: None }));
        Ok(Image { digest, config, layers: layers.collect::<Result<_, _>>()? })
    }

    fn blob(&self, blob: &Descriptor, limit: u64, what: &'static str) -> Result<Vec<u8>, OciError> {
        let bytes = self.content(&blob_name(&blob.digest))?.read(limit, what)?;
        crate::registry::verify(&bytes, blob)?;
        Ok(bytes)
    }

    fn text(&self, name: &str) -> Result<Option<Vec<u8>>, OciError> {
        let Some(content) = self.store.open(name)? else { return Ok(None) };
        content.read(self.bounds.manifest_bytes, "the size of a manifest").map(Some)
    }

    fn content(&self, name: &str) -> Result<Content, OciError> {
        self.store.open(name)?.ok_or_else(|| {
            OciError::malformed("the archive", format!("`{}` is missing in it", shown(name)))
        })
    }
}

// === impl Content ===

impl Content {
    fn read(&self, limit: u64, what: &'static str) -> Result<Vec<u8>, OciError> {
        if self.size > limit {
            return Err(OciError::TooLarge { what, limit });
        }
        let mut bytes = Vec::new();
        let mut reader = LayerReader { content: self, at: 0, check: None };
        reader.read_to_end(&mut bytes).map_err(tar::unwrap)?;
        Ok(bytes)
    }
}

// === impl Layer ===

impl Layer {
    pub(crate) fn size(&self) -> u64 {
        self.content.size
    }

    pub(crate) fn open(&self) -> LayerReader<'_> {
        let check = self.digest.as_ref().map(|digest| (digest.hasher(), digest.clone()));
        LayerReader { content: &self.content, at: 0, check }
    }
}

// === impl LayerReader ===

impl Read for LayerReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.content.size - self.at;
        if left == 0 {
            // Only once: a digest cannot be taken twice.
            let Some((hasher, expected)) = self.check.take() else { return Ok(0) };
            let found = hasher.finish();
            if found != expected {
                let what = format!("the layer {expected}");
                return Err(io::Error::other(OciError::BadDigest { what, expected, found }));
            }
            return Ok(0);
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
        let from = self.content.offset + self.at;
        let count = rustix::io::pread(&self.content.file, &mut into[..most], from)?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        if let Some((hasher, _)) = &mut self.check {
            hasher.update(&into[..count]);
        }
        Ok(count)
    }
}

/// Says whether a name in an archive is the one that was asked for: as it stands there, as a
/// reference written out, or by its tag alone.
fn is_named(found: &str, asked: &str) -> bool {
    if found == asked {
        return true;
    }
    match (found.parse::<Reference>(), asked.parse::<Reference>()) {
        (Ok(found), Ok(wanted)) if found == wanted => true,
        (Ok(found), _) => found.tag() == Some(asked),
        (Err(_), _) => false,
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn ambiguous<'a>(names: impl Iterator<Item = &'a String>) -> OciError {
    let names: Vec<String> = names.take(20).map(|name| format!("`{}`", shown(name))).collect();
    OciError::Unsupported {
        what: format!("an archive of several images ({})", names.join(", ")),
        advice: "say which of them is meant",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_asked_for_by_name_or_tag() {
        for (found, asked, fits) in [
            ("1.2", "1.2", true),
            ("alpine:3.20", "docker.io/library/alpine:3.20", true),
            ("alpine:3.20", "alpine:3.20", true),
            ("docker.io/library/alpine:3.20", "alpine:3.20", true),
            ("alpine:3.20", "3.20", true),
            ("alpine:3.20", "alpine", false),
            ("alpine:3.20", "3.21", false),
            ("a b", "a", false),
        ] {
            assert_eq!(is_named(found, asked), fits, "{found} {asked}");
        }
    }
}
