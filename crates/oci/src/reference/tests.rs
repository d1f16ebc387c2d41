use proptest::prelude::*;

use super::*;

proptest! {
    /// Whatever passes can stand in an address, and reads as itself when it is written out.
    #[test]
    fn nothing_but_names_passes(text in r"[a-zA-Z0-9:/@._\[\]% \-\n\u{e4}]{0,40}|\PC{0,20}") {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference.clone());
            let clean = |text: &str| text.split('/').all(|part| !matches!(part, "" | "." | ".."));
            prop_assert!(clean(reference.repository()) && reference.tag().is_none_or(clean));
            let url = url::Url::parse(&format!("https://{}/v2/", reference.registry()));
            let url = url.map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert!(url.username().is_empty() && url.path() == "/v2/");
        }
    }
}

#[test]
fn names_get_docker_s_defaults() {
    let hex = "0123456789abcdef".repeat(4);
    let digest = format!("sha256:{hex}");
    let cases = [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/user/app:1", "docker.io/user/app:1"),
        ("ghcr.io/a/b/c:V1.2-x_3", "ghcr.io/a/b/c:V1.2-x_3"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("host:5000/app:tag", "host:5000/app:tag"),
        ("Host/app", "Host/app:latest"),
        ("GHCR.io/app", "ghcr.io/app:latest"),
        ("127.0.0.1:5000/a__b--c.d", "127.0.0.1:5000/a__b--c.d:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("[fd00::1]/app", "[fd00::1]/app:latest"),
        (&format!("alpine@{digest}"), &format!("docker.io/library/alpine@{digest}")),
        (&format!("a.b/c:t@{digest}"), &format!("a.b/c:t@{digest}")),
        (&format!("u/{hex}"), &format!("docker.io/u/{hex}:latest")),
    ];
    for (text, canonical) in cases {
        let reference: Reference = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(reference.to_string(), canonical, "{text}");
        // What is written out reads as itself.
        assert_eq!(canonical.parse::<Reference>().unwrap(), reference, "{text}");
    }
}

#[test]
fn what_no_registry_takes_is_refused_with_its_reason() {
    let hex = "0123456789abcdef".repeat(4);
    let long = format!("a.b/{}", "c".repeat(252));
    type IsExpected = fn(&ReferenceError) -> bool;
    let cases: [(&str, IsExpected); 34] = [
        ("", |e| matches!(e, ReferenceError::Empty(_))),
        (":tag", |e| matches!(e, ReferenceError::Empty(_))),
        ("host.io/", |e| matches!(e, ReferenceError::Empty(_))),
        ("/app", |e| matches!(e, ReferenceError::Repository(_))),
        ("app/", |e| matches!(e, ReferenceError::Repository(_))),
        ("a//b", |e| matches!(e, ReferenceError::Repository(_))),
        ("host.io/../etc", |e| matches!(e, ReferenceError::Repository(_))),
        ("host.io/a/../../b", |e| matches!(e, ReferenceError::Repository(_))),
        ("a/./b", |e| matches!(e, ReferenceError::Repository(_))),
        ("a/b..c", |e| matches!(e, ReferenceError::Repository(_))),
        ("App", |e| matches!(e, ReferenceError::Repository(_))),
        ("a/B", |e| matches!(e, ReferenceError::Repository(_))),
        ("a___b", |e| matches!(e, ReferenceError::Repository(_))),
        ("a._b", |e| matches!(e, ReferenceError::Repository(_))),
        ("-a", |e| matches!(e, ReferenceError::Repository(_))),
        ("a-", |e| matches!(e, ReferenceError::Repository(_))),
        ("a b", |e| matches!(e, ReferenceError::Repository(_))),
        ("a\0b", |e| matches!(e, ReferenceError::Repository(_))),
        ("a\r\nHost: x", |e| matches!(e, ReferenceError::Tag(_))),
        ("a?x=y", |e| matches!(e, ReferenceError::Repository(_))),
        ("a%2fb", |e| matches!(e, ReferenceError::Repository(_))),
        ("ä", |e| matches!(e, ReferenceError::Repository(_))),
        ("https://host.io/a", |e| matches!(e, ReferenceError::Registry(_))),
        ("user:secret@host.io/a", |e| matches!(e, ReferenceError::Digest(_))),
        ("host.io:0/a", |e| matches!(e, ReferenceError::Registry(_))),
        ("host.io:99999/a", |e| matches!(e, ReferenceError::Registry(_))),
        ("host..io/a", |e| matches!(e, ReferenceError::Registry(_))),
        ("-host.io/a", |e| matches!(e, ReferenceError::Registry(_))),
        ("a:", |e| matches!(e, ReferenceError::Tag(_))),
        ("a:.b", |e| matches!(e, ReferenceError::Tag(_))),
        ("a:b:c", |e| matches!(e, ReferenceError::Repository(_))),
        ("a@sha256:12", |e| matches!(e, ReferenceError::Digest(_))),
        (&hex, |e| matches!(e, ReferenceError::LooksLikeId(_))),
        (&long, |e| matches!(e, ReferenceError::TooLong)),
    ];
    for (text, is_expected) in cases {
        let error = text.parse::<Reference>().expect_err(text);
        assert!(is_expected(&error), "{text}: {error:?}");
    }
    let tag = format!("a:{}", "t".repeat(129));
    assert!(matches!(tag.parse::<Reference>(), Err(ReferenceError::Tag(_))));
}

#[test]
fn only_this_machine_is_loopback() {
    for (text, loopback) in [
        ("localhost/a", true),
        ("localhost:5000/a", true),
        ("127.0.0.1:5000/a", true),
        ("127.1.2.3/a", true),
        ("[::1]:80/a", true),
        ("10.0.0.1:5000/a", false),
        ("localhost.evil.com/a", false),
        ("127.0.0.1.evil.com/a", false),
        ("alpine", false),
    ] {
        assert_eq!(text.parse::<Reference>().unwrap().is_loopback(), loopback, "{text}");
    }
}
