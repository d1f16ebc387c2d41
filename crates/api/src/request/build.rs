//! `POST /images/v4/builds`, its seal and its cancel (spec 06 §2).

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tarn_types::{BuildKind, ByteSize, ImageName, MilliCpu, RegistryLogin, Resources, SecretValue};
use utoipa::ToSchema;

use super::{
    Parsed,
    fields::{Fields, parse_body},
};
use crate::Refusal;

/// What the sandboxes of a build have unless the request says otherwise.
const CPUS: f64 = 2.0;
const MEMORY_MB: u64 = 4096;
const DISK_MB: u64 = 10_240;

/// The longest path of a Dockerfile, argument and registry configuration, in bytes.
const PATH_LONGEST: usize = 4096;
const ARG_LONGEST: usize = 32 << 10;
const ARGS_MOST: usize = 256;
/// The user whose password is an identity token, as docker's credential helpers name it, and the
/// crate that speaks to registries reads it.
const TOKEN_USER: &str = "<token>";
/// Images that a request may pin; clients send three.
const MOST_PARENTS: usize = 64;

/// A build to begin.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateBuild {
    /// What the image is made from.
    pub kind: BuildKind,
    /// The name that it is to have.
    pub name: ImageName,
    /// Whether that name is to count in every project.
    pub global: bool,
    /// What the sandboxes have that it runs in; the disk is the image's, too.
    pub resources: Resources,
    /// What it shows to registries, by their hosts as they were written.
    pub logins: BTreeMap<String, RegistryLogin>,
    /// The images that references in the Dockerfile are to mean, by their ids.
    pub parents: BTreeMap<String, String>,
}

/// A build to begin, as a schema.
#[derive(Debug, ToSchema)]
#[schema(as = CreateBuildRequest)]
#[allow(dead_code, reason = "it is the schema of a body that is read by hand")]
pub(crate) struct CreateBuildSchema {
    /// `dockerfile`, whose context is uploaded afterwards, or `import`.
    kind: String,
    /// The name of the image.
    name: String,
    /// The path of the Dockerfile in the context. Default: `Dockerfile`.
    dockerfile_path: Option<String>,
    /// Values for `ARG` instructions.
    build_args: Option<BTreeMap<String, String>>,
    /// The image to import.
    image_ref: Option<String>,
    /// `cpus` (2) and `memory_mb` (4096) of the sandboxes that it is built in.
    #[schema(value_type = Option<Object>)]
    builder_resources: Option<()>,
    /// The disk of those, and the least of the image's sandboxes. Default: 10240.
    disk_mb: Option<u64>,
    /// `global`: the name counts in every project.
    image_scope: Option<String>,
    /// A docker configuration with `auths`, as a string; kept in memory while it is built.
    registry_credentials_json: Option<String>,
    /// What references in the Dockerfile are to mean, each `{"reference", "image_id"}`, or
    /// `public_id`; another is looked up by its name.
    #[schema(value_type = Option<Vec<Object>>)]
    parents: Option<()>,
}

/// A context to seal.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[schema(as = SealContextRequest)]
pub struct SealContext {
    /// The SHA-256 of the uploaded archive, in hex.
    pub digest: String,
}

/// A build to cancel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CancelBuild {
    /// By its id.
    Build(String),
    /// By the key of its request.
    Request(String),
}

// === impl CreateBuild ===

impl CreateBuild {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Names the first field that is missing or cannot be what it is; never repeats a password.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let kind = kind(&mut fields)?;
        let name = fields.text("name")?.ok_or_else(|| Refusal::invalid("name", "is missing"))?;
        let name = name.to_lowercase();
        let name = name.parse().map_err(|bad| Refusal::invalid("name", format!("{bad}")))?;
        let global = match fields.text("image_scope")? {
            None | Some("project") => false,
            Some("global") => true,
            Some(_) => return Err(Refusal::invalid("image_scope", "is `global` or `project`")),
        };
        let resources = resources(&mut fields)?;
        let logins = match fields.text("registry_credentials_json")? {
            Some(text) => registry_logins(text)?,
            None => BTreeMap::new(),
        };
        let parents = parents(&mut fields)?;
        // The project of a key is the key's.
        drop(fields.take("project"));
        let mut ignored = Vec::new();
        fields.note_unknown(&mut ignored);
        Ok(Parsed { value: Self { kind, name, global, resources, logins, parents }, ignored })
    }
}

