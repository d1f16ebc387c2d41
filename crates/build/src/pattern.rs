//! Patterns for paths, as `COPY` has them: `*` and `?` match no slash, `[a-z]` one character of a
//! set, `[^a-z]` one of no set; a backslash takes the meaning away.

/// A path in which some characters stand for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    One(char),
    AnyOne,
    Any,
    Set { ranges: Vec<(char, char)>, negated: bool },
}

// === impl Pattern ===

impl Pattern {
    /// Reads a pattern. What looks like a set and is none means itself.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(c) = chars.get(at) {
            at += 1;
            match c {
                '*' => {
                    if tokens.last() != Some(&Token::Any) {
                        tokens.push(Token::Any);
                    }
                }
                '?' => tokens.push(Token::AnyOne),
                '\\' if at < chars.len() => {
                    tokens.push(Token::One(chars[at]));
                    at += 1;
                }
                '[' => match set(&chars[at..]) {
                    Some((set, used)) => {
                        tokens.push(set);
                        at += used;
                    }
                    None => tokens.push(Token::One('[')),
                },
                c => tokens.push(Token::One(*c)),
            }
        }
        Self(tokens)
    }

    /// Returns the path that it means, if it means one alone.
    #[must_use]
    pub fn literal(&self) -> Option<String> {
        let chars = self.0.iter().map(|token| match token {
            Token::One(c) => Some(*c),
            Token::AnyOne | Token::Any | Token::Set { .. } => None,
        });
        chars.collect()
    }

    /// Says whether it stands for a whole path. Takes a time that grows with the product of their
    /// lengths at most.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let path: Vec<char> = path.chars().collect();
        let (mut token, mut at) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        while at < path.len() {
            let c = path[at];
            match self.0.get(token) {
                Some(Token::Any) => {
                    retry = Some((token + 1, at));
                    token += 1;
                    continue;
                }
                Some(one) if one.takes(c) => {
                    token += 1;
                    at += 1;
                    continue;
                }
                Some(_) | None => {}
            }
            match retry {
                Some((after, from)) if path[from] != '/' => {
                    retry = Some((after, from + 1));
                    token = after;
                    at = from + 1;
                }
                Some(_) | None => return false,
            }
        }
        self.0[token..].iter().all(|token| *token == Token::Any)
    }
}

// === impl Token ===

impl Token {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::One(one) => *one == c,
            Self::AnyOne => c != '/',
            Self::Any => false,
            Self::Set { ranges, negated } => {
                c != '/' && ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

fn set(chars: &[char]) -> Option<(Token, usize)> {
    let mut at = 0;
    let negated = chars.first() == Some(&'^');
    if negated {
        at += 1;
    }
    let mut ranges = Vec::new();
    loop {
        let c = *chars.get(at)?;
        at += 1;
        if c == ']' && !ranges.is_empty() {
            return Some((Token::Set { ranges, negated }, at));
        }
        if chars.get(at) == Some(&'-') && chars.get(at + 1).is_some_and(|c| *c != ']') {
            ranges.push((c, *chars.get(at + 1)?));
            at += 2;
        } else {
            ranges.push((c, c));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_paths() {
        for (pattern, path, matches) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "a", true),
            ("*", "a/b", false),
            ("*/b", "a/b", true),
            ("*.py", "x.py", true),
            ("*.py", "d/x.py", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("[", "[", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXbY", false),
            ("**", "ab", true),
        ] {
            assert_eq!(Pattern::new(pattern).matches(path), matches, "{pattern} {path}");
        }
        assert_eq!(Pattern::new("a\\*b").literal().as_deref(), Some("a*b"));
        assert_eq!(Pattern::new("a*b").literal(), None);
    }

    #[test]
    fn no_pattern_takes_long() {
        let path = "a".repeat(4096);
        for pattern in [
            "*a".repeat(2048),
            format!("{}b", "*a".repeat(2047)),
            "[a-b]*".repeat(600),
            format!("*{}b", "a".repeat(2000)),
        ] {
            assert_eq!(Pattern::new(&pattern).matches(&path), !pattern.ends_with('b'));
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(pattern in ".{0,20}", path in ".{0,20}") {
            let _matches = Pattern::new(&pattern).matches(&path);
        }
    }
}
