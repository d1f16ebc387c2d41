use super::*;

#[test]
fn plain_http_goes_only_where_it_is_configured_or_began() {
    let configured = BTreeSet::from(["registry.lan:5000".to_owned()]);
    for (source, host, allowed) in [
        ("https://evil.example/", "127.0.0.1:8080", false),
        ("https://evil.example/", "localhost", false),
        ("https://evil.example/", "169.254.169.254", false),
        ("https://evil.example/", "evil.example", false),
        ("https://evil.example/", "registry.lan:5000", true),
        ("http://127.0.0.1:5000/", "127.0.0.1:5001", true),
        ("http://127.0.0.1:5000/", "169.254.169.254", false),
        ("http://registry.lan:5000/", "127.0.0.1:8080", false),
        ("http://mirror.lan/", "mirror.lan", true),
        ("http://mirror.lan/", "mirror.lan:81", false),
    ] {
        let source = Url::parse(source).unwrap();
        assert_eq!(may_be_plain(&configured, &source, host), allowed, "{source} to {host}");
    }
}

#[test]
fn a_registry_is_spoken_to_in_its_own_way() {
    let options = RegistryOptions {
        plain_http: BTreeSet::from(["registry.lan:5000".to_owned()]),
        mirrors: [(
            "docker.io".to_owned(),
            vec![Url::parse("https://m.example/hub/?x=1#y").unwrap()],
        )]
        .into(),
        ..RegistryOptions::default()
    };
    let http = clients(&RegistryOptions::default()).unwrap();
    for (name, trust, bases) in [
        (
            "alpine",
            Trust::Mirrors,
            vec![
                "https://m.example/hub/v2/library/alpine/",
                "https://registry-1.docker.io/v2/library/alpine/",
            ],
        ),
        ("alpine", Trust::RegistryAlone, vec!["https://registry-1.docker.io/v2/library/alpine/"]),
        ("ghcr.io/a/b", Trust::Mirrors, vec!["https://ghcr.io/v2/a/b/"]),
        ("registry.lan:5000/a", Trust::Mirrors, vec!["http://registry.lan:5000/v2/a/"]),
        ("localhost:5000/a", Trust::Mirrors, vec!["http://localhost:5000/v2/a/"]),
        ("localhost:443/a", Trust::Mirrors, vec!["https://localhost/v2/a/"]),
        ("10.0.0.1:5000/a", Trust::Mirrors, vec!["https://10.0.0.1:5000/v2/a/"]),
        ("[::1]:5000/a", Trust::Mirrors, vec!["http://[::1]:5000/v2/a/"]),
    ] {
        let reference: Reference = name.parse().unwrap();
        let session = Session::new(&http, &options, &reference, None, trust).unwrap();
        let found: Vec<_> = session.sources.iter().map(|source| source.base.as_str()).collect();
        assert_eq!(found, bases, "{name}");
    }
}
