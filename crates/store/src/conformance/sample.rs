//! Records for the cases: plain, valid and told apart by a number.

use std::sync::Arc;

use tarn_types::{
    EgressPolicy, EndCause, ExposedPorts, Generation, Intent, KeyId, Lasting, NodeId, Observed,
    ObservedPhase, PendingReason, PortAccess, ProjectId, Resources, SandboxId, SandboxName,
    SandboxRecord, SandboxSpec, Target, UnixMillis,
};

use crate::{KeyHash, KeyRecord, ListQuery, Order, ProjectRecord, Store, StoreError};

/// When the sample records begin.
pub(super) const T0: UnixMillis = UnixMillis(1_800_000_000_000);

/// Returns the project of a number.
pub(super) fn project(number: u8) -> ProjectId {
    ProjectId::from_random([number; 16])
}

/// Returns the sandbox id of a number; ids sort as their numbers do.
pub(super) fn id(number: u8) -> SandboxId {
    let mut random = [0; SandboxId::LENGTH];
    random[0] = number / 36;
    random[1] = number % 36;
    SandboxId::from_random(random)
}

/// Parses a name that is known to be good.
pub(super) fn name(text: &str) -> SandboxName {
    text.parse().expect("the names of the cases are good")
}

/// Returns a pending sandbox without a name, in project 1.
pub(super) fn record(number: u8) -> SandboxRecord {
    SandboxRecord {
        id: id(number),
        project: project(1),
        created_at: T0.plus_millis(u64::from(number)),
        asked: SandboxSpec {
            name: None,
            image: "tensorlake/ubuntu-minimal".parse().expect("a good image name"),
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

/// Returns the same with a name.
pub(super) fn named(number: u8, text: &str) -> SandboxRecord {
    let mut record = record(number);
    record.asked.name = Some(name(text));
    record
}

/// Returns a record with every optional field filled in.
pub(super) fn full(number: u8) -> SandboxRecord {
    let mut full = running(&named(number, "full"));
    full.asked.entrypoint = Some(vec!["sh".to_owned(), "-c".to_owned(), "\u{1f980} \"'\0".into()]);
    full.asked.network = Some(EgressPolicy::CLOSED);
    full.asked.ports.exposed = ExposedPorts::parse([80, 8080]).ok();
    full.asked.max_pending_secs = Some(5);
    full.sequence = 1;
    full
}

/// Returns the next version of a record, now running.
pub(super) fn running(record: &SandboxRecord) -> SandboxRecord {
    let mut next = advance(record);
    let at = record.created_at.plus_secs(1);
    next.intent.node = Some(NodeId::from_random([9; 16]));
    next.intent.pending_reason = None;
    next.observed = Some(Observed {
        generation: Generation::FIRST,
        phase: ObservedPhase::Running,
        at,
        trouble: None,
        frozen: None,
        shape: None,
    });
    next.running_at = Some(at);
    next
}

/// Returns the next version of a record, now ended.
pub(super) fn ended(record: &SandboxRecord, at: UnixMillis) -> SandboxRecord {
    let mut next = advance(record);
    next.intent.generation = next.intent.generation.next();
    next.intent.target = Target::Terminated(EndCause::Deleted);
    next.intent.pending_reason = None;
    next.end = Some(EndCause::Deleted);
    next.terminated_at = Some(at);
    next
}

/// Returns the next version of a record, otherwise the same.
pub(super) fn advance(record: &SandboxRecord) -> SandboxRecord {
    SandboxRecord { sequence: record.sequence + 1, ..record.clone() }
}

/// Returns the first page of what is not archived in project 1.
pub(super) fn query(limit: usize) -> ListQuery {
    ListQuery {
        project: project(1),
        archived: false,
        archived_before: UnixMillis(0),
        status: None,
        from: None,
        order: Order::Forward,
        limit,
    }
}

/// Returns a project's record.
pub(super) fn project_record(number: u8, name: &str) -> ProjectRecord {
    ProjectRecord { id: project(number), name: name.to_owned(), created_at: T0 }
}

/// Returns a key of project 1, which is named `default`.
pub(super) fn key(number: u8) -> KeyRecord {
    KeyRecord {
        id: KeyId::from_random([number; 16]),
        project: project(1),
        project_name: "default".to_owned(),
        hash: KeyHash([number; 32]),
        created_at: T0.plus_millis(u64::from(number)),
        revoked_at: None,
    }
}

/// Inserts a record with the status that belongs to it.
pub(super) async fn insert(
    store: &Arc<dyn Store>,
    record: &SandboxRecord,
) -> Result<(), StoreError> {
    store.sandbox_insert(record, status(record)).await
}

/// Updates a record with the status that belongs to it.
pub(super) async fn update(
    store: &Arc<dyn Store>,
    record: &SandboxRecord,
) -> Result<(), StoreError> {
    // Whatever it is to outlast, it is there.
    let lasting = if record.sequence.is_multiple_of(2) { Lasting::Boot } else { Lasting::Always };
    store.sandbox_update(record, status(record), lasting).await
}

/// Inserts a record and ends it.
pub(super) async fn insert_ended(store: &Arc<dyn Store>, record: &SandboxRecord, at: UnixMillis) {
    insert(store, record).await.expect("a fresh sandbox is inserted");
    update(store, &ended(record, at)).await.expect("its end is stored");
}

/// Stands for `lifecycle::status`, which this layer does not know.
pub(super) fn status(record: &SandboxRecord) -> tarn_types::SandboxStatus {
    use tarn_types::SandboxStatus;
    if record.terminated_at.is_some() {
        SandboxStatus::Terminated
    } else if record.observed.is_some() {
        SandboxStatus::Running
    } else {
        SandboxStatus::Pending
    }
}
