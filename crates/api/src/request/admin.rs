//! What the command line asks over the administrative socket.

use utoipa::ToSchema;

use super::{
    Parsed,
    fields::{Fields, parse_body},
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
