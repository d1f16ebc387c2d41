//! The stock images: directories that the set-up wrote, `<assets>/images/*/`.
//!
//! Each has `rootfs/`, the tree, and `image.json`, written last. A newer image takes the names of
//! an older one over; the older tree stays, because sandboxes refer to it. So names are looked up
//! afresh for each create: the set-up may have run since.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use parking_lot::Mutex;
use serde::Deserialize;
use tarn_host::{ImageError, Template};
use tarn_task::Tasks;
use tarn_types::{ImageConfig, ImageName};

/// The version of `image.json` that this code reads.
const FORMAT_VERSION: u64 = 1;
/// The image a create gets when no image says that it is the default (spec 01 §2).
const DEFAULT_NAME: &str = "tensorlake/ubuntu-minimal";
/// Names of stock images begin so. What is wrong with one whose name cannot be read is said to who
/// asks for such a one.
const PREFIX: &str = "tensorlake/";

/// A stock image that the set-up leaves out, because few need it and it is large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnDemandImage {
    /// Its name in a create.
    pub name: &'static str,
    /// What makes it.
    pub command: &'static str,
}

const ON_DEMAND: [OnDemandImage; 1] =
    [OnDemandImage { name: "tensorlake/ubuntu-vnc", command: "./x image ubuntu-vnc" }];

/// The images below an assets directory.
#[derive(Debug, Clone)]
pub struct StockImages {
    dir: PathBuf,
    tasks: Tasks,
    /// What the last scan found to be the default.
    default: Arc<Mutex<Option<ImageName>>>,
}

/// `image.json`.
#[derive(Debug, Deserialize)]
struct ImageFile {
    digest: String,
    #[serde(default)]
    names: Vec<ImageName>,
    #[serde(default)]
    default: bool,
    #[serde(default)]
    config: ConfigFile,
}

/// `config` in `image.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConfigFile {
    env: Vec<String>,
    user: Option<String>,
    working_dir: Option<String>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
}

/// What a scan found.
#[derive(Debug, Default)]
struct Found {
    by_name: BTreeMap<ImageName, Entry>,
    /// Those without a name, too: an older version gave its own to a newer one.
    by_digest: BTreeMap<String, Result<Template, String>>,
    default: Option<ImageName>,
    /// What is wrong with images whose names cannot be read.
    nameless: Vec<String>,
}

/// One image under one of its names.
#[derive(Debug)]
struct Entry {
    written: SystemTime,
    template: Result<Template, String>,
}

// === impl StockImages ===

impl StockImages {
    /// Takes the images below `<assets_dir>/images`; there need not be any yet. Blocks for one
    /// look at them.
    #[must_use]
    pub fn open(assets_dir: &Path, tasks: Tasks) -> Self {
        let dir = assets_dir.join("images");
        let default = Found::scan(&dir).unwrap_or_default().default;
        Self { dir, tasks, default: Arc::new(Mutex::new(default)) }
    }

    async fn scan(&self) -> io::Result<Found> {
        let dir = self.dir.clone();
        let scan = self.tasks.spawn_blocking(move || Found::scan(&dir)).await;
        let found = scan.map_err(io::Error::other)??;
        self.default.lock().clone_from(&found.default);
        Ok(found)
    }
}

impl StockImages {
    /// Returns the template of an image.
    pub(crate) async fn resolve(&self, name: &ImageName) -> Result<Template, ImageError> {
        let unusable = |reason| ImageError::Unusable { name: name.clone(), reason };
        let mut found = self
            .scan()
            .await
            .map_err(|error| unusable(format!("{} cannot be read: {error}", self.dir.display())))?;
        if let Some(entry) = found.by_name.remove(name) {
            return entry.template.map_err(unusable);
        }
        if !name.as_str().starts_with(PREFIX) {
            return Err(ImageError::NotFound { name: name.clone() });
        }
        if let Some(reason) = found.nameless.pop() {
            return Err(unusable(reason));
        }
        if let Some(image) = ON_DEMAND.iter().find(|image| image.name == name.as_str()) {
            return Err(ImageError::NotBuilt { name: name.clone(), command: image.command });
        }
        if found.by_name.is_empty() {
            let dir = self.dir.display();
            return Err(unusable(format!("no image is installed in {dir}; run `./x setup`")));
        }
        Err(ImageError::NotFound { name: name.clone() })
    }

    /// Returns the template of a digest, whatever its image is called now.
    pub(crate) async fn resolve_digest(
        &self,
        digest: &str,
        name: &ImageName,
    ) -> Result<Template, ImageError> {
        let unusable = |reason| ImageError::Unusable { name: name.clone(), reason };
        let dir = self.dir.display();
        let mut found = self
            .scan()
            .await
            .map_err(|error| unusable(format!("{dir} cannot be read: {error}")))?;
        if let Some(template) = found.by_digest.remove(digest) {
            return template.map_err(unusable);
        }
        Err(unusable(format!(
            "its version {digest} is not in {dir} any more; put that directory back"
        )))
    }

    /// Returns every name that resolves, sorted.
    pub(crate) async fn names(&self) -> Vec<ImageName> {
        let found = self.scan().await.unwrap_or_default();
        let usable = found.by_name.into_iter().filter(|(_, entry)| entry.template.is_ok());
        usable.map(|(name, _)| name).collect()
    }

    /// Returns the image that a create without `image` gets.
    pub(crate) fn default_image(&self) -> ImageName {
        let marked = self.default.lock().clone();
        marked.unwrap_or_else(|| DEFAULT_NAME.parse().expect("the constant is a good name"))
    }
}

