//! Words: quotes, escapes, and variables put in.

/// How deep `${a:-${b:-…}}` may go.
const MAX_DEPTH: usize = 16;

/// The most bytes that a word may become.
const MAX_WORD: usize = 256 << 10;

/// Where the values of variables come from.
pub(crate) type Values<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Splits at white space that is neither quoted nor escaped; quotes stay.
pub(crate) fn split_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, after) = rest.split_at(word_end(rest, escape));
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

/// Returns where the word ends that a text begins with.
pub(crate) fn word_end(text: &str, escape: char) -> usize {
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            return at;
        }
        if c == escape && quote != Some('\'') {
            chars.next();
        } else if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && (c == '"' || c == '\'') {
            quote = Some(c);
        }
    }
    text.len()
}

/// Replaces the variables of a word and removes its quotes.
pub(crate) fn expand(text: &str, escape: char, values: Values<'_>) -> Result<String, String> {
    let mut chars = Chars { rest: text, escape };
    let out = chars.word(values, Until::End, 0)?;
    bounded(out)
}

/// Replaces the variables of a text in which quotes mean nothing, as in a here-document.
pub(crate) fn expand_text(text: &str, escape: char, values: Values<'_>) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = Chars { rest: text, escape };
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str(&chars.variable(values, 0)?),
            c if c == escape => match chars.peek() {
                Some(next) if next == '$' || next == escape => out.extend(chars.next()),
                _ => out.push(c),
            },
            c => out.push(c),
        }
        if out.len() > MAX_WORD * 4 {
            return Err("it becomes too long".to_owned());
        }
    }
    Ok(out)
}

fn bounded(out: String) -> Result<String, String> {
    if out.len() > MAX_WORD {
        return Err(format!("it becomes longer than {MAX_WORD} bytes"));
    }
    Ok(out)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    End,
    Brace,
}

struct Chars<'a> {
    rest: &'a str,
    escape: char,
}

// === impl Chars ===

