//! `POST P/sandboxes/{sid}/snapshot` (spec 02 §2).

use tarn_types::SnapshotKind;
use utoipa::ToSchema;

use super::{
    Parsed,
    fields::{Fields, Item, parse_body},
};
use crate::Refusal;

/// A request for a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(as = CreateSnapshotRequest)]
pub struct CreateSnapshot {
    /// `filesystem` (the default): files; `memory`: files, memory and processes.
    #[schema(value_type = Option<String>, example = "memory")]
    pub snapshot_type: SnapshotKind,
}

// === impl CreateSnapshot ===

impl CreateSnapshot {
    /// Reads a request's body; an empty one asks for the files alone. The word of older clients,
    /// `snapshot_content_mode`, is understood.
    ///
    /// # Errors
    /// Fails when the type is not known, or the two words contradict each other.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        const MODE: &str = "snapshot_content_mode";
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let named = fields.take("snapshot_type").map(|item| kind(&item)).transpose()?;
        let mode = fields.take(MODE).map(|item| content(&item)).transpose()?;
        if let (Some(named), Some(mode)) = (named, mode)
            && named != mode
        {
            let reason = format!("contradicts `{MODE}`; send one");
            return Err(Refusal::invalid("snapshot_type", reason));
        }
        let mut ignored = Vec::new();
        fields.note_unknown(&mut ignored);
        let snapshot_type = named.or(mode).unwrap_or(SnapshotKind::Filesystem);
        Ok(Parsed { value: Self { snapshot_type }, ignored })
    }
}

fn kind(item: &Item<'_>) -> Result<SnapshotKind, Refusal> {
    let text = item.text()?;
    [SnapshotKind::Filesystem, SnapshotKind::Memory]
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| Refusal::invalid(&item.path, "must be `filesystem` or `memory`"))
}

fn content(item: &Item<'_>) -> Result<SnapshotKind, Refusal> {
    match item.text()? {
        "full" => Ok(SnapshotKind::Memory),
        "filesystem_only" => Ok(SnapshotKind::Filesystem),
        _ => Err(Refusal::invalid(&item.path, "must be `full` or `filesystem_only`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorCode;

    #[test]
    fn the_type_is_read_in_both_its_words() {
        let table = [
            ("", SnapshotKind::Filesystem),
            ("{}", SnapshotKind::Filesystem),
            (r#"{"snapshot_type":null}"#, SnapshotKind::Filesystem),
            (r#"{"snapshot_type":"filesystem"}"#, SnapshotKind::Filesystem),
            (r#"{"snapshot_type":"memory"}"#, SnapshotKind::Memory),
            (r#"{"snapshot_content_mode":"full"}"#, SnapshotKind::Memory),
            (r#"{"snapshot_content_mode":"filesystem_only"}"#, SnapshotKind::Filesystem),
            (r#"{"snapshot_type":"memory","snapshot_content_mode":"full"}"#, SnapshotKind::Memory),
        ];
        for (body, expected) in table {
            let parsed = CreateSnapshot::parse(body.as_bytes()).expect(body);
            assert_eq!(parsed.value.snapshot_type, expected, "{body}");
        }
    }

    #[test]
    fn an_unknown_type_is_refused_with_its_path() {
        let table = [
            (r#"{"snapshot_type":"disk"}"#, "snapshot_type: must be `filesystem` or `memory`"),
            (r#"{"snapshot_type":""}"#, "snapshot_type: must be"),
            (r#"{"snapshot_type":1}"#, "snapshot_type: must be a string, not 1"),
            (r#"{"snapshot_content_mode":"half"}"#, "snapshot_content_mode: must be `full` or"),
            (
                r#"{"snapshot_type":"filesystem","snapshot_content_mode":"full"}"#,
                "snapshot_type: contradicts",
            ),
            ("[]", "body: must be an object"),
            ("memory", "body: not JSON"),
        ];
        for (body, start) in table {
            let refusal = CreateSnapshot::parse(body.as_bytes()).expect_err(body);
            assert_eq!(refusal.code(), ErrorCode::InvalidRequest, "{body}");
            assert!(refusal.to_string().starts_with(start), "{body}: {refusal}");
        }
    }
}
