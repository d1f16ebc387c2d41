use std::time::Duration;

use super::*;

/// Writes an image; `json` without its digest.
fn write(assets: &Path, dir: &str, json: &str) -> anyhow::Result<PathBuf> {
    let image = assets.join("images").join(dir);
    fs::create_dir_all(image.join("rootfs"))?;
    let digest = format!(r#""digest":"sha256:{}""#, "ab".repeat(32));
    fs::write(image.join("image.json"), json.replace("DIGEST", &digest))?;
    Ok(image)
}

fn name(text: &str) -> ImageName {
    text.parse().expect("the name is good")
}

const WHOLE: &str = r#"{"format_version":1,DIGEST,
    "names":["tensorlake/ubuntu-minimal","tensorlake/debian-minimal"],"default":true,
    "config":{"env":["PATH=/bin","EMPTY=","EQ=a=b"],"user":"tl-user","working_dir":"",
    "entrypoint":[],"cmd":[]}}"#;

#[tokio::test]
async fn an_image_is_found_by_each_of_its_names() -> anyhow::Result<()> {
    let assets = tempfile::tempdir()?;
    let image = write(assets.path(), "abab", WHOLE)?;
    fs::write(assets.path().join("images/recipe-1234"), "abab")?;
    write(assets.path(), ".tmp-1", "draft")?;
    let images = StockImages::open(assets.path(), Tasks::new());
    assert_eq!(images.default_image(), name("tensorlake/ubuntu-minimal"));
    assert_eq!(images.names().await.len(), 2);
    let template = images.resolve(&name("tensorlake/debian-minimal")).await?;
    assert_eq!(template.root, image.join("rootfs"));
    let env = [("PATH", "/bin"), ("EMPTY", ""), ("EQ", "a=b")];
    let env = env.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(
        template.config,
        ImageConfig {
            env: env.to_vec(),
            user: Some("tl-user".to_owned()),
            ..ImageConfig::default()
        }
    );
    Ok(())
}

