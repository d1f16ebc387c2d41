//! What the administrative socket is asked about images and registries.

use tarn_types::{ImageName, RegistryLogin, SecretValue};
use utoipa::ToSchema;

use super::{
    Parsed,
    fields::{Fields, parse_body},
};
use crate::Refusal;

/// The project of a request that names none, and is not about all.
const DEFAULT_PROJECT: &str = "default";

/// The longest user name, in bytes.
const USERNAME: usize = 256;

/// Whose name an image gets or loses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageScope {
    /// That of the project with this name.
    Project(String),
    /// It counts in every project.
    Global,
}

/// What `POST /tarn/v1/images/pull` is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullImage {
    /// Whose the name is; a project's login is used.
    pub scope: ImageScope,
    /// What is pulled.
    pub reference: ImageName,
    /// The name it gets; `None` = the reference.
    pub name: Option<ImageName>,
}

/// What `POST /tarn/v1/images/import` is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportImage {
    /// Whose the name is.
    pub scope: ImageScope,
    /// The file or directory, on the server's host.
    pub file: String,
    /// Which image of several.
    pub choose: Option<String>,
    /// The name it gets.
    pub name: ImageName,
}

/// What `POST /tarn/v1/images/remove` is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoveImage {
    /// A name.
    Name(ImageScope, ImageName),
    /// The first digits of a digest: the image with all its names.
    Digest(String),
}

/// What `PUT /tarn/v1/registry-logins` is told. Its `Debug` output has no password in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutRegistryLogin {
    /// The project's name.
    pub project: String,
    /// The registry.
    pub registry: String,
    /// What it is shown.
    pub login: RegistryLogin,
}

/// What `POST /tarn/v1/registry-logins/remove` is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteRegistryLogin {
    /// The project's name.
    pub project: String,
    /// The registry.
    pub registry: String,
}

/// An image to pull, import or remove.
#[derive(Debug, ToSchema)]
#[schema(as = ImageRequest)]
#[allow(dead_code, reason = "it is the schema of bodies that are read field by field")]
pub(crate) struct ImageRequest {
    /// The name of the project whose name the image gets or loses; `default` if absent.
    project: Option<String>,
    /// The name is one that counts in every project.
    global: Option<bool>,
    /// To pull: what is pulled.
    reference: Option<String>,
    /// To import: a file or directory on the server's host.
    file: Option<String>,
    /// To import: which image of several.
    choose: Option<String>,
    /// The name. To pull: the reference if absent.
    name: Option<String>,
    /// To remove, in place of a name: the first digits of a digest.
    digest: Option<String>,
}

/// What a project shows to a registry.
#[derive(Debug, ToSchema)]
#[schema(as = RegistryLoginRequest)]
#[allow(dead_code, reason = "it is the schema of a body whose password no plain string must hold")]
pub(crate) struct RegistryLoginRequest {
    /// The name of the project; `default` if absent.
    project: Option<String>,
    /// The registry's host, with its port if it has one.
    registry: String,
    /// The user's name there.
    username: Option<String>,
    /// The password or token. It is never returned.
    password: Option<String>,
}

// === impl PullImage ===

impl PullImage {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Names the first field that is missing or cannot be what it is.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let value = Self {
            scope: scope(&mut fields)?,
            reference: needed(&mut fields, "reference", image_name)?,
            name: image_name(&mut fields, "name")?,
        };
        Ok(parsed(value, &fields))
    }
}

// === impl ImportImage ===

impl ImportImage {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Names the first field that is missing or cannot be what it is.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let scope = scope(&mut fields)?;
        let file = needed(&mut fields, "file", text)?;
        if !file.starts_with('/') {
            return Err(Refusal::invalid("file", "must be an absolute path"));
        }
        let choose = text(&mut fields, "choose")?;
        let value = Self { scope, file, choose, name: needed(&mut fields, "name", image_name)? };
        Ok(parsed(value, &fields))
    }
}

// === impl RemoveImage ===

impl RemoveImage {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Names the first field that is missing or cannot be what it is.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let scope = scope(&mut fields)?;
        let digest = text(&mut fields, "digest")?.filter(|digits| !digits.is_empty());
        let value = match (image_name(&mut fields, "name")?, digest) {
            (Some(name), None) => Self::Name(scope, name),
            (None, Some(digits)) => Self::Digest(digits),
            (Some(_), Some(_)) | (None, None) => {
                return Err(Refusal::invalid("name", "give one of `name` and `digest`"));
            }
        };
        Ok(parsed(value, &fields))
    }
}

// === impl PutRegistryLogin ===

