//! Lists of registered images, `POST …/sandbox-templates` (spec 06 §2, §3), and
//! `POST …/images/from-snapshot` (tensorlake 0.5.160, `sandbox_image_catalog.rs`).

use tarn_types::{ImageId, ImageName, SandboxId, SnapshotId};
use utoipa::ToSchema;

use super::{
    Parsed,
    fields::{Fields, parse_body},
    query::pairs,
};
use crate::{Cursor, ErrorCode, Refusal};

/// What a larger page counts as, and one that is not said.
const MAX_PAGE: usize = 1000;

/// Which page of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListImages {
    /// At most so many.
    pub page_size: usize,
    /// Where it starts, exclusive.
    pub after: Option<Cursor<ImageId>>,
}

/// An image to be made of a snapshot. What else clients say of it is the snapshot's own.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[schema(as = RegisterImageRequest, rename_all = "camelCase")]
pub struct RegisterImage {
    /// Its name.
    #[schema(value_type = String)]
    pub name: ImageName,
    /// A `filesystem` snapshot of the project.
    #[schema(value_type = String, example = "snap_0123456789abcdef")]
    pub snapshot_id: SnapshotId,
    /// The sandbox that the snapshot was taken of, if the caller says it.
    #[schema(value_type = Option<String>)]
    pub snapshot_sandbox_id: Option<SandboxId>,
    /// The text that it was made by; it is shown, and not read.
    pub dockerfile: Option<String>,
    /// Whether its name is to count in all projects.
    #[schema(value_type = Option<bool>)]
    pub public: bool,
}

/// An image to be made of a snapshot through the CAS family.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[schema(as = RegisterCasImageRequest)]
pub struct RegisterCasImage {
    /// Its name.
    #[schema(value_type = String)]
    pub name: ImageName,
    /// A `filesystem` snapshot of the project.
    #[schema(value_type = String, example = "snap_0123456789abcdef")]
    pub snapshot_id: SnapshotId,
    /// Whether its name is to count in all projects.
    #[schema(value_type = Option<bool>)]
    pub public: bool,
}

// === impl ListImages ===

impl ListImages {
    /// Reads a query string in the words of both families. An empty value equals an absent one;
    /// unknown keys are ignored.
    ///
    /// # Errors
    /// Names the first parameter that cannot be what it is.
    pub fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut list = Self { page_size: MAX_PAGE, after: None };
        for (key, value) in pairs(query.unwrap_or_default())? {
            match (&*key, &*value) {
                (_, "") => {}
                ("page_size" | "pageSize", number) => list.page_size = page_size(&key, number)?,
                ("cursor" | "next", place) => {
                    let place = place.parse();
                    list.after = Some(place.map_err(|wrong| Refusal::invalid(&key, wrong))?);
                }
                _ => {}
            }
        }
        Ok(list)
    }
}

fn page_size(key: &str, text: &str) -> Result<usize, Refusal> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    // A number too large for the machine is a large one like any other.
    match (digits, text.parse::<usize>()) {
        (true, Ok(0)) | (false, _) => {
            Err(Refusal::invalid(key, "must be a whole number of at least 1"))
        }
        (true, Ok(size)) => Ok(size.min(MAX_PAGE)),
        (true, Err(_)) => Ok(MAX_PAGE),
    }
}

// === impl RegisterImage ===

impl RegisterImage {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Names the first field that is missing or cannot be what it is.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let (name, snapshot_id) = name_and_snapshot(&mut fields, "snapshotId")?;
        let source = fields.text("snapshotSandboxId")?.filter(|text| !text.is_empty());
        let source = source.map(str::parse).transpose();
        let value = Self {
            name,
            snapshot_id,
            snapshot_sandbox_id: source
                .map_err(|wrong| Refusal::invalid("snapshotSandboxId", wrong))?,
            dockerfile: fields.text("dockerfile")?.map(str::to_owned),
            public: fields.boolean("public")?.unwrap_or(false),
        };
        let mut ignored = Vec::new();
        fields.note_unknown(&mut ignored);
        Ok(Parsed { value, ignored })
    }
}

// === impl RegisterCasImage ===

