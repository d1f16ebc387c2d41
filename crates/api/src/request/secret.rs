//! `PUT S/secrets` and the query of `GET S/secrets` (spec 08 §2).

use std::collections::BTreeSet;

use tarn_types::{SecretName, SecretValue, SecretValueError};
use utoipa::ToSchema;

use super::{
    Parsed,
    fields::{Fields, Item, parse_body},
    query::pairs,
};
use crate::Refusal;

/// How many secrets a page has that names no size: some clients follow no cursor.
const PAGE: usize = 1000;

/// The project of a request over the administrative socket that names none.
const DEFAULT_PROJECT: &str = "default";

/// Secrets to set, all or none. Its `Debug` output has no value in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutSecrets {
    /// Their names, each once, and values.
    pub secrets: Vec<(SecretName, SecretValue)>,
    /// Whether the body was a list, and the answer must be one.
    pub many: bool,
}

/// A secret to set.
#[derive(Debug, ToSchema)]
#[schema(as = PutSecretRequest)]
#[allow(dead_code, reason = "it is the schema of a body whose values no plain string must hold")]
pub(crate) struct PutSecret {
    /// The variable it becomes; unique in the project.
    #[schema(pattern = "^[A-Za-z_][A-Za-z0-9_]*$", max_length = 128)]
    name: String,
    /// The value: at most 64 KiB, no NUL. It is never returned.
    value: String,
}

/// A secret to set in a project that is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutProjectSecret {
    /// The project's name.
    pub project: String,
    /// The secret's name.
    pub name: SecretName,
    /// Its value.
    pub value: SecretValue,
}

/// Which page of secrets is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListSecrets {
    /// At most so many.
    pub page_size: usize,
    /// Where the page begins.
    pub from: SecretPlace,
}

/// Where a page of secrets begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretPlace {
    /// At the first.
    Start,
    /// After that name.
    After(String),
    /// It ends before that name.
    Before(String),
}

// === impl PutSecrets ===

impl PutSecrets {
    /// Reads a request's body: one secret, or a list of them.
    ///
    /// # Errors
    /// Names the first field that is missing or cannot be what it is; never repeats a value.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let root = Item::of_body(&body);
        let mut ignored = Vec::new();
        if !body.is_array() {
            let mut fields = root.object()?;
            let secret = secret(&mut fields)?;
            fields.note_unknown(&mut ignored);
            return Ok(Parsed { value: Self { secrets: vec![secret], many: false }, ignored });
        }
        let mut secrets: Vec<(SecretName, SecretValue)> = Vec::new();
        let mut seen = BTreeSet::new();
        for item in root.list()? {
            let mut fields = item.object()?;
            let (name, value) = secret(&mut fields)?;
            if !seen.insert(name.clone()) {
                return Err(Refusal::invalid(&fields.path_of("name"), "is in the list twice"));
            }
            fields.note_unknown(&mut ignored);
            secrets.push((name, value));
        }
        Ok(Parsed { value: Self { secrets, many: true }, ignored })
    }
}

// === impl PutProjectSecret ===

impl PutProjectSecret {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Names the first field that is missing or cannot be what it is; never repeats a value.
    pub fn parse(body: &[u8]) -> Result<Parsed<Self>, Refusal> {
        let body = parse_body(body)?;
        let mut fields = Fields::of_body(&body)?;
        let project = fields.text("project")?.unwrap_or(DEFAULT_PROJECT).to_owned();
        let (name, value) = secret(&mut fields)?;
        let mut ignored = Vec::new();
        fields.note_unknown(&mut ignored);
        Ok(Parsed { value: Self { project, name, value }, ignored })
    }
}

// === impl ListSecrets ===

impl ListSecrets {
    /// Reads a query string. An empty value equals an absent one; unknown keys are ignored.
    ///
    /// # Errors
    /// Names the first parameter that cannot be what it is.
    pub fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut list = Self { page_size: PAGE, from: SecretPlace::Start };
        for (key, value) in pairs(query.unwrap_or_default())? {
            if value.is_empty() {
                continue;
            }
            let place = match &*key {
                "pageSize" => {
                    list.page_size = page_size(&value)?;
                    continue;
                }
                "next" => SecretPlace::After(value.into_owned()),
                "prev" => SecretPlace::Before(value.into_owned()),
                _ => continue,
            };
            if list.from != SecretPlace::Start {
                return Err(Refusal::invalid(&key, "give one of `next` and `prev`, once"));
            }
            list.from = place;
        }
        Ok(list)
    }
}

