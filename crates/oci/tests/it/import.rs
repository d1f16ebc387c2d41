//! Images from files.

use std::{fs, path::Path};

use serde_json::json;
use tarn_oci::{Bounds, Digest, OciError, Puller, RegistryOptions, Unpacked};
use tarn_task::Tasks;

use crate::{
    image::{By, INDEX, Image, MANIFEST, Place, architecture, compress, progress},
    tar::Tar,
};

fn image(content: &[u8]) -> Image {
    Image::new(&[(&Tar::new().file("a", content).end(), By::Gzip)])
}

async fn import(place: &Place, source: &Path, choose: Option<&str>) -> Result<Unpacked, OciError> {
    let puller = Puller::new(RegistryOptions::default(), Bounds::default(), Tasks::new());
    puller.import(source, choose, &place.work(), progress()).await
}

/// Writes an archive into a directory beside the work directory.
fn write(place: &Place, bytes: &[u8]) -> std::path::PathBuf {
    let dir = place.path().join("layout");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("archive"), bytes).unwrap();
    dir.join("archive")
}

/// What `docker save` writes of images and their tags.
fn saved(images: &[(&Image, &[&str])]) -> Tar {
    let mut tar = Tar::new();
    let mut list = Vec::new();
    for (number, (image, tags)) in images.iter().enumerate() {
        let config = format!("{}.json", image.config.hex());
        tar = tar.file(&config, &image.blobs[&image.config]);
        let mut layers = Vec::new();
        for (layer, digest) in image.layers.iter().enumerate() {
            let name = format!("layer{number}-{layer}/layer.tar");
            tar = tar.dir(&format!("layer{number}-{layer}/")).file(&name, &image.blobs[digest]);
            layers.push(name);
        }
        list.push(json!({"Config": config, "RepoTags": tags, "Layers": layers}));
    }
    tar.file("manifest.json", &serde_json::to_vec(&list).unwrap())
}

/// A layout of several images, by the index that a test writes.
fn layout(images: &[&Image], manifests: &serde_json::Value) -> Tar {
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    let mut tar = Tar::new().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    tar = tar.file("./index.json", &serde_json::to_vec(&index).unwrap()).dir("blobs/sha256/");
    for (digest, bytes) in images.iter().flat_map(|image| &image.blobs) {
        tar = tar.file(&format!("blobs/sha256/{}", digest.hex()), bytes);
    }
    tar
}