// === impl SealContext ===

impl SealContext {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Fails when there is no digest, or it is none.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let digest = fields.text("digest")?.unwrap_or_default();
        let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Refusal::invalid("digest", "is the SHA-256 of the archive, in hex"));
        }
        let digest = hex.to_ascii_lowercase();
        drop(fields.take("project"));
        let mut ignored = Vec::new();
        fields.note_unknown(&mut ignored);
        Ok(Parsed { value: Self { digest }, ignored })
    }
}

// === impl CancelBuild ===

impl CancelBuild {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Fails unless it names one build.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let build = fields.text("build_id")?;
        let request = fields.text("client_request_id")?;
        let value = match (build, request) {
            (Some(build), None) => Self::Build(build.to_owned()),
            (None, Some(request)) => Self::Request(request.to_owned()),
            _ => {
                return Err(Refusal::invalid("build_id", "give it or `client_request_id`"));
            }
        };
        drop(fields.take("project"));
        let mut ignored = Vec::new();
        fields.note_unknown(&mut ignored);
        Ok(Parsed { value, ignored })
    }
}

fn kind(fields: &mut Fields<'_>) -> Result<BuildKind, Refusal> {
    let path = fields.text("dockerfile_path")?.unwrap_or("Dockerfile");
    let args = args(fields)?;
    let reference = fields.text("image_ref")?;
    match fields.text("kind")? {
        Some("dockerfile") => {
            if path.is_empty() || path.len() > PATH_LONGEST {
                let reason = format!("is a path of 1 to {PATH_LONGEST} bytes in the context");
                return Err(Refusal::invalid("dockerfile_path", reason));
            }
            if reference.is_some() {
                return Err(Refusal::invalid("image_ref", "belongs to kind `import`"));
            }
            Ok(BuildKind::Dockerfile { path: path.to_owned(), args })
        }
        Some("import") => {
            let reference = reference.ok_or_else(|| Refusal::invalid("image_ref", "is missing"))?;
            let parsed: ImageName = reference
                .trim()
                .parse()
                .map_err(|bad| Refusal::invalid("image_ref", format!("{bad}")))?;
            Ok(BuildKind::Import { reference: parsed.to_string() })
        }
        _ => Err(Refusal::invalid("kind", "is `dockerfile` or `import`")),
    }
}

fn args(fields: &mut Fields<'_>) -> Result<BTreeMap<String, String>, Refusal> {
    let Some(item) = fields.take("build_args") else { return Ok(BTreeMap::new()) };
    let path = item.path.clone();
    let args: BTreeMap<String, String> = item
        .decode()
        .ok_or_else(|| Refusal::invalid(&path, "is an object whose values are strings"))?;
    if args.len() > ARGS_MOST || args.values().any(|value| value.len() > ARG_LONGEST) {
        let reason = format!("at most {ARGS_MOST}, each of at most {ARG_LONGEST} bytes");
        return Err(Refusal::invalid(&path, reason));
    }
    if args
        .iter()
        .any(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0'))
    {
        return Err(Refusal::invalid(&path, "a name is empty or has `=` in it, or there is a NUL"));
    }
    Ok(args)
}

fn resources(fields: &mut Fields<'_>) -> Result<Resources, Refusal> {
    let (mut cpus, mut memory) = (None, None);
    if let Some(mut resources) = fields.object("builder_resources")? {
        cpus = resources.take("cpus").map(|item| item.number()).transpose()?;
        memory = resources.unsigned("memory_mb")?;
    }
    let disk = fields.unsigned("disk_mb")?;
    let cpu = MilliCpu::from_cpus(cpus.unwrap_or(CPUS))
        .map_err(|bad| Refusal::invalid("builder_resources.cpus", format!("{bad}")))?;
    let size = |path: &str, mib: u64| {
        // 1 EiB is more than anything has.
        if mib > 1 << 40 {
            return Err(Refusal::invalid(path, "is too large"));
        }
        Ok(ByteSize::from_mib(mib))
    };
    Ok(Resources {
        cpu,
        memory: size("builder_resources.memory_mb", memory.unwrap_or(MEMORY_MB))?,
        disk: size("disk_mb", disk.unwrap_or(DISK_MB))?,
        gpus: None,
    })
}

fn parents(fields: &mut Fields<'_>) -> Result<BTreeMap<String, String>, Refusal> {
    let mut parents = BTreeMap::new();
    for item in fields.list("parents")?.unwrap_or_default() {
        let mut entry = item.object()?;
        let mut text = |key: &'static str| {
            entry.text(key).map(|text| text.filter(|text| !text.is_empty()).map(str::to_owned))
        };
        // The SDK of 0.5.163 says `public_id`.
        let (reference, mut image) = (text("reference")?, text("image_id")?);
        if let Some(id) = text("public_id")? {
            image.get_or_insert(id);
        }
        let missing = |key| Refusal::invalid(&entry.path_of(key), "is missing");
        let reference = reference.ok_or_else(|| missing("reference"))?;
        parents.insert(reference, image.ok_or_else(|| missing("image_id"))?);
    }
    if parents.len() > MOST_PARENTS {
        let text = format!("names more than {MOST_PARENTS} images");
        return Err(Refusal::invalid("parents", text));
    }
    Ok(parents)
}

