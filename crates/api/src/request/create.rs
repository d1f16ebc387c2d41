//! `POST P/sandboxes` (spec 01 §2).

use std::collections::BTreeSet;

use tarn_types::{
    ByteSize, EgressEntry, EgressPolicy, ExposedPorts, GpuModel, ImageName, MilliCpu, PortAccess,
    SandboxName, SecretName, SecretNameError, SnapshotId,
};
use utoipa::ToSchema;

use super::{
    Parsed,
    fields::{Fields, Item, parse_body},
};
use crate::{ErrorCode, Refusal, response::NetworkConfig};

/// The most words an entrypoint may have; far above any use, far below what a kernel refuses.
const MAX_ENTRYPOINT_WORDS: usize = 1024;

/// The longest word of an entrypoint: Linux's `MAX_ARG_STRLEN`, its final zero included.
const MAX_ENTRYPOINT_WORD: usize = 131_071;

/// The longest model name of a GPU that is looked at.
const MAX_GPU_MODEL: usize = 64;

/// A request for a sandbox. Every field is optional; `null` equals absent.
#[derive(Debug, Clone, PartialEq, Default, ToSchema)]
#[schema(as = CreateSandboxRequest)]
pub struct CreateSandbox {
    /// Makes the sandbox a named one.
    #[schema(value_type = Option<String>, pattern = "^[a-z][a-z0-9-]{0,62}$")]
    pub name: Option<SandboxName>,
    /// The image to boot; absent = the platform's default.
    #[schema(value_type = Option<String>, example = "tensorlake/ubuntu-minimal")]
    pub image: Option<ImageName>,
    /// The shape.
    #[schema(value_type = Option<ResourcesRequest>)]
    pub resources: ResourcesRequest,
    /// Whether `resources` was there, however empty: on a restore that is a wish.
    #[schema(ignore)]
    pub resources_present: bool,
    /// The time limit in seconds; 0 = the configured maximum, absent = 600.
    #[schema(minimum = 0, maximum = 9_223_372_036_854_775_807_u64)]
    pub timeout_secs: Option<u64>,
    /// Command run at start, replacing the image's ENTRYPOINT and CMD. On a restore an empty list
    /// is one, too.
    pub entrypoint: Option<Vec<String>>,
    /// What the sandbox may reach; absent = everything public.
    #[schema(value_type = Option<NetworkConfig>)]
    pub network: Option<EgressPolicy>,
    /// User ports that the ingress routes; 9501 is refused.
    #[schema(value_type = Option<Vec<u16>>)]
    pub exposed_ports: Option<ExposedPorts>,
    /// Whether exposed user ports answer without credentials.
    #[schema(value_type = Option<bool>)]
    pub allow_unauthenticated_access: bool,
    /// Whether ingress traffic wakes it; only for a named sandbox.
    pub auto_resume: Option<bool>,
    /// After how many seconds pending it is given up; 0 = at once.
    #[schema(minimum = 0)]
    pub max_pending_secs: Option<u64>,
    /// `false`: answer 202 as soon as the request is durable.
    #[schema(value_type = Option<bool>)]
    pub wait: bool,
    /// The snapshot to restore; what else may be asked for then is spec 02 §4.
    #[schema(value_type = Option<String>, example = "snap_0123456789abcdef")]
    pub snapshot_id: Option<SnapshotId>,
    /// Secrets of the project, each of which every process gets as a variable of that name.
    #[schema(value_type = Option<Vec<String>>)]
    pub secret_names: Option<Vec<SecretName>>,
    /// A registered image by its id, `sandbox_template_…` or `image_…`; it is booted, and an
    /// `image` beside it must be the same.
    pub template_id: Option<String>,
}

