//! `POST …/sandbox-template-builds` and `…/complete` (spec 06 §3).

use std::collections::BTreeMap;

use tarn_types::ImageName;
use utoipa::ToSchema;

use super::{
    Parsed,
    fields::{Fields, parse_body},
};
use crate::Refusal;

/// The longest text of a Dockerfile, in bytes.
const DOCKERFILE_LONGEST: usize = 256 << 10;

/// Images that a request may name.
const MOST_PARENTS: usize = 64;

/// A build of the legacy family to prepare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrepareTemplateBuild {
    /// The name that the image is to have.
    pub name: ImageName,
    /// The text of the Dockerfile.
    pub dockerfile: String,
    /// Whether that name is to count in all projects.
    pub public: bool,
    /// The id of the image that the last stage begins with, if it is a registered one.
    pub parent: Option<String>,
    /// The images that references in the Dockerfile are to mean, by their ids.
    pub parents: BTreeMap<String, String>,
}

/// A build of the legacy family to prepare, as a schema.
#[derive(Debug, ToSchema)]
#[schema(as = PrepareTemplateBuildRequest, rename_all = "camelCase")]
#[allow(dead_code, reason = "it is the schema of a body that is read by hand")]
pub(crate) struct PrepareTemplateBuildSchema {
    /// The name of the image.
    name: String,
    /// The text of the Dockerfile.
    dockerfile: String,
    /// Whether the name counts in all projects.
    public: Option<bool>,
    /// The registered image that the last stage begins with: `{"templateId", "reference"}`.
    #[schema(value_type = Option<Object>)]
    parent_template: Option<()>,
    /// Others that the text refers to.
    #[schema(value_type = Option<Vec<Object>>)]
    additional_local_images: Option<()>,
}

/// A build to complete. What else clients say of its result the server knows better.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[schema(as = CompleteTemplateBuildRequest, rename_all = "camelCase")]
pub struct CompleteTemplateBuild {
    /// What the build led to, as its metadata says.
    pub snapshot_id: String,
}

// === impl PrepareTemplateBuild ===

impl PrepareTemplateBuild {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Names the first field that is missing or cannot be what it is.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let missing = |path| move || Refusal::invalid(path, "is missing");
        let name = fields.text("name")?.ok_or_else(missing("name"))?;
        let name = name.parse().map_err(|wrong| Refusal::invalid("name", wrong))?;
        let dockerfile = fields.text("dockerfile")?.ok_or_else(missing("dockerfile"))?;
        if dockerfile.len() > DOCKERFILE_LONGEST {
            let reason = format!("at most {DOCKERFILE_LONGEST} bytes of it are taken");
            return Err(Refusal::invalid("dockerfile", reason));
        }
        let public = fields.boolean("public")?.unwrap_or(false);
        let mut parents = BTreeMap::new();
        let mut parent = None;
        if let Some(mut entry) = fields.object("parentTemplate")? {
            let (reference, id) = template(&mut entry)?;
            parent = Some(id.clone());
            parents.insert(reference, id);
        }
        for item in fields.list("additionalLocalImages")?.unwrap_or_default() {
            let (reference, id) = template(&mut item.object()?)?;
            parents.insert(reference, id);
        }
        if parents.len() > MOST_PARENTS {
            let text = format!("names more than {MOST_PARENTS} images");
            return Err(Refusal::invalid("additionalLocalImages", text));
        }
        // The text says the same.
        drop((fields.take("baseImage"), fields.take("rootfsNodeKind")));
        let mut ignored = Vec::new();
        fields.note_unknown(&mut ignored);
        let dockerfile = dockerfile.to_owned();
        Ok(Parsed { value: Self { name, dockerfile, public, parent, parents }, ignored })
    }
}

/// Reads what a reference is to mean. Its name and files are those of its id.
fn template(entry: &mut Fields<'_>) -> Result<(String, String), Refusal> {
    let mut text = |key: &'static str| {
        let text = entry.text(key)?.filter(|text| !text.is_empty()).map(str::to_owned);
        text.ok_or_else(|| Refusal::invalid(&entry.path_of(key), "is missing"))
    };
    let reference = text("reference")?;
    Ok((reference, text("templateId")?))
}

// === impl CompleteTemplateBuild ===

impl CompleteTemplateBuild {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Fails unless it names what the build led to.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let snapshot_id = fields.text("snapshotId")?.filter(|text| !text.is_empty());
        let snapshot_id =
            snapshot_id.ok_or_else(|| Refusal::invalid("snapshotId", "is missing"))?.to_owned();
        let mut ignored = Vec::new();
        fields.note_unknown(&mut ignored);
        Ok(Parsed { value: Self { snapshot_id }, ignored })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_read_as_clients_send_it() {
        let body = br#"{"name":"Team/App","dockerfile":"FROM base\n","baseImage":"base",
            "public":true,"rootfsNodeKind":"diff",
            "parentTemplate":{"templateId":"sandbox_template_x","name":"base","reference":"base",
                "snapshotId":"snap_y","public":false},
            "additionalLocalImages":[{"templateId":"t","name":"b","reference":"b:1"}]}"#;
        let parsed = PrepareTemplateBuild::parse(body).expect("it is good");
        assert!(parsed.ignored.is_empty(), "{:?}", parsed.ignored);
        let build = parsed.value;
        assert_eq!((build.name.as_str(), build.public), ("team/app", true));
        assert_eq!(build.parent.as_deref(), Some("sandbox_template_x"));
        assert_eq!(build.parents["b:1"], "t");
        let body = br#"{"name":"a","dockerfile":"","parentTemplate":null}"#;
        let build = PrepareTemplateBuild::parse(body).expect("it is good").value;
        assert_eq!((build.parent, build.parents.len()), (None, 0));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = format!(r#"{{"name":"a","dockerfile":"{}"}}"#, "x".repeat((256 << 10) + 1));
        for (body, field) in [
            (r"{}", "name"),
            (r#"{"name":"a b","dockerfile":""}"#, "name"),
            (r#"{"name":"a"}"#, "dockerfile"),
            (&*long, "dockerfile"),
            (
                r#"{"name":"a","dockerfile":"","parentTemplate":{"reference":"a"}}"#,
                "parentTemplate.templateId",
            ),
            (
                r#"{"name":"a","dockerfile":"","additionalLocalImages":[{}]}"#,
                "additionalLocalImages[0].reference",
            ),
        ] {
            let refusal = PrepareTemplateBuild::parse(body.as_bytes()).expect_err(field);
            assert!(refusal.to_string().starts_with(field), "{field}: {refusal}");
        }
        assert!(CompleteTemplateBuild::parse(b"{}").is_err());
    }
}