impl Chars<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn word(&mut self, values: Values<'_>, until: Until, depth: usize) -> Result<String, String> {
        let mut out = String::new();
        while let Some(c) = self.next() {
            if out.len() > MAX_WORD {
                break;
            }
            match c {
                '}' if until == Until::Brace => return Ok(out),
                '\'' => self.single(&mut out)?,
                '"' => self.double(&mut out, values, depth)?,
                '$' => out.push_str(&self.variable(values, depth)?),
                c if c == self.escape => match self.next() {
                    Some(next) => out.push(next),
                    None => out.push(c),
                },
                c => out.push(c),
            }
        }
        match until {
            _ if out.len() > MAX_WORD => bounded(out),
            Until::End => Ok(out),
            Until::Brace => Err("a `${` is not closed".to_owned()),
        }
    }

    fn single(&mut self, out: &mut String) -> Result<(), String> {
        let Some((inside, rest)) = self.rest.split_once('\'') else {
            return Err("a ' is not closed".to_owned());
        };
        out.push_str(inside);
        self.rest = rest;
        Ok(())
    }

    fn double(&mut self, out: &mut String, values: Values<'_>, depth: usize) -> Result<(), String> {
        while let Some(c) = self.next() {
            if out.len() > MAX_WORD {
                return Err(format!("it becomes longer than {MAX_WORD} bytes"));
            }
            match c {
                '"' => return Ok(()),
                '$' => out.push_str(&self.variable(values, depth)?),
                c if c == self.escape => match self.peek() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => {
                        out.extend(self.next());
                    }
                    _ => out.push(c),
                },
                c => out.push(c),
            }
        }
        Err("a \" is not closed".to_owned())
    }

    /// Reads what follows a dollar sign.
    fn variable(&mut self, values: Values<'_>, depth: usize) -> Result<String, String> {
        if depth > MAX_DEPTH {
            return Err(format!("variables lie deeper than {MAX_DEPTH} in each other"));
        }
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(values(&name).unwrap_or_default());
        }
        self.next();
        let name = self.name();
        if name.is_empty() {
            return Err("`${` is followed by no name".to_owned());
        }
        let value = values(&name);
        let (empty_counts, kind) = match self.next() {
            Some('}') => return Ok(value.unwrap_or_default()),
            Some(':') => (false, self.next()),
            other => (true, other),
        };
        let there = value.filter(|value| empty_counts || !value.is_empty());
        match kind {
            Some('-') => {
                let word = self.word(values, Until::Brace, depth + 1)?;
                Ok(there.unwrap_or(word))
            }
            Some('+') => {
                let word = self.word(values, Until::Brace, depth + 1)?;
                Ok(there.map(|_| word).unwrap_or_default())
            }
            Some('?') => {
                let word = self.word(values, Until::Brace, depth + 1)?;
                there.ok_or_else(|| {
                    let mut said = format!("`{name}` is not set");
                    if !word.is_empty() {
                        said.push_str(": ");
                        said.push_str(&word);
                    }
                    said
                })
            }
            other => {
                let shown = other.map(String::from).unwrap_or_default();
                Err(format!(
                    "`${{{name}{shown}…}}` is not understood; there are `:-`, `:+` and `:?`, \
                     with and without the colon"
                ))
            }
        }
    }

    fn name(&mut self) -> String {
        let begins = |c: char| c.is_ascii_alphabetic() || c == '_';
        if !self.peek().is_some_and(begins) {
            return String::new();
        }
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        let name = name.to_owned();
        self.rest = rest;
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(name: &str) -> Option<String> {
        match name {
            "A" => Some("one".to_owned()),
            "E" => Some(String::new()),
            "S" => Some("a b".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_put_in() {
        for (text, expected) in [
            ("x", "x"),
            ("$A", "one"),
            ("${A}b", "oneb"),
            ("$A/$A", "one/one"),
            ("$N", ""),
            ("${N:-two}", "two"),
            ("${E:-two}", "two"),
            ("${E-two}", ""),
            ("${N:-${M:-$A}}", "one"),
            ("${A:+x}", "x"),
            ("${E:+x}", ""),
            ("${E+x}", "x"),
            ("${A:?no}", "one"),
            ("'$A'", "$A"),
            ("\"$S\"", "a b"),
            ("\\$A", "$A"),
            ("\"\\$A\"", "$A"),
            ("\"a\\n\"", "a\\n"),
            ("a\\ b", "a b"),
            ("$", "$"),
            ("$1", "$1"),
            ("a\"b c\"d", "ab cd"),
        ] {
            assert_eq!(expand(text, '\\', &values).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in ["${", "${}", "${A", "${A#x}", "${N:?gone}", "'a", "\"a", "${A:-"] {
            assert!(expand(text, '\\', &values).is_err(), "{text}");
        }
        let gone = expand("${N:?gone}", '\\', &values).expect_err("it is not set");
        assert!(gone.contains("gone"), "{gone}");
    }

    #[test]
    fn a_text_keeps_its_quotes() {
        let text = expand_text("\"$A\" \\$A 'x' \\n\n", '\\', &values);
        assert_eq!(text.as_deref(), Ok("\"one\" $A 'x' \\n\n"));
    }

    #[test]
    fn words_are_split() {
        for (text, words) in [
            ("a b  c", &["a", "b", "c"][..]),
            ("a=\"x y\" b='p q'", &["a=\"x y\"", "b='p q'"]),
            ("a\\ b c", &["a\\ b", "c"]),
            ("", &[]),
        ] {
            assert_eq!(split_words(text, '\\'), words, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in ".{0,40}") {
            drop(expand(&text, '\\', &values));
            drop(expand_text(&text, '\\', &values));
            drop(split_words(&text, '\\'));
            drop(crate::Dockerfile::parse(&text, &std::collections::BTreeMap::new()));
        }
    }
}
