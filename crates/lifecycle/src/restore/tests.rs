//! Every cell of the override matrix.

use tarn_types::{Archival, GpuModel, NodeId, ProjectId, SandboxId, SnapshotId, UnixMillis};

use super::*;

fn snapshot(kind: SnapshotKind) -> SnapshotRecord {
    SnapshotRecord {
        id: SnapshotId::from_random([1; 16]),
        project: ProjectId::from_random([2; 16]),
        sandbox: SandboxId::from_random([3; 21]),
        node: NodeId::from_random([4; 16]),
        created_at: UnixMillis(1),
        kind,
        status: SnapshotStatus::Completed,
        hidden: false,
        captured: captured(),
        facts: None,
        error: None,
        archive: Archival::Nothing,
        verified_at: None,
        sequence: 2,
    }
}

fn names(texts: &[&str]) -> Vec<SecretName> {
    texts.iter().map(|text| text.parse().expect("a good name")).collect()
}

fn captured() -> Captured {
    Captured {
        image: image("mine").into(),
        resources: Resources {
            cpu: MilliCpu::from_milli(2000),
            memory: ByteSize::from_mib(512),
            disk: ByteSize::from_mib(4096),
            gpus: None,
        },
        entrypoint: Some(vec!["serve".to_owned()]),
        secret_names: names(&["API_KEY", "OTHER"]),
    }
}

fn two_gpus() -> Option<Gpus> {
    Some(Gpus { model: GpuModel::DEFAULT.parse().expect("a name"), count: 2 })
}

#[test]
fn the_gpus_of_a_snapshot_return_unless_others_are_asked_for() {
    let mut with_gpus = snapshot(SnapshotKind::Filesystem);
    with_gpus.captured.resources.gpus = two_gpus();
    for (asked, expected) in [(None, two_gpus()), (Some(None), None)] {
        let had = restored(&with_gpus, &Overrides { gpus: asked, ..Overrides::default() });
        assert_eq!(had.map(|had| had.resources.gpus), Ok(expected));
    }
}

fn image(name: &str) -> ImageName {
    name.parse().expect("a good name")
}

fn with(change: impl FnOnce(&mut Overrides)) -> Overrides {
    let mut ask = Overrides::default();
    change(&mut ask);
    ask
}

fn resources(change: impl FnOnce(&mut Resources)) -> Captured {
    let mut expected = captured();
    change(&mut expected.resources);
    expected
}

#[test]
fn a_filesystem_snapshot_gives_what_the_request_does_not_say() {
    let mib = ByteSize::from_mib;
    let least = mib(4096);
    let command = vec!["other".to_owned()];
    let entrypoint =
        |command: &[String]| Captured { entrypoint: Some(command.to_vec()), ..captured() };
    let table: Vec<(&str, Overrides, Result<Captured, RestoreRefusal>)> = vec![
        ("nothing", Overrides::default(), Ok(captured())),
        ("empty resources", with(|ask| ask.resources = true), Ok(captured())),
        (
            "cpus",
            with(|ask| ask.cpu = Some(MilliCpu::from_milli(100))),
            Ok(resources(|had| had.cpu = MilliCpu::from_milli(100))),
        ),
        (
            "less memory",
            with(|ask| ask.memory = Some(mib(256))),
            Ok(resources(|had| had.memory = mib(256))),
        ),
        (
            "more memory",
            with(|ask| ask.memory = Some(mib(9000))),
            Ok(resources(|had| had.memory = mib(9000))),
        ),
        (
            "gpus",
            with(|ask| ask.gpus = Some(two_gpus())),
            Ok(resources(|had| had.gpus = two_gpus())),
        ),
        ("no gpus", with(|ask| ask.gpus = Some(None)), Ok(captured())),
        (
            "more disk",
            with(|ask| ask.disk = Some(mib(5000))),
            Ok(resources(|had| had.disk = mib(5000))),
        ),
        ("the same disk", with(|ask| ask.disk = Some(least)), Ok(captured())),
        (
            "less disk",
            with(|ask| ask.disk = Some(mib(4095))),
            Err(RestoreRefusal::DiskShrink { asked: mib(4095), least }),
        ),
        ("its own image", with(|ask| ask.image = Some(image("mine"))), Ok(captured())),
        (
            "another image",
            with(|ask| ask.image = Some(image("other"))),
            Err(RestoreRefusal::OtherImage(image("mine"))),
        ),
        (
            "entrypoint",
            with(|ask| ask.entrypoint = Some(command.clone())),
            Ok(entrypoint(&command)),
        ),
        ("no entrypoint", with(|ask| ask.entrypoint = Some(vec![])), Ok(entrypoint(&[]))),
        (
            "secrets",
            with(|ask| ask.secret_names = Some(names(&["NEW"]))),
            Ok(Captured { secret_names: names(&["NEW"]), ..captured() }),
        ),
        (
            "no secrets",
            with(|ask| ask.secret_names = Some(vec![])),
            Ok(Captured { secret_names: vec![], ..captured() }),
        ),
    ];
    for (name, ask, expected) in table {
        assert_eq!(restored(&snapshot(SnapshotKind::Filesystem), &ask), expected, "{name}");
    }
}