impl PutRegistryLogin {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Names the first field that is missing or cannot be what it is; never repeats a password.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let project = project(&mut fields)?;
        let registry = needed(&mut fields, "registry", text)?;
        let username = needed(&mut fields, "username", text)?;
        // A colon ends it where it is sent (RFC 7617 §2).
        if username.is_empty() || username.len() > USERNAME || username.contains([':', '\0']) {
            let reason = format!("must have 1 to {USERNAME} characters, and no `:`");
            return Err(Refusal::invalid("username", reason));
        }
        let password = fields.take("password");
        let password = password.ok_or_else(|| Refusal::invalid("password", "is missing"))?;
        let password = password.text();
        let password =
            password.map_err(|_shown| Refusal::invalid("password", "must be a string"))?;
        let password = SecretValue::new(password.to_owned());
        let password = password.map_err(|wrong| Refusal::invalid("password", wrong))?;
        let login = RegistryLogin { username, password };
        Ok(parsed(Self { project, registry, login }, &fields))
    }
}

// === impl DeleteRegistryLogin ===

impl DeleteRegistryLogin {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Names the first field that is missing or cannot be what it is.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let project = project(&mut fields)?;
        let registry = needed(&mut fields, "registry", text)?;
        Ok(parsed(Self { project, registry }, &fields))
    }
}

fn parsed<T>(value: T, fields: &Fields<'_>) -> Parsed<T> {
    let mut ignored = Vec::new();
    fields.note_unknown(&mut ignored);
    Parsed { value, ignored }
}

fn scope(fields: &mut Fields<'_>) -> Result<ImageScope, Refusal> {
    let named = text(fields, "project")?;
    match (named, fields.boolean("global")?.unwrap_or(false)) {
        (Some(_), true) => Err(Refusal::invalid("global", "leave `project` out, or this")),
        (None, true) => Ok(ImageScope::Global),
        (named, false) => {
            Ok(ImageScope::Project(named.unwrap_or_else(|| DEFAULT_PROJECT.to_owned())))
        }
    }
}

fn project(fields: &mut Fields<'_>) -> Result<String, Refusal> {
    Ok(text(fields, "project")?.unwrap_or_else(|| DEFAULT_PROJECT.to_owned()))
}

fn text(fields: &mut Fields<'_>, key: &'static str) -> Result<Option<String>, Refusal> {
    Ok(fields.text(key)?.map(str::to_owned))
}

fn image_name(fields: &mut Fields<'_>, key: &'static str) -> Result<Option<ImageName>, Refusal> {
    let text = fields.text(key)?;
    text.map(|text| text.parse().map_err(|wrong| Refusal::invalid(key, wrong))).transpose()
}

fn needed<T>(
    fields: &mut Fields<'_>,
    key: &'static str,
    read: impl FnOnce(&mut Fields<'_>, &'static str) -> Result<Option<T>, Refusal>,
) -> Result<T, Refusal> {
    read(fields, key)?.ok_or_else(|| Refusal::invalid(key, "is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_doubled_is_named() {
        let pull = |body: &str| PullImage::parse(body.as_bytes()).map_err(|bad| bad.to_string());
        let good = pull(r#"{"reference":"a:1","global":true}"#).expect("good").value;
        assert_eq!((good.scope, good.name), (ImageScope::Global, None));
        let good = pull(r#"{"reference":"a:1","name":"b"}"#).expect("good").value;
        assert_eq!(good.scope, ImageScope::Project("default".to_owned()));
        for (body, field) in [
            ("{}", "reference"),
            (r#"{"reference":"a b"}"#, "reference"),
            (r#"{"reference":"a","project":"p","global":true}"#, "global"),
        ] {
            let refused = pull(body).expect_err(body);
            assert!(refused.starts_with(field), "{refused}");
        }
        for body in ["{}", r#"{"name":"a","digest":"b"}"#] {
            assert!(RemoveImage::parse(body.as_bytes()).is_err(), "{body}");
        }
        let import = r#"{"file":"here.tar","name":"a"}"#;
        assert!(ImportImage::parse(import.as_bytes()).is_err());
    }

    #[test]
    fn a_password_is_in_no_refusal_and_no_debug_output() {
        let good = r#"{"registry":"h","username":"u","password":"hush"}"#;
        let login = PutRegistryLogin::parse(good.as_bytes()).expect("good").value;
        assert!(!format!("{login:?}").contains("hush"));
        for body in [
            r#"{"registry":"h","username":"u","password":["hush"]}"#,
            r#"{"registry":"h","username":"u:v","password":"hush"}"#,
            r#"{"registry":"h","password":"hush"}"#,
            r#"{"registry":"h","username":"u","password":"hush\u0000"}"#,
        ] {
            let refused = PutRegistryLogin::parse(body.as_bytes()).expect_err(body).to_string();
            assert!(!refused.contains("hush"), "{refused}");
        }
    }
}
