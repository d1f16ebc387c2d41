//! What the command line asks over the administrative socket.

use utoipa::ToSchema;

use super::{
    Parsed,
    fields::{Fields, parse_body},
    query::pairs,
};
use crate::Refusal;

/// The project of a key that names none.
const DEFAULT_PROJECT: &str = "default";

/// A request for an API key.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[schema(as = CreateKeyRequest)]
pub struct CreateKey {
    /// The name of the project it opens; absent = `default`. It is made if there is none.
    #[schema(value_type = Option<String>)]
    pub project: String,
}

/// What a project may have.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[schema(as = SetQuotaRequest)]
pub struct SetQuota {
    /// The project's name or id.
    pub project: String,
    /// How many sandboxes that are not suspended; 0 = any number, absent or null = the server's
    /// default.
    pub sandboxes: Option<u32>,
}

/// Which sandboxes of all projects are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListAllSandboxes {
    /// Those in the archive, or the others.
    pub archived: bool,
}

// === impl CreateKey ===

impl CreateKey {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Fails when `project` is no string.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let project = fields.text("project")?.unwrap_or(DEFAULT_PROJECT).to_owned();
        let mut ignored = Vec::new();
        fields.note_unknown(&mut ignored);
        Ok(Parsed { value: Self { project }, ignored })
    }
}

// === impl ListAllSandboxes ===

impl ListAllSandboxes {
    /// Reads a query string. An empty value equals an absent one; unknown keys are ignored.
    ///
    /// # Errors
    /// Fails when `archived` is neither `true` nor `false`.
    pub fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut list = Self::default();
        for (key, value) in pairs(query.unwrap_or_default())? {
            match (&*key, &*value) {
                ("archived", "true") => list.archived = true,
                ("archived", "false" | "") => list.archived = false,
                ("archived", _) => {
                    return Err(Refusal::invalid("archived", "must be `true` or `false`"));
                }
                _ => {}
            }
        }
        Ok(list)
    }
}

// === impl SetQuota ===

impl SetQuota {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Names the first field that is missing or cannot be what it is.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let project =
            fields.text("project")?.ok_or_else(|| Refusal::invalid("project", "is missing"))?;
        let sandboxes = fields.unsigned("sandboxes")?.map(u32::try_from).transpose();
        let sandboxes = sandboxes
            .map_err(|_huge| Refusal::invalid("sandboxes", format!("at most {}", u32::MAX)))?;
        let mut ignored = Vec::new();
        fields.note_unknown(&mut ignored);
        Ok(Parsed { value: Self { project: project.to_owned(), sandboxes }, ignored })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_a_number_or_the_default() {
        let parse = |body: &str| {
            let parsed = SetQuota::parse(body.as_bytes()).map(|parsed| parsed.value.sandboxes);
            parsed.map_err(|refusal| refusal.to_string())
        };
        assert_eq!(parse(r#"{"project":"a","sandboxes":0}"#), Ok(Some(0)));
        assert_eq!(parse(r#"{"project":"a","sandboxes":null}"#), Ok(None));
        assert_eq!(parse(r#"{"project":"a"}"#), Ok(None));
        for (body, path) in [
            (r#"{"sandboxes":1}"#, "project: "),
            (r#"{"project":"a","sandboxes":-1}"#, "sandboxes: "),
            (r#"{"project":"a","sandboxes":1.0}"#, "sandboxes: "),
            (r#"{"project":"a","sandboxes":4294967296}"#, "sandboxes: "),
        ] {
            let refusal = parse(body).expect_err(body);
            assert!(refusal.starts_with(path), "{refusal}");
        }
    }
}
