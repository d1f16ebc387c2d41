use serde_json::{Value, json};
use tarn_types::{
    ExposedPorts, FailedStep, Generation, Intent, NodeId, PendingReason, PortAccess, ProjectId,
    SandboxId, SandboxSpec, StartFailure, Target,
};

use super::*;

fn ingress() -> IngressAddress {
    IngressAddress {
        sandbox_url: "http://127.0.0.1:9443".to_owned(),
        ingress_endpoint: "http://localhost:9443".to_owned(),
    }
}

fn record() -> SandboxRecord {
    SandboxRecord {
        id: SandboxId::from_random([1; 21]),
        project: ProjectId::from_random([2; 16]),
        created_at: UnixMillis(1_700_000_000_000),
        asked: SandboxSpec {
            name: None,
            image: "tensorlake/ubuntu-minimal".parse().expect("a good name"),
            resources: Resources::default(),
            timeout_secs: 600,
            entrypoint: None,
            network: None,
            ports: PortAccess::default(),
            auto_resume: true,
            max_pending_secs: None,
            restore: None,
            secret_names: Vec::new(),
            template_id: None,
        },
        intent: Intent {
            generation: Generation::FIRST,
            target: Target::Running,
            node: None,
            pending_reason: Some(PendingReason::Scheduling),
        },
        observed: None,
        sequence: 1,
        running_at: None,
        terminated_at: None,
        end: None,
        capturing: None,
        member: None,
        resize: None,
    }
}

fn facts(record: &SandboxRecord, status: SandboxStatus) -> SandboxFacts<'_> {
    SandboxFacts {
        record,
        status,
        namespace: "default",
        runtime: "gvisor",
        archived_at: None,
        trouble: None,
    }
}

fn info(record: &SandboxRecord, status: SandboxStatus) -> Value {
    json!(SandboxInfo::new(&facts(record, status), &ingress()))
}

#[test]
fn a_pending_sandbox_has_these_bytes() {
    let expected = json!({
        "id": "111111111111111111111", "namespace": "default", "status": "pending", "name": null,
        "image": "tensorlake/ubuntu-minimal",
        "resources": {"cpus": 1.0, "memory_mb": 1024, "disk_mb": 10240,
            "ephemeral_disk_mb": 10240, "gpus": []},
        "timeout_secs": 600, "entrypoint": null, "network_policy": null,
        "allow_unauthenticated_access": false, "exposed_ports": null, "file_systems": [],
        "auto_resume": true, "pending_reason": "scheduling", "outcome": null,
        "termination_reason": null, "runtime": "gvisor", "created_at": 1_700_000_000_000_i64,
    });
    assert_eq!(info(&record(), SandboxStatus::Pending), expected);
}

#[test]
fn a_running_named_sandbox_has_these_bytes() {
    let mut record = record();
    record.asked.name = Some("box".parse().expect("a good name"));
    record.asked.entrypoint = Some(vec!["sleep".to_owned()]);
    record.asked.network = Some(EgressPolicy::CLOSED);
    record.asked.ports = PortAccess {
        exposed: Some(ExposedPorts::parse([8080, 80]).expect("good ports")),
        unauthenticated: true,
    };
    record.intent.node = Some(NodeId::from_random([3; 16]));
    let expected = json!({
        "id": "111111111111111111111", "namespace": "default", "status": "running", "name": "box",
        "image": "tensorlake/ubuntu-minimal",
        "resources": {"cpus": 1.0, "memory_mb": 1024, "disk_mb": 10240,
            "ephemeral_disk_mb": 10240, "gpus": []},
        "timeout_secs": 600, "entrypoint": ["sleep"],
        "network_policy": {"allow_internet_access": false, "allow_out": [], "deny_out": []},
        "allow_unauthenticated_access": true, "exposed_ports": [80, 8080], "file_systems": [],
        "auto_resume": true, "pending_reason": null, "outcome": null, "termination_reason": null,
        "sandbox_url": "http://127.0.0.1:9443", "ingress_endpoint": "http://localhost:9443",
        "executor_id": "node_3333333333333333", "runtime": "gvisor",
        "created_at": 1_700_000_000_000_i64,
    });
    assert_eq!(info(&record, SandboxStatus::Running), expected);
}