/// The shape asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, ToSchema)]
pub struct ResourcesRequest {
    /// CPUs, fractions included; absent = 1.
    #[schema(value_type = Option<f64>)]
    pub cpus: Option<MilliCpu>,
    /// Memory in MiB; absent = 1024.
    #[schema(value_type = Option<u64>)]
    pub memory_mb: Option<ByteSize>,
    /// Disk in MiB; absent = 10240. `ephemeral_disk_mb` is accepted for it.
    #[schema(value_type = Option<u64>)]
    pub disk_mb: Option<ByteSize>,
    /// GPUs, all of one model; on a restore an empty list asks for none.
    #[schema(value_type = Option<Vec<GpuRequest>>)]
    pub gpus: Option<Vec<GpuRequest>>,
}

/// Some GPUs of one model.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
pub struct GpuRequest {
    /// How many; at least one.
    #[schema(minimum = 1)]
    pub count: u32,
    /// Which; absent = A10.
    #[schema(value_type = Option<String>, example = "H100")]
    pub model: String,
}

// === impl CreateSandbox ===

impl CreateSandbox {
    /// Reads a request's body; an empty one asks for the defaults.
    ///
    /// # Errors
    /// Names the first field that cannot be what it is, or whose feature is not built.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let mut ignored = Vec::new();
        let resources = ResourcesRequest::take(&mut fields, &mut ignored)?;
        let mut value = Self {
            name: name(&mut fields)?,
            image: image(&mut fields)?,
            resources_present: resources.is_some(),
            resources: resources.unwrap_or_default(),
            timeout_secs: fields.unsigned("timeout_secs")?,
            entrypoint: entrypoint(&mut fields)?,
            network: network(&mut fields)?,
            exposed_ports: exposed_ports(&mut fields)?,
            allow_unauthenticated_access: unauthenticated_access(&mut fields)?.unwrap_or(false),
            auto_resume: fields.boolean("auto_resume")?,
            max_pending_secs: fields.unsigned("max_pending_secs")?,
            wait: fields.boolean("wait")?.unwrap_or(true),
            snapshot_id: snapshot_id(&mut fields)?,
            secret_names: secret_names(&mut fields)?,
            template_id: fields.text("template_id")?.map(str::to_owned),
        };
        refuse_file_systems(&mut fields)?;
        value.settle()?;
        fields.note_unknown(&mut ignored);
        Ok(Parsed { value, ignored })
    }

    /// Drops what says nothing, and refuses what this build has not, where no snapshot could make
    /// another answer the right one.
    fn settle(&mut self) -> Result<(), Refusal> {
        if self.snapshot_id.is_some() {
            return Ok(());
        }
        self.entrypoint = self.entrypoint.take().filter(|words| !words.is_empty());
        self.secret_names = self.secret_names.take().filter(|names| !names.is_empty());
        Ok(())
    }

    /// Returns who may reach the user ports.
    #[must_use]
    pub fn port_access(&self) -> PortAccess {
        PortAccess {
            exposed: self.exposed_ports.clone(),
            unauthenticated: self.allow_unauthenticated_access,
        }
    }
}

// === impl ResourcesRequest ===

impl ResourcesRequest {
    /// Takes the field `resources`.
    pub(crate) fn take(
        fields: &mut Fields<'_>,
        ignored: &mut Vec<String>,
    ) -> Result<Option<Self>, Refusal> {
        let Some(mut fields) = fields.object("resources")? else { return Ok(None) };
        let value = Self {
            cpus: cpus(&mut fields)?,
            memory_mb: fields.unsigned("memory_mb")?.map(ByteSize::from_mib),
            disk_mb: disk(&mut fields)?,
            gpus: gpus(&mut fields, ignored)?,
        };
        fields.note_unknown(ignored);
        Ok(Some(value))
    }
}

fn cpus(fields: &mut Fields<'_>) -> Result<Option<MilliCpu>, Refusal> {
    let Some(item) = fields.take("cpus") else { return Ok(None) };
    let number = item.number()?;
    if number < 0.0 {
        let reason = format!("must not be negative, this is {number}");
        return Err(Refusal::invalid(&item.path, reason));
    }
    MilliCpu::from_cpus(number).map(Some).map_err(|wrong| Refusal::limit(&item.path, wrong))
}

