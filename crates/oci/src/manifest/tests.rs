use super::*;

const HEX: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn descriptor(media_type: &str, size: u64) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{HEX}","size":{size}}}"#)
}

fn image(config: &str, layers: &[String]) -> String {
    format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(","))
}

fn machine() -> Platform {
    Platform { architecture: "amd64".to_owned(), os: "linux".to_owned(), variant: None }
}

fn listed(platforms: &[Option<(&str, &str, Option<&str>)>]) -> Vec<Descriptor> {
    let entries = platforms.iter().enumerate().map(|(size, platform)| Descriptor {
        media_type: OCI_MANIFEST.to_owned(),
        digest: HEX.parse().unwrap(),
        size: size as u64,
        platform: platform.map(|(os, architecture, variant)| Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }),
        annotations: Default::default(),
    });
    entries.collect()
}

#[test]
fn what_is_an_image_passes() {
    for (config, layer) in [
        (CONFIGS[0], "application/vnd.oci.image.layer.v1.tar+gzip"),
        (CONFIGS[0], "application/vnd.oci.image.layer.v1.tar+zstd"),
        (CONFIGS[0], "application/vnd.oci.image.layer.v1.tar"),
        (CONFIGS[1], "application/vnd.docker.image.rootfs.diff.tar.gzip"),
    ] {
        let text = image(&descriptor(config, 2), &[descriptor(layer, 9)]);
        let Document::Manifest(manifest) = Document::parse(text.as_bytes()).unwrap() else {
            panic!("{text}")
        };
        manifest.check(&Bounds::default()).unwrap();
        assert_eq!(manifest.layers[0].size, 9);
    }
}

#[test]
fn hostile_and_foreign_manifests_are_refused() {
    let config = descriptor(CONFIGS[0], 2);
    let layer = descriptor("application/vnd.oci.image.layer.v1.tar+gzip", 1 << 20);
    let bounds = Bounds { layers: 3, fetched_bytes: 2 << 20, ..Bounds::default() };
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let cases = [
        String::new(),
        "null".to_owned(),
        "{}".to_owned(),
        r#"{"schemaVersion":2}"#.to_owned(),
        r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(),
        // Both an image and an index.
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"manifests":[]}}"#),
        format!(r#"{{"schemaVersion":2,"config":{config}}}"#),
        // One that calls itself the other.
        format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","config":{config},"layers":[]}}"#),
        format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","manifests":[]}}"#),
        image(&config.replace(HEX, "sha256:../../../../etc/passwd"), &[]),
        image(&config.replace(HEX, "md5:d41d8cd98f00b204e9800998ecf8427e"), &[]),
        image(&config.replace("\"size\":2", "\"size\":-1"), &[]),
        image(&config.replace("\"size\":2", "\"size\":1e3"), &[]),
        image(&config.replace("\"size\":2", "\"size\":99999999999999999999"), &[]),
        image(&descriptor(CONFIGS[0], 1 << 40), &[]),
        image(&descriptor("application/vnd.unknown", 2), &[]),
        image(&config, &[descriptor("application/vnd.docker.plugin", 1)]),
        image(&config, &[descriptor(&format!("{FOREIGN}.gzip"), 1)]),
        image(&config, &vec![layer.clone(); 4]),
        image(&config, &vec![layer; 3]),
        image(&config, &vec![descriptor(LAYERS[0], u64::MAX); 2]),
        image(&deep, &[]),
    ];
    for text in cases {
        let read = Document::parse(text.as_bytes()).and_then(|document| match document {
            Document::Manifest(manifest) => manifest.check(&bounds),
            Document::Index(_) => Ok(()),
        });
        assert!(read.is_err(), "{}", text.chars().take(200).collect::<String>());
    }
}

#[test]
fn an_index_gives_what_runs_here() {
    let unknown = Some(("unknown", "unknown", None));
    for (platforms, chosen) in [
        (vec![Some(("linux", "arm64", Some("v8"))), Some(("linux", "amd64", None))], Some(1)),
        (vec![Some(("windows", "amd64", None)), Some(("linux", "amd64", None))], Some(1)),
        (vec![Some(("linux", "amd64", Some("v3"))), Some(("linux", "amd64", Some("v1")))], Some(1)),
        (vec![unknown, Some(("linux", "amd64", None))], Some(1)),
        (vec![None], Some(0)),
        (vec![None, None], None),
        (vec![Some(("linux", "arm64", None)), unknown], None),
        (vec![], None),
    ] {
        let listed = listed(&platforms);
        let found = choose(&listed, &machine()).ok().map(|found| found.size);
        assert_eq!(found, chosen, "{platforms:?}");
    }
}
