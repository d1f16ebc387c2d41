//! Query strings: `application/x-www-form-urlencoded` text.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::Refusal;

/// A key and a value, decoded.
pub(super) type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// Decodes every pair, in order.
pub(super) fn pairs(query: &str) -> Result<Vec<Pair<'_>>, Refusal> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(key)?, decode(value)?))
        })
        .collect()
}

fn decode(text: &str) -> Result<Cow<'_, str>, Refusal> {
    let invalid = |_| Refusal::invalid("query", "is not UTF-8 once decoded");
    if !text.contains('+') {
        return percent_decode_str(text).decode_utf8().map_err(invalid);
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().map_err(invalid)?;
    Ok(Cow::Owned(decoded.into_owned()))
}