fn disk(fields: &mut Fields<'_>) -> Result<Option<ByteSize>, Refusal> {
    let disk = fields.unsigned("disk_mb")?;
    let alias = fields.unsigned("ephemeral_disk_mb")?;
    if let (Some(disk), Some(alias)) = (disk, alias)
        && disk != alias
    {
        let reason = format!("is {disk} but its alias `ephemeral_disk_mb` is {alias}; send one");
        return Err(Refusal::invalid(&fields.path_of("disk_mb"), reason));
    }
    Ok(disk.or(alias).map(ByteSize::from_mib))
}

fn gpus(
    fields: &mut Fields<'_>,
    ignored: &mut Vec<String>,
) -> Result<Option<Vec<GpuRequest>>, Refusal> {
    let Some(items) = fields.list("gpus")? else { return Ok(None) };
    let mut gpus: Vec<GpuRequest> = Vec::new();
    for item in items {
        let mut gpu = item.object()?;
        let missing = |key: &str| Refusal::invalid(&format!("{}.{key}", item.path), "is missing");
        let count = gpu.take("count").ok_or_else(|| missing("count"))?;
        let count = match u32::try_from(count.integer()?) {
            Ok(number) if number > 0 => number,
            Ok(_) | Err(_) => {
                return Err(Refusal::invalid(&count.path, "must be a number of at least 1"));
            }
        };
        let model = gpu.take("model");
        let (path, model) = match &model {
            Some(model) => (model.path.clone(), model.text()?),
            None => (format!("{}.model", item.path), GpuModel::DEFAULT),
        };
        if model.is_empty() || model.len() > MAX_GPU_MODEL {
            let reason = format!("must have 1 to {MAX_GPU_MODEL} characters");
            return Err(Refusal::invalid(&path, reason));
        }
        if let Some(first) = gpus.first().filter(|first| first.model != model) {
            let reason = format!("all GPUs must be of one model, the first is `{}`", first.model);
            return Err(Refusal::invalid(&path, reason));
        }
        gpu.note_unknown(ignored);
        gpus.push(GpuRequest { count, model: model.to_owned() });
    }
    Ok(Some(gpus))
}

pub(crate) fn name(fields: &mut Fields<'_>) -> Result<Option<SandboxName>, Refusal> {
    let Some(item) = fields.take("name") else { return Ok(None) };
    item.text()?.parse().map(Some).map_err(|wrong| Refusal::invalid(&item.path, wrong))
}

pub(super) fn image(fields: &mut Fields<'_>) -> Result<Option<ImageName>, Refusal> {
    let Some(item) = fields.take("image") else { return Ok(None) };
    item.text()?.parse().map(Some).map_err(|wrong| Refusal::invalid(&item.path, wrong))
}

pub(super) fn entrypoint(fields: &mut Fields<'_>) -> Result<Option<Vec<String>>, Refusal> {
    let Some(words) = fields.list("entrypoint")? else { return Ok(None) };
    if words.len() > MAX_ENTRYPOINT_WORDS {
        let reason = format!("{} words; at most {MAX_ENTRYPOINT_WORDS}", words.len());
        return Err(Refusal::limit(&fields.path_of("entrypoint"), reason));
    }
    let mut entrypoint = Vec::with_capacity(words.len());
    for item in &words {
        let word = item.text()?;
        // The first names the program; an empty argument is an argument.
        if word.is_empty() && entrypoint.is_empty() {
            return Err(Refusal::invalid(&item.path, "must not be empty"));
        }
        if word.contains('\0') {
            return Err(Refusal::invalid(&item.path, "must not hold a NUL character"));
        }
        if word.len() > MAX_ENTRYPOINT_WORD {
            let reason = format!("{} bytes; at most {MAX_ENTRYPOINT_WORD}", word.len());
            return Err(Refusal::limit(&item.path, reason));
        }
        entrypoint.push(word.to_owned());
    }
    Ok(Some(entrypoint))
}