#[tokio::test]
async fn absent_fields_pass() -> anyhow::Result<()> {
    let assets = tempfile::tempdir()?;
    write(assets.path(), "a", r#"{"format_version":1,DIGEST,"names":["x"],"new":{}}"#)?;
    write(
        assets.path(),
        "b",
        r#"{"format_version":1,DIGEST,"names":["y"],"config":{"user":null}}"#,
    )?;
    let images = StockImages::open(assets.path(), Tasks::new());
    assert_eq!(images.resolve(&name("x")).await?.config, ImageConfig::default());
    assert_eq!(images.resolve(&name("y")).await?.config, ImageConfig::default());
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_is_said() -> anyhow::Result<()> {
    // (image.json, with its rootfs?, what the error says)
    let table = [
        (r#"{"format_version":2,DIGEST,"names":["tensorlake/x"]}"#, true, "format 2, not 1"),
        (r#"{DIGEST,"names":["tensorlake/x"]}"#, true, "no `format_version`"),
        (
            r#"{"format_version":1,"digest":"sha256:12","names":["tensorlake/x"]}"#,
            true,
            "64 hex digits",
        ),
        (r#"{"format_version":1,"names":["tensorlake/x"]}"#, true, "missing field `digest`"),
        (
            r#"{"format_version":1,DIGEST,"names":["tensorlake/x"],"config":{"env":["A"]}}"#,
            true,
            "NAME=value",
        ),
        (r#"{"format_version":1,DIGEST,"names":["tensorlake/x"]}"#, false, "`rootfs` is missing"),
        (r#"{"format_version":1,DIGEST,"names":"tensorlake/x"}"#, true, "invalid type"),
        (r#"{"format_ver"#, true, "not JSON"),
    ];
    for (json, rootfs, expected) in table {
        let assets = tempfile::tempdir()?;
        let image = write(assets.path(), "a", json)?;
        if !rootfs {
            fs::remove_dir(image.join("rootfs"))?;
        }
        let images = StockImages::open(assets.path(), Tasks::new());
        let error = images.resolve(&name("tensorlake/x")).await.expect_err(json).to_string();
        assert!(error.contains(expected), "{json}: {error}");
        assert!(error.contains("./x setup"), "{json}: {error}");
        assert!(images.names().await.is_empty(), "{json}");
    }
    Ok(())
}

#[tokio::test]
async fn without_images_the_setup_is_named_and_one_that_comes_is_found() -> anyhow::Result<()> {
    let assets = tempfile::tempdir()?;
    let images = StockImages::open(assets.path(), Tasks::new());
    let wanted = images.default_image();
    let error = images.resolve(&wanted).await.expect_err("there is none").to_string();
    assert!(error.contains("./x setup"), "{error}");

    write(assets.path(), "abab", WHOLE)?;
    images.resolve(&wanted).await?;
    let missing = images.resolve(&name("other")).await.expect_err("it has another name");
    assert!(matches!(missing, ImageError::NotFound { .. }), "{missing}");
    Ok(())
}

#[tokio::test]
async fn what_is_made_on_demand_says_how_until_it_is_there() -> anyhow::Result<()> {
    let assets = tempfile::tempdir()?;
    let desktop = name("tensorlake/ubuntu-vnc");
    let usable = |assets: &Path| -> anyhow::Result<Vec<bool>> {
        Ok(on_demand_images(assets)?.into_iter().map(|(_, usable)| usable).collect())
    };
    let images = StockImages::open(assets.path(), Tasks::new());
    // With the minimal image and without any.
    for _ in 0..2 {
        let error = images.resolve(&desktop).await.expect_err("it is not there");
        assert!(matches!(error, ImageError::NotBuilt { .. }), "{error}");
        assert!(error.to_string().contains("`./x image ubuntu-vnc`"), "{error}");
        assert_eq!(usable(assets.path())?, [false]);
        write(assets.path(), "abab", WHOLE)?;
    }

    let json = r#"{"format_version":1,DIGEST,"names":["tensorlake/ubuntu-vnc"],
        "config":{"entrypoint":["/start","it"]}}"#;
    write(assets.path(), "cdcd", json)?;
    let template = images.resolve(&desktop).await?;
    assert_eq!(template.config.entrypoint, ["/start", "it"]);
    assert_eq!(usable(assets.path())?, [true]);
    assert_eq!(images.default_image(), name("tensorlake/ubuntu-minimal"));
    Ok(())
}

#[tokio::test]
async fn of_two_images_with_a_name_the_one_written_last_counts() -> anyhow::Result<()> {
    let assets = tempfile::tempdir()?;
    for (dir, age) in [("old", 60), ("new", 0), ("older", 120)] {
        let image = write(assets.path(), dir, WHOLE)?;
        let file = fs::File::options().write(true).open(image.join("image.json"))?;
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(10_000 - age))?;
    }
    let images = StockImages::open(assets.path(), Tasks::new());
    let template = images.resolve(&images.default_image()).await?;
    assert!(template.root.ends_with("new/rootfs"), "{}", template.root.display());
    Ok(())
}

#[tokio::test]
async fn a_version_is_found_by_its_digest_though_a_newer_one_has_its_names() -> anyhow::Result<()> {
    let assets = tempfile::tempdir()?;
    let digest = |text: &str| format!("sha256:{}", text.repeat(32));
    for (dir, text, age) in [("old", "01", 60), ("new", "02", 0)] {
        let image = write(assets.path(), dir, &WHOLE.replace("DIGEST", "DIGEST,\"x\":0"))?;
        let path = image.join("image.json");
        fs::write(&path, fs::read_to_string(&path)?.replace(&"ab".repeat(32), &text.repeat(32)))?;
        let file = fs::File::options().write(true).open(&path)?;
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(10_000 - age))?;
    }
    let images = StockImages::open(assets.path(), Tasks::new());
    let wanted = images.default_image();
    assert_eq!(images.resolve(&wanted).await?.digest, digest("02"));
    for (dir, text) in [("old", "01"), ("new", "02")] {
        let template = images.resolve_digest(&digest(text), &wanted).await?;
        assert_eq!(
            (template.digest.as_str(), true),
            (&*digest(text), template.root.ends_with(format!("{dir}/rootfs")))
        );
    }
    // The set-up took the old one's names away.
    let old = assets.path().join("images/old");
    let text = fs::read_to_string(old.join("image.json"))?;
    let names = r#"["tensorlake/ubuntu-minimal","tensorlake/debian-minimal"]"#;
    fs::write(old.join("image.json"), text.replace(names, "[]"))?;
    images.resolve_digest(&digest("01"), &wanted).await?;

    let error = images.resolve_digest(&digest("03"), &wanted).await.expect_err("there is none");
    assert!(error.to_string().contains(&digest("03")), "{error}");
    fs::remove_dir(old.join("rootfs"))?;
    let error = images.resolve_digest(&digest("01"), &wanted).await.expect_err("it is damaged");
    assert!(error.to_string().contains("`rootfs` is missing"), "{error}");
    Ok(())
}
