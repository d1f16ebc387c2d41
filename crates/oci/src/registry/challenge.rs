//! What a registry wants before it answers: the header `WWW-Authenticate` (RFC 9110 §11.6.1).

/// One way to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// With a token from elsewhere.
    Bearer {
        /// The URL that gives tokens.
        realm: String,
        /// What the token is for.
        service: Option<String>,
        /// What it shall let us do.
        scope: Option<String>,
    },
    /// With user name and password.
    Basic,
}

// === impl Challenge ===

impl Challenge {
    /// Reads the challenges of a header; those of other kinds are left out.
    pub(crate) fn parse_all(header: &str) -> Vec<Self> {
        let mut challenges = Vec::new();
        let mut scheme = String::new();
        let mut parameters: Vec<(String, String)> = Vec::new();
        let mut rest = header;
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            if word.is_empty() && after.is_empty() {
                challenges.extend(Self::new(&scheme, &parameters));
                return challenges;
            }
            let Some(value) = after.trim_start().strip_prefix('=') else {
                // A word without a value begins a challenge.
                challenges.extend(Self::new(&scheme, &parameters));
                scheme = word.to_ascii_lowercase();
                parameters.clear();
                rest = after;
                continue;
            };
            let (value, after) = take_value(value.trim_start());
            parameters.push((word.to_ascii_lowercase(), value));
            rest = after;
        }
    }

    fn new(scheme: &str, parameters: &[(String, String)]) -> Option<Self> {
        let get = |name: &str| {
            let mut found = parameters.iter().filter(|(key, _)| key == name);
            found.next().map(|(_, value)| value.clone())
        };
        match scheme {
            "bearer" => Some(Self::Bearer {
                realm: get("realm")?,
                service: get("service"),
                scope: get("scope"),
            }),
            "basic" => Some(Self::Basic),
            _ => None,
        }
    }
}

/// Takes a word or a quoted string off the beginning.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(character),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        };
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull,push""#;
        let scope = Some("repository:library/alpine:pull,push");
        let cases = [
            (hub, vec![bearer("https://auth.docker.io/token", Some("registry.docker.io"), scope)]),
            (r#"Basic realm="Registry Realm""#, vec![Challenge::Basic]),
            (r#"basic"#, vec![Challenge::Basic]),
            (
                r#"Negotiate, Basic realm="x, y", BEARER Realm = "u\"v" , service=s"#,
                vec![Challenge::Basic, bearer("u\"v", Some("s"), None)],
            ),
            (r#"Bearer service="no realm""#, vec![]),
            (r#"Bearer realm="unfinished"#, vec![bearer("unfinished", None, None)]),
            (r#"Digest qop="auth""#, vec![]),
            ("", vec![]),
            (" , ,= =,", vec![]),
            ("\"\"\"=", vec![]),
        ];
        for (header, challenges) in cases {
            assert_eq!(Challenge::parse_all(header), challenges, "{header}");
        }
    }
}
