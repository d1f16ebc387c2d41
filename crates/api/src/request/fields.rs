//! Reads the fields of a JSON object one by one, and says exactly which of them is wrong.
//!
//! Not serde's derive: its errors name neither the path nor what would be right, it reads `1.0`
//! and `1` alike through `Value`, and `null` must equal absent here (spec 00 §5).

use serde_json::{Map, Value};

use crate::Refusal;

/// How many ignored keys are remembered, and how many characters of each: they go to a log.
const MAX_IGNORED: usize = 16;
const MAX_IGNORED_LENGTH: usize = 64;

/// An object whose fields are taken by name.
pub(crate) struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

/// A value and where it stands.
pub(crate) struct Item<'a> {
    pub(crate) path: String,
    value: &'a Value,
}

/// Reads a body as JSON; an empty one is an empty object, since every field is optional.
pub(crate) fn parse_body(body: &[u8]) -> Result<Value, Refusal> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Object(Map::new()));
    }
    serde_json::from_slice(body)
        .map_err(|wrong| Refusal::invalid("body", format!("not JSON: {wrong}")))
}

// === impl Fields ===

impl<'a> Fields<'a> {
    /// Takes the body itself, which must be an object.
    pub(crate) fn of_body(body: &'a Value) -> Result<Self, Refusal> {
        Item::of_body(body).object()
    }

    /// Returns the JSON path of a field.
    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Takes a field; `null` equals absent.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<Item<'a>> {
        self.known.push(key);
        let value = self.map.get(key).filter(|value| !value.is_null())?;
        Some(Item { path: self.path_of(key), value })
    }

    /// Says whether a field is there and `null`, for the routes where that has a meaning.
    pub(crate) fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    pub(crate) fn text(&mut self, key: &'static str) -> Result<Option<&'a str>, Refusal> {
        self.take(key).map(|item| item.text()).transpose()
    }

    pub(crate) fn boolean(&mut self, key: &'static str) -> Result<Option<bool>, Refusal> {
        self.take(key).map(|item| item.boolean()).transpose()
    }

    pub(crate) fn unsigned(&mut self, key: &'static str) -> Result<Option<u64>, Refusal> {
        self.take(key).map(|item| item.unsigned()).transpose()
    }

    pub(crate) fn list(&mut self, key: &'static str) -> Result<Option<Vec<Item<'a>>>, Refusal> {
        self.take(key).map(|item| item.list()).transpose()
    }

    pub(crate) fn object(&mut self, key: &'static str) -> Result<Option<Fields<'a>>, Refusal> {
        self.take(key).map(|item| item.object()).transpose()
    }

    /// Takes a list of strings.
    pub(crate) fn texts(&mut self, key: &'static str) -> Result<Option<Vec<&'a str>>, Refusal> {
        let Some(items) = self.list(key)? else { return Ok(None) };
        items.iter().map(Item::text).collect::<Result<_, _>>().map(Some)
    }

    /// Adds the keys that nobody took to `ignored`.
    pub(crate) fn note_unknown(&self, ignored: &mut Vec<String>) {
        for key in self.unknown() {
            if ignored.len() >= MAX_IGNORED {
                return;
            }
            ignored.push(self.path_of(&shorten(key)));
        }
    }

    /// Refuses keys that nobody took.
    pub(crate) fn refuse_unknown(&self) -> Result<(), Refusal> {
        match self.unknown().next() {
            None => Ok(()),
            Some(key) => {
                let known = self.known.join("`, `");
                let reason = format!("unknown key; known are `{known}`");
                Err(Refusal::invalid(&self.path_of(&shorten(key)), reason))
            }
        }
    }

    fn unknown(&self) -> impl Iterator<Item = &'a str> {
        self.map.keys().map(String::as_str).filter(|key| !self.known.contains(key))
    }
}

// === impl Item ===

impl<'a> Item<'a> {
    /// Takes the body itself.
    pub(crate) fn of_body(body: &'a Value) -> Self {
        Self { path: String::new(), value: body }
    }

    pub(crate) fn text(&self) -> Result<&'a str, Refusal> {
        self.value.as_str().ok_or_else(|| self.wrong("a string"))
    }

    pub(crate) fn boolean(&self) -> Result<bool, Refusal> {
        self.value.as_bool().ok_or_else(|| self.wrong("true or false"))
    }

    /// Takes a whole number; `1.0` is none, as the clients' own parsers hold it (spec 00 §5).
    pub(crate) fn integer(&self) -> Result<i64, Refusal> {
        self.value.as_i64().ok_or_else(|| self.wrong("an integer of at most 64 bits"))
    }

    /// Takes a whole number that is not negative.
    pub(crate) fn unsigned(&self) -> Result<u64, Refusal> {
        let number = self.integer()?;
        u64::try_from(number).map_err(|_negative| {
            Refusal::invalid(&self.path, format!("must not be negative, this is {number}"))
        })
    }

    pub(crate) fn number(&self) -> Result<f64, Refusal> {
        self.value.as_f64().ok_or_else(|| self.wrong("a number"))
    }

    pub(crate) fn list(&self) -> Result<Vec<Item<'a>>, Refusal> {
        let values = self.value.as_array().ok_or_else(|| self.wrong("a list"))?;
        Ok(values
            .iter()
            .enumerate()
            .map(|(index, value)| Item { path: format!("{}[{index}]", self.path), value })
            .collect())
    }

    pub(crate) fn object(&self) -> Result<Fields<'a>, Refusal> {
        let map = self.value.as_object().ok_or_else(|| self.wrong("an object"))?;
        Ok(Fields { path: self.path.clone(), map, known: Vec::new() })
    }

    /// Takes it as what serde makes of it, if it does.
    pub(crate) fn decode<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_value(self.value.clone()).ok()
    }

    fn wrong(&self, wanted: &str) -> Refusal {
        let got = match self.value {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Number(value) => value.to_string(),
            Value::String(_) => "a string".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "an object".to_owned(),
        };
        let path = if self.path.is_empty() { "body" } else { &self.path };
        Refusal::invalid(path, format!("must be {wanted}, not {got}"))
    }
}

fn shorten(key: &str) -> String {
    key.chars().take(MAX_IGNORED_LENGTH).collect()
}