/// Returns what the sandboxes of a build have unless its request says otherwise.
#[must_use]
pub fn build_resources() -> Resources {
    Resources {
        memory: ByteSize::from_mib(MEMORY_MB),
        disk: ByteSize::from_mib(DISK_MB),
        cpu: MilliCpu::from_cpus(CPUS).unwrap_or_default(),
        gpus: None,
    }
}

/// Reads a docker configuration: what registries are shown, by their hosts as they are written. An
/// identity token is what counts where there is one: the name and the password beside it are empty
/// or stand for nothing then.
///
/// # Errors
/// Fails when it is none. No error repeats any of it.
pub fn registry_logins(text: &str) -> Result<BTreeMap<String, RegistryLogin>, Refusal> {
    const FIELD: &str = "registry_credentials_json";
    let bad = |reason: &str| Refusal::invalid(FIELD, reason);
    let config: serde_json::Value =
        serde_json::from_str(text).map_err(|_secret| bad("is no JSON"))?;
    let auths = config.get("auths").and_then(serde_json::Value::as_object);
    let mut logins = BTreeMap::new();
    for (host, entry) in auths.into_iter().flatten() {
        let field = |name: &str| entry.get(name).and_then(serde_json::Value::as_str);
        let token = field("identitytoken").filter(|token| !token.is_empty());
        let pair = match (token, field("auth"), field("username"), field("password")) {
            (Some(token), ..) => Some((TOKEN_USER.to_owned(), token.to_owned())),
            (None, _, Some(username), Some(password)) => {
                Some((username.to_owned(), password.to_owned()))
            }
            (None, Some(auth), ..) if !auth.is_empty() => {
                let decoded =
                    STANDARD.decode(auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                let decoded = decoded.ok_or_else(|| bad("an `auth` is no base64 of text"))?;
                let pair = decoded.split_once(':');
                let (username, password) = pair.ok_or_else(|| bad("an `auth` has no `:`"))?;
                Some((username.to_owned(), password.to_owned()))
            }
            _ => None,
        };
        let Some((username, password)) = pair else { continue };
        let password =
            SecretValue::new(password).map_err(|_secret| bad("a password cannot be one"))?;
        logins.insert(host.clone(), RegistryLogin { username, password });
    }
    Ok(logins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dockerfile_build_is_read() {
        let body = br#"{"kind":"dockerfile","name":"Team/App","dockerfile_path":"Dockerfile",
            "build_args":{"A":"1"},"builder_resources":{"cpus":1.5,"memory_mb":2048},
            "disk_mb":20480,"parents":[{"reference":"base:1","public_id":"image_x"}],
            "image_scope":"global"}"#;
        let parsed = CreateBuild::parse(body).expect("it is good");
        assert!(parsed.ignored.is_empty(), "{:?}", parsed.ignored);
        let build = parsed.value;
        assert_eq!(build.name.as_str(), "team/app");
        assert!(build.global);
        let parents = BTreeMap::from([("base:1".to_owned(), "image_x".to_owned())]);
        assert_eq!(build.parents, parents);
        assert_eq!(build.resources.memory, ByteSize::from_mib(2048));
        assert_eq!(build.resources.disk, ByteSize::from_mib(20_480));
        let args = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        assert_eq!(build.kind, BuildKind::Dockerfile { path: "Dockerfile".to_owned(), args });
    }

    #[test]
    fn an_import_is_read_with_what_it_shows_to_registries() {
        let body = br#"{"kind":"import","name":"py","image_ref":" python:3.12-slim ",
            "registry_credentials_json":"{\"auths\":{\"r.example\":{\"auth\":\"dTpwOnE=\"},\"x\":{}}}"}"#;
        let build = CreateBuild::parse(body).expect("it is good").value;
        assert_eq!(build.kind, BuildKind::Import { reference: "python:3.12-slim".to_owned() });
        let login = &build.logins["r.example"];
        assert_eq!((login.username.as_str(), login.password.reveal()), ("u", "p:q"));
        assert_eq!(build.logins.len(), 1);
        assert_eq!(build.resources.disk, ByteSize::from_mib(DISK_MB));
    }

    #[test]
    fn an_identity_token_counts_before_a_name_and_a_password() {
        // What SDKs send, what `az acr login` writes (the id, and no password), and what a
        // credential helper says.
        for entry in [
            r#"{"identitytoken":"t"}"#,
            r#"{"auth":"MDAwMDAwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAwOg==","identitytoken":"t"}"#,
            r#"{"username":"00000000-0000-0000-0000-000000000000","password":"","identitytoken":"t"}"#,
            r#"{"username":"<token>","password":"t"}"#,
        ] {
            let config = format!(r#"{{"auths":{{"r.azurecr.io":{entry}}}}}"#);
            let logins = registry_logins(&config).expect(entry);
            let login = &logins["r.azurecr.io"];
            assert_eq!((login.username.as_str(), login.password.reveal()), ("<token>", "t"));
        }
        let config = r#"{"auths":{"r.example":{"auth":"dTpw","identitytoken":""}}}"#;
        let logins = registry_logins(config).expect("it is good");
        assert_eq!(logins["r.example"].username, "u");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, field) in [
            (r"{}", "kind"),
            (r#"{"kind":"direct","name":"a"}"#, "kind"),
            (r#"{"kind":"import","name":"a"}"#, "image_ref"),
            (r#"{"kind":"dockerfile"}"#, "name"),
            (r#"{"kind":"dockerfile","name":"a b"}"#, "name"),
            (r#"{"kind":"dockerfile","name":"a","image_ref":"b"}"#, "image_ref"),
            (r#"{"kind":"dockerfile","name":"a","build_args":{"A":1}}"#, "build_args"),
            (r#"{"kind":"dockerfile","name":"a","disk_mb":-1}"#, "disk_mb"),
            (
                r#"{"kind":"dockerfile","name":"a","parents":[{"reference":"b"}]}"#,
                "parents[0].image_id",
            ),
            (r#"{"kind":"dockerfile","name":"a","image_scope":"all"}"#, "image_scope"),
            (
                r#"{"kind":"dockerfile","name":"a","registry_credentials_json":"x"}"#,
                "registry_credentials_json",
            ),
        ] {
            let refusal = CreateBuild::parse(body.as_bytes()).expect_err(body);
            assert!(refusal.to_string().starts_with(field), "{body}: {refusal}");
        }
        for body in [r"{}", r#"{"digest":"ab"}"#] {
            assert!(SealContext::parse(body.as_bytes()).is_err(), "{body}");
        }
        for body in [r"{}", r#"{"build_id":"a","client_request_id":"b"}"#] {
            assert!(CancelBuild::parse(body.as_bytes()).is_err(), "{body}");
        }
    }
}