#[test]
fn a_memory_snapshot_allows_nothing_not_even_the_same() {
    let had = captured();
    let table: Vec<(Override, Overrides)> = vec![
        (Override::Resources, with(|ask| ask.resources = true)),
        (Override::Cpu, with(|ask| ask.cpu = Some(had.resources.cpu))),
        (Override::Memory, with(|ask| ask.memory = Some(had.resources.memory))),
        (Override::Disk, with(|ask| ask.disk = Some(had.resources.disk))),
        (Override::Gpus, with(|ask| ask.gpus = Some(two_gpus()))),
        (Override::Gpus, with(|ask| ask.gpus = Some(None))),
        (Override::Image, with(|ask| ask.image = Some(had.image.name.clone()))),
        (Override::Entrypoint, with(|ask| ask.entrypoint = had.entrypoint.clone())),
        (Override::Entrypoint, with(|ask| ask.entrypoint = Some(vec![]))),
        (Override::SecretNames, with(|ask| ask.secret_names = Some(vec![]))),
    ];
    let memory = snapshot(SnapshotKind::Memory);
    assert_eq!(restored(&memory, &Overrides::default()), Ok(captured()));
    for (field, mut ask) in table {
        let expected = Err(RestoreRefusal::Forbidden(field));
        assert_eq!(restored(&memory, &ask), expected, "{}", field.as_str());
        if field == Override::Cpu || field == Override::Gpus {
            ask.resources = true;
            assert_eq!(restored(&memory, &ask), expected, "the part is named, not the whole");
        }
    }
}

#[test]
fn a_snapshot_that_is_not_whole_is_refused_before_any_field() {
    for kind in [SnapshotKind::Filesystem, SnapshotKind::Memory] {
        for (status, ready) in [
            (SnapshotStatus::InProgress, false),
            (SnapshotStatus::LocalReady, true),
            (SnapshotStatus::Completed, true),
            (SnapshotStatus::Failed, false),
        ] {
            let record = SnapshotRecord { status, ..snapshot(kind) };
            let got = restored(&record, &Overrides::default());
            assert_eq!(got.is_ok(), ready, "{kind:?} {status:?}");
            if !ready {
                let bad = with(|ask| ask.image = Some(image("other")));
                assert_eq!(restored(&record, &bad), Err(RestoreRefusal::NotReady(status)));
            }
        }
    }
}

/// What a request has beside what clients put into every one.
type Change = fn(&mut Overrides);

#[test]
fn what_clients_send_unasked_is_not_said() {
    let defaults = with(|ask| {
        ask.resources = true;
        ask.cpu = Some(MilliCpu::from_milli(1000));
        ask.memory = Some(ByteSize::from_mib(1024));
    });
    let memory = snapshot(SnapshotKind::Memory);
    assert_eq!(restored(&memory, &defaults), Ok(captured()));
    let changes: [(Change, Override); 5] = [
        (|ask| ask.cpu = None, Override::Memory),
        (|ask| ask.memory = None, Override::Cpu),
        (|ask| ask.cpu = Some(MilliCpu::from_milli(2000)), Override::Cpu),
        (|ask| ask.disk = Some(ByteSize::from_mib(4096)), Override::Cpu),
        (|ask| ask.gpus = Some(None), Override::Cpu),
    ];
    for (change, field) in changes {
        let mut ask = defaults.clone();
        change(&mut ask);
        assert_eq!(restored(&memory, &ask), Err(RestoreRefusal::Forbidden(field)), "{ask:?}");
    }
    let files = restored(&snapshot(SnapshotKind::Filesystem), &defaults).map(|had| had.resources);
    assert_eq!(files.map(|had| had.memory), Ok(ByteSize::from_mib(1024)), "there it counts");
}
