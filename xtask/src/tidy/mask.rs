//! Blanks the text of comments, strings and characters, so that the rules read code alone.
//!
//! Not a parser: it knows just enough of the lexical grammar
//! (<https://doc.rust-lang.org/reference/tokens.html>) to say where literals and comments end.

/// Returns the source with the same bytes at the same places, and blanks for all that is not code.
pub(super) fn mask(source: &str) -> String {
    let mut masker = Masker { source: source.as_bytes(), code: source.as_bytes().to_vec(), at: 0 };
    masker.run();
    // Only whole literals and comments are blanked, each byte with one ASCII blank.
    String::from_utf8(masker.code).expect("blanks replace whole characters")
}

/// Tells whether a byte can be part of an identifier.
pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

struct Masker<'source> {
    source: &'source [u8],
    code: Vec<u8>,
    at: usize,
}

// === impl Masker ===

impl Masker<'_> {
    fn run(&mut self) {
        while self.at < self.source.len() {
            let rest = &self.source[self.at..];
            let length = match rest {
                [b'/', b'/', ..] => line_comment(rest),
                [b'/', b'*', ..] => block_comment(rest),
                [b'"', ..] => string(rest),
                [b'\'', ..] => character(rest),
                [b'r', ..] if !self.inside_word() => raw_string(rest, 1),
                [b'b' | b'c', b'r', ..] if !self.inside_word() => raw_string(rest, 2),
                _ => None,
            };
            match length {
                Some(length) => self.blank(length),
                None => self.at += 1,
            }
        }
    }

    fn inside_word(&self) -> bool {
        self.at > 0 && is_word(self.source[self.at - 1])
    }

    fn blank(&mut self, length: usize) {
        let end = (self.at + length).min(self.source.len());
        for byte in &mut self.code[self.at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        self.at = end;
    }
}

fn line_comment(rest: &[u8]) -> Option<usize> {
    Some(rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()))
}

fn block_comment(rest: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                at += 2;
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
    Some(rest.len())
}

fn string(rest: &[u8]) -> Option<usize> {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
    Some(rest.len())
}

/// A quote starts a character only when another closes it; else it starts a lifetime.
fn character(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        let close = rest.iter().skip(3).position(|byte| *byte == b'\'')?;
        return Some(close + 4);
    }
    let width = match rest.get(1)? {
        0x00..=0x7f => 1,
        0x80..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xff => 4,
    };
    (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
}

/// `prefix` letters, any number of `#`, and a quote; a raw identifier has no quote.
fn raw_string(rest: &[u8], prefix: usize) -> Option<usize> {
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    let open = prefix + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let body = &rest[open + 1..];
    let end = body.windows(close.len()).position(|window| window == close);
    Some(end.map_or(rest.len(), |end| open + 1 + end + close.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_are_blanked_in_place() {
        let cases = [
            ("a // b {\nc", "a       \nc"),
            ("a /* b /* { */ } */ c", "a                   c"),
            (r#"f("{ \" }") }"#, r"f(        ) }"),
            (r##"f(r#"{ " }"#) }"##, "f(          ) }"),
            ("r#fn + bar(b\"{\")", "r#fn + bar(b   )"),
            ("m('{', '\\'', '\\u{7d}', 'ü')", "m(   ,     ,         ,     )"),
            ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
            ("for\"x\"", "for   "),
        ];
        for (source, expected) in cases {
            let masked = mask(source);
            assert_eq!(masked, expected, "{source}");
            assert_eq!(masked.len(), source.len());
        }
    }

    #[test]
    fn what_is_never_closed_ends_with_the_file() {
        for source in ["\"abc", "/* abc", "r#\"abc\"", "'", "b'"] {
            assert_eq!(mask(source).len(), source.len());
        }
    }
}