#[test]
fn an_end_shows_only_once_the_sandbox_is_terminated() {
    let mut record = record();
    record.terminated_at = Some(UnixMillis(1_700_000_001_000));
    record.end = Some(EndCause::StartFailed {
        step: FailedStep::Init,
        failure: StartFailure::Configuration,
        message: "no such file: sleeep".to_owned(),
    });
    let ended = info(&record, SandboxStatus::Terminated);
    assert_eq!(ended["outcome"], "Failure(ContainerStartupFailed)");
    assert_eq!(ended["termination_reason"], "ConfigurationError");
    assert_eq!(ended["error_details"], json!({"message": "init: no such file: sleeep"}));
    assert_eq!(ended["terminated_at"], 1_700_000_001_000_i64);
    assert_eq!((&ended["pending_reason"], ended.get("sandbox_url")), (&Value::Null, None));
    let running = info(&record, SandboxStatus::Running);
    assert_eq!((&running["outcome"], running.get("terminated_at")), (&Value::Null, None));
}

#[test]
fn a_url_is_there_exactly_when_clients_may_route() {
    for status in SandboxStatus::ALL {
        let routable = !matches!(status, SandboxStatus::Pending | SandboxStatus::Terminated);
        let info = info(&record(), status);
        assert_eq!(info.get("sandbox_url").is_some(), routable, "{}", status.as_str());
        assert_eq!(info.get("ingress_endpoint").is_some(), routable, "{}", status.as_str());
    }
}

#[test]
fn what_went_wrong_in_life_shows_beside_the_status() {
    let mut record = record();
    record.intent.pending_reason = Some(PendingReason::NoResourcesAvailable);
    let trouble = Some("the disk is full");
    for status in [SandboxStatus::Running, SandboxStatus::Suspended] {
        let facts = SandboxFacts { trouble, ..facts(&record, status) };
        let info = json!(SandboxInfo::new(&facts, &ingress()));
        assert_eq!(info["error_details"], json!({"message": "the disk is full"}));
        let waits = status == SandboxStatus::Suspended;
        assert_eq!(info["pending_reason"] == "no_resources_available", waits, "{info}");
        assert_eq!(info["outcome"], Value::Null);
    }
}

#[test]
fn a_copy_says_in_one_place_why_it_does_not_run() {
    let mut record = record();
    record.intent.pending_reason = Some(PendingReason::NoResourcesAvailable);
    let reason = |record: &SandboxRecord, status| {
        CreateSandboxResponse::of_copy(&facts(record, status), &ingress()).reason
    };
    let waits = Some("no_resources_available".to_owned());
    assert_eq!(reason(&record, SandboxStatus::Pending), waits);
    assert_eq!(reason(&record, SandboxStatus::Running), None);
    record.end = Some(EndCause::StartFailed {
        step: FailedStep::Restore,
        failure: StartFailure::Internal,
        message: "no".to_owned(),
    });
    let ended = Some("Failure(ContainerStartupFailed)".to_owned());
    assert_eq!(reason(&record, SandboxStatus::Terminated), ended);
}

#[test]
fn the_archive_adds_its_time() {
    let record = record();
    let archived_at = Some(UnixMillis(5));
    let facts = SandboxFacts { archived_at, ..facts(&record, SandboxStatus::Terminated) };
    assert_eq!(json!(SandboxInfo::new(&facts, &ingress()))["archived_at"], 5);
}

#[test]
fn a_create_answers_with_these_bytes() {
    let create = |record: &SandboxRecord, status| {
        json!(CreateSandboxResponse::new(&facts(record, status), &ingress()))
    };
    let mut record = record();
    assert_eq!(
        create(&record, SandboxStatus::Pending),
        json!({"sandbox_id": "111111111111111111111", "status": "pending", "name": null,
            "pending_reason": "scheduling"})
    );
    assert_eq!(
        create(&record, SandboxStatus::Running),
        json!({"sandbox_id": "111111111111111111111", "status": "running", "name": null,
            "sandbox_url": "http://127.0.0.1:9443", "ingress_endpoint": "http://localhost:9443"})
    );
    record.end = Some(EndCause::NoCapacity);
    let ended = create(&record, SandboxStatus::Terminated);
    assert_eq!(ended["termination_reason"], "no_capacity");
    assert_eq!(ended["reason"], "Failure(ConstraintUnsatisfiable)");
    assert!(ended["error_details"]["message"].is_string(), "{ended}");
}