/// Returns the images that are made on demand, each with whether it is there and can be used.
/// Blocks for one look at them.
///
/// # Errors
/// Fails when the directory cannot be read.
pub fn on_demand_images(assets_dir: &Path) -> io::Result<Vec<(OnDemandImage, bool)>> {
    let found = Found::scan(&assets_dir.join("images"))?;
    let usable = |image: &OnDemandImage| {
        let mut entries = found.by_name.iter();
        entries.any(|(name, entry)| name.as_str() == image.name && entry.template.is_ok())
    };
    Ok(ON_DEMAND.iter().map(|image| (*image, usable(image))).collect())
}

// === impl Found ===

impl Found {
    /// Reads every image of a directory; one that is absent holds none.
    fn scan(dir: &Path) -> io::Result<Self> {
        let mut found = Self::default();
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(error),
        };
        let mut default_written = None;
        for entry in entries {
            let entry = entry?;
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            // Beside the images lie notes of the set-up, which are files, and drafts, hidden.
            if hidden || !entry.file_type()?.is_dir() {
                continue;
            }
            let Some((written, text)) = read_description(&entry.path())? else { continue };
            let default = found.add(&entry.path(), written, &text);
            if default.is_some() && default_written < Some(written) {
                default_written = Some(written);
                found.default = default;
            }
        }
        Ok(found)
    }

    /// Adds an image; returns its first name if it is the default.
    fn add(&mut self, dir: &Path, written: SystemTime, text: &str) -> Option<ImageName> {
        let file = match parse(text) {
            Ok(file) => file,
            Err(Damage { names, reason }) => {
                let reason = format!("{}: {reason}; run `./x setup`", dir.display());
                if names.is_empty() {
                    self.nameless.push(reason);
                } else {
                    self.name(&names, written, &Err(reason));
                }
                return None;
            }
        };
        let default = file.names.first().filter(|_| file.default).cloned();
        let names = file.names.clone();
        let digest = file.digest.clone();
        let template = file.template(&dir.join("rootfs"));
        let template =
            template.map_err(|reason| format!("{}: {reason}; run `./x setup`", dir.display()));
        match self.by_digest.get(&digest) {
            // Of two copies one that can be used is enough.
            Some(Ok(_)) => {}
            Some(Err(_)) | None => drop(self.by_digest.insert(digest, template.clone())),
        }
        self.name(&names, written, &template);
        default
    }

    /// Gives names to an image. While the set-up passes names from an old image to a new one both
    /// have them for a moment, and the one written last is meant.
    fn name(
        &mut self,
        names: &[ImageName],
        written: SystemTime,
        template: &Result<Template, String>,
    ) {
        for name in names {
            if self.by_name.get(name).is_none_or(|entry| entry.written <= written) {
                let entry = Entry { written, template: template.clone() };
                self.by_name.insert(name.clone(), entry);
            }
        }
    }
}

// === impl ImageFile ===

/// What is wrong with an `image.json`, and the names that can be read in spite of it.
#[derive(Debug)]
struct Damage {
    names: Vec<ImageName>,
    reason: String,
}

impl ImageFile {
    fn template(self, root: &Path) -> Result<Template, String> {
        let digest_hex = self.digest.strip_prefix("sha256:").unwrap_or_default();
        if digest_hex.len() != 64 || !digest_hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("`digest` is not `sha256:` and 64 hex digits".to_owned());
        }
        if !root.is_dir() {
            return Err("`rootfs` is missing".to_owned());
        }
        let mut env = Vec::with_capacity(self.config.env.len());
        for line in self.config.env {
            match line.split_once('=') {
                Some((key, value)) if !key.is_empty() => {
                    env.push((key.to_owned(), value.to_owned()));
                }
                _ => return Err("an entry of `config.env` is not `NAME=value`".to_owned()),
            }
        }
        Ok(Template {
            digest: self.digest,
            root: root.to_owned(),
            config: ImageConfig {
                env,
                user: self.config.user.filter(|user| !user.is_empty()),
                working_dir: self.config.working_dir.filter(|dir| !dir.is_empty()),
                entrypoint: self.config.entrypoint.unwrap_or_default(),
                cmd: self.config.cmd.unwrap_or_default(),
            },
        })
    }
}

/// Reads `image.json` and when it was written; `None` if there is none (yet).
fn read_description(dir: &Path) -> io::Result<Option<(SystemTime, String)>> {
    let path = dir.join("image.json");
    let read = fs::metadata(&path)
        .and_then(|meta| meta.modified())
        .and_then(|written| Ok((written, fs::read_to_string(&path)?)));
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // Not text at all: let the parser say so.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Ok(Some((SystemTime::UNIX_EPOCH, String::new())))
        }
        Err(error) => Err(error),
    }
}

/// Reads an `image.json`: absent and unknown fields pass, another version does not.
fn parse(text: &str) -> Result<ImageFile, Damage> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| Damage {
        names: Vec::new(),
        reason: format!("image.json is not JSON: {error}"),
    })?;
    let names = value.get("names").cloned().and_then(|it| serde_json::from_value(it).ok());
    let names: Vec<ImageName> = names.unwrap_or_default();
    let version = value.get("format_version").and_then(serde_json::Value::as_u64);
    if version != Some(FORMAT_VERSION) {
        let reason = match version {
            Some(version) => format!("image.json has format {version}, not {FORMAT_VERSION}"),
            None => "image.json has no `format_version`".to_owned(),
        };
        return Err(Damage { names, reason });
    }
    serde_json::from_value(value)
        .map_err(|error| Damage { names, reason: format!("image.json: {error}") })
}

#[cfg(test)]
mod tests;