fn descriptor(image: &Image) -> serde_json::Value {
    let size = image.blobs[&image.manifest].len();
    json!({"mediaType": MANIFEST, "digest": image.manifest, "size": size})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_is_imported_from_a_directory_and_from_a_tar() {
    let image = image(b"content");
    let place = Place::new();
    let imported = place.import(&image, Bounds::default()).await.unwrap();
    assert_eq!(
        (imported.manifest, imported.bytes, imported.entries),
        (image.manifest.clone(), 7, 1)
    );
    assert_eq!(place.read("a"), "content");
    for by in [By::Nothing, By::Gzip, By::Zstd] {
        let place = Place::new();
        let tar = layout(&[&image], &json!([descriptor(&image)])).end();
        let source = write(&place, &compress(&tar, by));
        let imported = import(&place, &source, None).await.unwrap();
        assert_eq!(imported.manifest, image.manifest);
        assert_eq!(imported.config.cmd, ["/bin/sh"]);
        assert_eq!(place.read("a"), "content");
        assert_eq!(fs::read_dir(place.work()).unwrap().count(), 1, "nothing but the tree stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_docker_saves_is_imported() {
    let image = image(b"content");
    let place = Place::new();
    let source = write(&place, &saved(&[(&image, &["app:1"])]).end());
    let imported = import(&place, &source, None).await.unwrap();
    assert_eq!(imported.manifest, image.config);
    assert_eq!(place.read("a"), "content");

    // A layer that is there twice is a link the second time.
    let list = json!([{"Config": "c", "Layers": ["one/layer.tar", "two/layer.tar"]}]);
    let config = json!({"architecture": architecture(), "os": "linux", "rootfs": {"type": "layers",
        "diff_ids": [Digest::of(&Tar::new().file("b", b"twice").end()),
                     Digest::of(&Tar::new().file("b", b"twice").end())]}});
    let tar = Tar::new()
        .file("c", &serde_json::to_vec(&config).unwrap())
        .file("one/layer.tar", &Tar::new().file("b", b"twice").end())
        .symlink("two/layer.tar", "../one/layer.tar")
        .file("manifest.json", &serde_json::to_vec(&list).unwrap());
    let place = Place::new();
    let source = write(&place, &tar.end());
    import(&place, &source, None).await.unwrap();
    assert_eq!(place.read("b"), "twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_is_chosen_by_its_name() {
    let (one, two) = (image(b"one"), image(b"two"));
    let named = |image: &Image, name: &str| {
        let mut descriptor = descriptor(image);
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        descriptor
    };
    let by_layout = layout(&[&one, &two], &json!([named(&one, "1"), named(&two, "2")])).end();
    let by_docker = saved(&[(&one, &["app:1"]), (&two, &["app:2", "other.io/x/y:z"])]).end();
    for (tar, choose, content) in [
        (&by_layout, "2", Some("two")),
        (&by_layout, one.manifest.as_str(), Some("one")),
        (&by_layout, "3", None),
        (&by_docker, "app:1", Some("one")),
        (&by_docker, "docker.io/library/app:2", Some("two")),
        (&by_docker, "other.io/x/y:z", Some("two")),
        (&by_docker, "app:3", None),
    ] {
        let place = Place::new();
        let source = write(&place, tar);
        match (import(&place, &source, Some(choose)).await, content) {
            (Ok(_), Some(content)) => assert_eq!(place.read("a"), content, "{choose}"),
            (Err(OciError::NotFound { what }), None) => assert!(what.contains(choose), "{what}"),
            (result, _) => panic!("{choose}: {result:?}"),
        }
    }
    for tar in [&by_layout, &by_docker] {
        let place = Place::new();
        let error = import(&place, &write(&place, tar), None).await.unwrap_err();
        assert!(
            matches!(&error, OciError::Unsupported { what, .. } if what.contains('1')),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_cannot_name_what_is_not_in_it() {
    let image = image(b"x");
    let list = |config: &str, layer: &str| {
        let list = json!([{"Config": config, "Layers": [layer]}]);
        Tar::new()
            .file("c", &image.blobs[&image.config])
            .file("l", &image.blobs[&image.layers[0]])
            .file("manifest.json", &serde_json::to_vec(&list).unwrap())
    };
    list("c", "l").end();
    let cases = [
        ("a config of the host", list("/etc/passwd", "l").end()),
        ("a config by dots", list("../../sentinel", "l").end()),
        ("a layer of the host", list("c", "/etc/passwd").end()),
        ("a layer by dots", list("c", "../../../../etc/passwd").end()),
        ("a link out", list("c", "k").symlink("k", "/etc/passwd").end()),
        ("a link by dots", list("c", "k").symlink("k", "../../sentinel").end()),
        ("a link in a circle", list("c", "k").symlink("k", "j").symlink("j", "k").end()),
        ("a device", list("c", "l").other("x", b'3').end()),
        ("a pipe", list("c", "l").other("x", b'6').end()),
        ("dots", list("c", "l").file("../x", b"").end()),
        ("a hard link out", list("c", "k").hard_link("k", "../x").end()),
        ("neither list nor layout", Tar::new().file("x", b"").end()),
        ("a list that is none", Tar::new().file("manifest.json", b"{}").end()),
        ("a list of nothing", Tar::new().file("manifest.json", b"[]").end()),
        ("an index that is none", Tar::new().file("index.json", b"[]").end()),
        ("an index of nothing", layout(&[], &json!([])).end()),
        ("a blob that is missing", layout(&[], &json!([descriptor(&image)])).end()),
        ("nothing", Vec::new()),
        ("noise", vec![0x77; 5000]),
    ];
    for (case, tar) in cases {
        let place = Place::new();
        let source = write(&place, &tar);
        let error = import(&place, &source, None).await;
        let error = error.err().unwrap_or_else(|| panic!("{case} is imported"));
        assert!(error.is_for_the_caller(), "{case}: {error:?}");
        place.check_sentinels(case);
    }
    let place = Place::new();
    let good = write(&place, &list("c", "l").end());
    import(&place, &good, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_in_a_layout_is_found() {
    let image = image(b"x");
    for blob in [&image.manifest, &image.config, &image.layers[0]] {
        let place = Place::new();
        let layout = image.write_layout(place.path());
        let path = layout.join("blobs/sha256").join(blob.hex());
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let error = import(&place, &layout, None).await.unwrap_err();
        assert!(matches!(error, OciError::BadDigest { .. }), "{error:?}");
        bytes.pop();
        fs::write(&path, &bytes).unwrap();
        let error = import(&place, &layout, None).await.unwrap_err();
        assert!(matches!(error, OciError::BadSize { .. }), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_in_a_directory_is_not_left_by_links() {
    let image = image(b"x");
    for name in ["index.json", "blobs"] {
        let place = Place::new();
        let layout = image.write_layout(place.path());
        let away = layout.join("away");
        fs::rename(layout.join(name), &away).unwrap();
        std::os::unix::fs::symlink(&away, layout.join(name)).unwrap();
        let error = import(&place, &layout, None).await.unwrap_err();
        assert!(matches!(error, OciError::Hostile { .. }), "{name}: {error:?}");
    }
    let place = Place::new();
    let layout = image.write_layout(place.path());
    fs::remove_file(layout.join("index.json")).unwrap();
    fs::create_dir(layout.join("index.json")).unwrap();
    let error = import(&place, &layout, None).await.unwrap_err();
    assert!(matches!(error, OciError::Hostile { .. }), "{error:?}");
    let error = import(&place, Path::new("/dev/null"), None).await.unwrap_err();
    assert!(matches!(error, OciError::Unsupported { .. }), "{error:?}");
    let error = import(&place, &place.path().join("missing"), None).await.unwrap_err();
    assert!(matches!(error, OciError::Disk { .. }), "{error:?}");
}