impl RegisterCasImage {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Names the first field that is missing or cannot be what it is.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let (name, snapshot_id) = name_and_snapshot(&mut fields, "snapshot_id")?;
        let public = fields.boolean("public")?.unwrap_or(false);
        let mut ignored = Vec::new();
        fields.note_unknown(&mut ignored);
        Ok(Parsed { value: Self { name, snapshot_id, public }, ignored })
    }
}

fn name_and_snapshot(
    fields: &mut Fields<'_>,
    key: &'static str,
) -> Result<(ImageName, SnapshotId), Refusal> {
    let missing = |path| move || Refusal::invalid(path, "is missing");
    let name = fields.text("name")?.ok_or_else(missing("name"))?;
    let name = name.parse().map_err(|wrong| Refusal::invalid("name", wrong))?;
    let snapshot = fields.text(key)?.ok_or_else(missing(key))?;
    let snapshot_id = snapshot.parse().map_err(|_no_id| {
        let shown: String = snapshot.chars().take(80).collect();
        let text = format!("{key}: no snapshot `{shown}`; only this server's can be used");
        Refusal::new(ErrorCode::SnapshotNotFound, text)
    })?;
    Ok((name, snapshot_id))
}

#[cfg(test)]
mod tests {
    use tarn_types::UnixMillis;

    use super::*;

    #[test]
    fn lists_are_asked_for_in_the_words_of_both_families() {
        let cursor = Cursor { created_at: UnixMillis(5), id: ImageId::from_random([1; 16]) };
        for (query, page_size, after) in [
            (None, 1000, None),
            (Some("page_size=100"), 100, None),
            (Some("pageSize=5000&x=y"), 1000, None),
            (Some(&*format!("page_size=7&cursor={cursor}")), 7, Some(&cursor)),
            (Some(&*format!("pageSize=99999999999999999999&next={cursor}")), 1000, Some(&cursor)),
        ] {
            let expected = ListImages { page_size, after: after.cloned() };
            assert_eq!(ListImages::parse(query), Ok(expected), "{query:?}");
        }
        for query in ["page_size=0", "pageSize=-1", "cursor=x", "next=MQ"] {
            let refusal = ListImages::parse(Some(query)).expect_err(query);
            let key = query.split('=').next().unwrap_or_default();
            assert!(refusal.to_string().starts_with(key), "{query}: {refusal}");
        }
    }

    #[test]
    fn a_registration_names_its_snapshot() {
        let id = SnapshotId::from_random([1; 16]);
        let body = format!(
            r#"{{"name":"App","dockerfile":"FROM x","snapshotId":"{id}","snapshotSandboxId":"",
                "snapshotUri":"s3://x","snapshotSizeBytes":1,"rootfsDiskBytes":2,"public":true}}"#
        );
        let parsed = RegisterImage::parse(body.as_bytes()).expect("good");
        let value = parsed.value;
        assert_eq!((value.name.as_str(), &value.snapshot_id, value.public), ("app", &id, true));
        assert_eq!(value.snapshot_sandbox_id, None);
        assert_eq!(parsed.ignored, ["rootfsDiskBytes", "snapshotSizeBytes", "snapshotUri"]);
        let body = format!(r#"{{"name":"App","snapshot_id":"{id}","x":1}}"#);
        let parsed = RegisterCasImage::parse(body.as_bytes()).expect("good");
        assert_eq!((parsed.value.name.as_str(), parsed.value.public), ("app", false));
        assert_eq!((parsed.value.snapshot_id, parsed.ignored), (id, vec!["x".to_owned()]));
        let refusal = RegisterCasImage::parse(br#"{"name":"a","snapshotId":"x"}"#);
        let refusal = refusal.expect_err("the other family's word");
        assert_eq!(refusal.to_string(), "snapshot_id: is missing");
        for (body, start) in [
            ("{}", "name: is missing"),
            (r#"{"name":"a b"}"#, "name: an image name holds"),
            (r#"{"name":"a"}"#, "snapshotId: is missing"),
            (r#"{"name":"a","snapshotId":"x"}"#, "snapshotId: no snapshot `x`"),
        ] {
            let refusal = RegisterImage::parse(body.as_bytes()).expect_err(body);
            assert!(refusal.to_string().starts_with(start), "{body}: {refusal}");
        }
    }
}