/// Takes the field `network`. An unknown key in it is refused: a misspelt rule must not open it.
pub(crate) fn network(fields: &mut Fields<'_>) -> Result<Option<EgressPolicy>, Refusal> {
    let Some(mut network) = fields.object("network")? else { return Ok(None) };
    let allow_internet_access = network.boolean("allow_internet_access")?.unwrap_or(true);
    let lists = ["allow_out", "deny_out"].map(|key| egress_list(&mut network, key));
    network.refuse_unknown()?;
    let [allow_out, deny_out] = lists;
    Ok(Some(EgressPolicy { allow_internet_access, allow_out: allow_out?, deny_out: deny_out? }))
}

fn egress_list(fields: &mut Fields<'_>, key: &'static str) -> Result<Vec<EgressEntry>, Refusal> {
    let items = fields.list(key)?.unwrap_or_default();
    if items.len() > EgressPolicy::MOST_ENTRIES {
        let reason = format!("{} entries; at most {}", items.len(), EgressPolicy::MOST_ENTRIES);
        return Err(Refusal::limit(&fields.path_of(key), reason));
    }
    let read =
        |item: &Item<'_>| item.text()?.parse().map_err(|wrong| Refusal::invalid(&item.path, wrong));
    items.iter().map(read).collect()
}

pub(crate) fn exposed_ports(fields: &mut Fields<'_>) -> Result<Option<ExposedPorts>, Refusal> {
    let Some(items) = fields.list("exposed_ports")? else { return Ok(None) };
    let mut ports = Vec::with_capacity(items.len());
    for item in items {
        let port = item.integer()?;
        ExposedPorts::parse([port]).map_err(|wrong| Refusal::invalid(&item.path, wrong))?;
        ports.push(port);
    }
    let path = fields.path_of("exposed_ports");
    ExposedPorts::parse(ports).map(Some).map_err(|wrong| Refusal::invalid(&path, wrong))
}

/// Takes `allow_unauthenticated_access` or its alias.
pub(crate) fn unauthenticated_access(fields: &mut Fields<'_>) -> Result<Option<bool>, Refusal> {
    const KEY: &str = "allow_unauthenticated_access";
    const ALIAS: &str = "allow_unauthenticated_proxy_access";
    let value = fields.boolean(KEY)?;
    let alias = fields.boolean(ALIAS)?;
    if value.is_some() && alias.is_some() && value != alias {
        let reason = format!("contradicts its alias `{ALIAS}`; send one");
        return Err(Refusal::invalid(&fields.path_of(KEY), reason));
    }
    Ok(value.or(alias))
}

/// Takes `snapshot_id`; what is no id is nobody's.
fn snapshot_id(fields: &mut Fields<'_>) -> Result<Option<SnapshotId>, Refusal> {
    let Some(text) = fields.text("snapshot_id")? else { return Ok(None) };
    text.parse().map(Some).map_err(|_no_id| {
        let shown: String = text.chars().take(80).collect();
        Refusal::new(ErrorCode::SnapshotNotFound, format!("snapshot_id: no snapshot `{shown}`"))
    })
}

/// Takes `secret_names`, each once; what is no name is nobody's.
fn secret_names(fields: &mut Fields<'_>) -> Result<Option<Vec<SecretName>>, Refusal> {
    let Some(texts) = fields.texts("secret_names")? else { return Ok(None) };
    let mut names: Vec<SecretName> = Vec::with_capacity(texts.len());
    let mut seen = BTreeSet::new();
    for text in texts {
        let name: SecretName = text.parse().map_err(|wrong: SecretNameError| {
            let shown: String = text.chars().take(80).collect();
            let text = format!("secret_names: no secret is named `{shown}`: {wrong}");
            Refusal::new(ErrorCode::SecretNotFound, text)
        })?;
        // A body may have a hundred thousand of them.
        if seen.insert(name.clone()) {
            names.push(name);
        }
    }
    Ok(Some(names))
}

pub(super) fn refuse_file_systems(fields: &mut Fields<'_>) -> Result<(), Refusal> {
    if fields.list("file_systems")?.is_some_and(|mounts| !mounts.is_empty()) {
        return Err(Refusal::not_supported("file_systems", "file systems"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