fn page_size(text: &str) -> Result<usize, Refusal> {
    match text.parse::<usize>() {
        Ok(size) if size > 0 => Ok(size.min(PAGE)),
        Ok(_) | Err(_) => Err(Refusal::invalid("pageSize", "must be a whole number of at least 1")),
    }
}

fn secret(fields: &mut Fields<'_>) -> Result<(SecretName, SecretValue), Refusal> {
    // Neither is repeated in an answer: who mixes them up must not find the value in a log.
    let mut text = |key: &'static str| {
        let path = fields.path_of(key);
        let item = fields.take(key).ok_or_else(|| Refusal::invalid(&path, "is missing"))?;
        let text = item.text().map_err(|_shown| Refusal::invalid(&path, "must be a string"))?;
        Ok::<_, Refusal>((path, text))
    };
    let (path, name) = text("name")?;
    let name = name.parse().map_err(|wrong| Refusal::invalid(&path, wrong))?;
    let (path, value) = text("value")?;
    let value = SecretValue::new(value.to_owned()).map_err(|wrong| match wrong {
        SecretValueError::Nul => Refusal::invalid(&path, wrong),
        SecretValueError::TooLong(_) => Refusal::limit(&path, wrong),
    })?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorCode;

    fn parse(body: &str) -> Result<PutSecrets, (ErrorCode, String)> {
        PutSecrets::parse(body.as_bytes())
            .map(|parsed| parsed.value)
            .map_err(|refusal| (refusal.code(), refusal.to_string()))
    }

    #[test]
    fn one_and_many_are_read() {
        let one = parse(r#"{"name":"A","value":"hush"}"#).expect("one");
        assert!(!one.many && !format!("{one:?}").contains("hush"), "{one:?}");
        assert_eq!((one.secrets[0].0.as_str(), one.secrets[0].1.reveal()), ("A", "hush"));
        let many = parse(r#"[{"name":"A","value":"1"},{"name":"B","value":""}]"#).expect("two");
        assert!(many.many && many.secrets.len() == 2, "{many:?}");
        assert!(parse("[]").expect("none").secrets.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named_and_no_value_is_repeated() {
        let long = format!(r#"{{"name":"A","value":"{}"}}"#, "hush".repeat(16_385));
        let table = [
            ("", ErrorCode::InvalidRequest, "name: is missing"),
            (r#"{"name":"A"}"#, ErrorCode::InvalidRequest, "value: is missing"),
            (
                r#"{"name":"A","value":715517}"#,
                ErrorCode::InvalidRequest,
                "value: must be a string",
            ),
            (r#"{"name":715517,"value":""}"#, ErrorCode::InvalidRequest, "name: must be a string"),
            (r#"{"name":"hush!","value":""}"#, ErrorCode::InvalidRequest, "name: a secret's name"),
            (r#"{"name":"","value":""}"#, ErrorCode::InvalidRequest, "name: a secret's name"),
            (
                r#"{"name":"A","value":"hush\u0000"}"#,
                ErrorCode::InvalidRequest,
                "value: must not hold a NUL",
            ),
            (&long, ErrorCode::LimitExceeded, "value: 65540 bytes"),
            ("[7]", ErrorCode::InvalidRequest, "[0]: must be an object"),
            (
                r#"[{"name":"A","value":"hush"},{"name":"A","value":"hush"}]"#,
                ErrorCode::InvalidRequest,
                "[1].name: is in the list twice",
            ),
        ];
        for (body, code, text) in table {
            let (got, said) = parse(body).expect_err(body);
            assert!(got == code && said.starts_with(text), "{body}: {got} {said}");
            assert!(!said.contains("hush") && !said.contains("715517"), "{said}");
        }
    }

    #[test]
    fn pages_are_read() {
        let list = |query| ListSecrets::parse(query).map_err(|refusal| refusal.to_string());
        let from = |from| Ok(ListSecrets { page_size: PAGE, from });
        assert_eq!(list(None), from(SecretPlace::Start));
        assert_eq!(list(Some("pageSize=&next=&x=1")), from(SecretPlace::Start));
        assert_eq!(list(Some("next=A")), from(SecretPlace::After("A".to_owned())));
        assert_eq!(list(Some("prev=A")), from(SecretPlace::Before("A".to_owned())));
        assert_eq!(list(Some("pageSize=100")).map(|list| list.page_size), Ok(100));
        assert_eq!(list(Some("pageSize=5000")).map(|list| list.page_size), Ok(PAGE));
        for bad in ["pageSize=0", "pageSize=-1", "pageSize=x", "next=A&prev=B"] {
            assert!(list(Some(bad)).is_err(), "{bad}");
        }
    }
}
