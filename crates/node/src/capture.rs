//! Captures of a running sandbox: what a snapshot and a suspend have in common.
//!
//! ```text
//!  held ─▶ seal ─▶ │ pause ─▶ checkpoint ─▶ clone │ ─▶ resume ─▶ unseal    (not for a suspend)
//!  (ledger)        └─── the sandbox stands still ─┘
//!  begin and sync beside; only a capture of memory needs seal, checkpoint and unseal
//! ```
//!
//! `held` is on disk before anything holds the sandbox up, so the server that finds it lets it go
//! on, whatever step its predecessor died in.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tarn_guest_api::{Continues, PROTOCOL, Secret, UnsealRequest};
use tarn_host::{Capture, CaptureError};
use tarn_node_api::{Endpoint, HeldSnapshot};
use tarn_runtime::ImageFacts;
use tarn_types::{
    ByteSize, CaptureFacts, Captured, DaemonToken, ImageName, Lasting, ProjectId, SandboxId,
    SnapshotKind,
};

use tokio::time::Instant;

use crate::{
    daemon::{self, DaemonConnection, DaemonError, knock},
    ledger::Entry,
    room::{self, Room, STOOD_STILL},
    service::Shared,
    start::{base64, chain},
};

/// The version of [`Note`] that is written; a reader refuses newer ones.
const NOTE_VERSION: u32 = 1;

/// How long a daemon may take to be sealed or unsealed.
const SEAL_DEADLINE: Duration = Duration::from_secs(10);

/// How long it may take on the connection that it was sealed on, before another is made.
const KEPT_DEADLINE: Duration = Duration::from_secs(1);

/// What the node writes down with each capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    version: u32,
    pub(crate) sandbox: SandboxId,
    project: ProjectId,
    pub(crate) kind: SnapshotKind,
    pub(crate) captured: Captured,
    /// The template below the layer.
    pub(crate) template: String,
    /// The host's copy of `tarnd` that the memory knows.
    pub(crate) tarnd: std::path::PathBuf,
    /// What the sealed daemon asks for.
    pub(crate) token: DaemonToken,
    /// What the memory image depends on.
    image: Option<ImageFacts>,
    standstill_micros: u64,
}

/// What a capture is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A snapshot: the sandbox goes on.
    Snapshot,
    /// A suspend: it stays as it is.
    Suspend,
}

/// A capture whose parts are written, but not durable yet.
#[derive(Debug)]
pub(crate) struct Draft {
    name: String,
    note: Note,
    /// What its daemon was sealed on, if it is sealed still.
    pub(crate) sealed_on: Option<DaemonConnection>,
    /// Whether a snapshot's sandbox did not go on, because it was to stand still.
    pub(crate) is_held: bool,
}

// === impl Note ===

impl Note {
    /// Reads the note of a capture.
    pub(crate) fn of(capture: &Capture) -> Result<Self, String> {
        let version = capture.note.get("version").and_then(serde_json::Value::as_u64);
        if version != Some(u64::from(NOTE_VERSION)) {
            return Err(format!(
                "it was made by another version of tarn: its note has version {version:?}, this \
                 server reads {NOTE_VERSION}"
            ));
        }
        capture.note().map_err(|bad| format!("its note cannot be read: {bad}"))
    }

    /// Says why the memory cannot go on on this host, if it cannot.
    pub(crate) fn obstacle(&self, here: &ImageFacts) -> Option<String> {
        let made = self.image.as_ref()?;
        if made.runtime != here.runtime {
            return Some("it was made by another runtime".to_owned());
        }
        if made.version != here.version {
            return Some(format!(
                "it was made with gVisor {}, and this node has {}",
                made.version, here.version
            ));
        }
        if made.flags != here.flags {
            return Some("it was made with other runtime flags than this server uses".to_owned());
        }
        let lacking: Vec<_> =
            made.cpu_features.iter().filter(|it| !here.cpu_features.contains(it)).collect();
        if lacking.is_empty() {
            return None;
        }
        let names: Vec<&str> = lacking.iter().map(|it| it.as_str()).collect();
        Some(format!("this node's CPU lacks {}", names.join(", ")))
    }

    pub(crate) fn held(
        &self,
        snapshot: &tarn_types::SnapshotId,
        capture: &Capture,
    ) -> HeldSnapshot {
        HeldSnapshot {
            snapshot: snapshot.clone(),
            sandbox: self.sandbox.clone(),
            project: self.project.clone(),
            kind: self.kind,
            captured: self.captured.clone(),
            facts: self.facts(capture),
        }
    }

    fn facts(&self, capture: &Capture) -> CaptureFacts {
        let size = capture.layer_size.bytes().saturating_add(capture.memory_size.bytes());
        CaptureFacts {
            size: ByteSize::from_bytes(size),
            layer: capture.layer_size,
            standstill_micros: self.standstill_micros,
        }
    }

    pub(crate) fn image_name(&self) -> &ImageName {
        &self.captured.image.name
    }
}

/// Writes down what a sandbox is now. After a failure it goes on as before, or is dead.
///
/// Nothing holds the sandbox up before `held` has succeeded: the ledger says so then. After a
/// success for [`Purpose::Suspend`] the sandbox is paused and its daemon sealed; otherwise it goes
/// on.
pub(crate) async fn capture(
    shared: &Shared,
    entry: &Entry,
    endpoint: &Endpoint,
    name: &str,
    kind: SnapshotKind,
    purpose: Purpose,
    held: impl Future<Output = Result<(), String>> + Send,
) -> Result<Draft, String> {
    let captured = write_down(shared, entry, endpoint, name, kind, purpose, held).await;
    if captured.is_err() {
        // Whatever was reached, both do nothing where there is nothing to do.
        let has_room = *shared.room.borrow() == Room::Enough;
        if has_room && let Err(bad) = go_on(shared, entry, endpoint).await {
            tracing::error!(sandbox.id = %entry.id, error = bad, "a sandbox does not go on after a failed capture");
        }
        if let Err(bad) = shared.parts.captures.discard(name).await {
            tracing::warn!(sandbox.id = %entry.id, error = chain(&bad), "what a failed capture wrote is not removed");
        }
    }
    captured
}

/// Lets a held sandbox go on. It was never away, unless it was to go on after a suspend. Gives up
/// when the pool is short, so that it is frozen whatever its daemon does.
pub(crate) async fn go_on(
    shared: &Shared,
    entry: &Entry,
    endpoint: &Endpoint,
) -> Result<(), String> {
    let resume = async { shared.parts.runtime.resume(&entry.id).await.map_err(|bad| chain(&bad)) };
    let continues = if entry.resuming { Continues::Suspended } else { Continues::Itself };
    let request = unseal_request(shared, &entry.id, continues, &entry.token);
    // Its pause may be undone later, and then nobody comes to unseal it.
    let both = async { tokio::join!(resume, unseal(endpoint, &entry.token, &request)) };
    let (resumed, unsealed) = unless_short(shared, both).await?;
    resumed.and(unsealed)
}

async fn write_down(
    shared: &Shared,
    entry: &Entry,
    endpoint: &Endpoint,
    name: &str,
    kind: SnapshotKind,
    purpose: Purpose,
    held: impl Future<Output = Result<(), String>> + Send,
) -> Result<Draft, String> {
    let parts = &shared.parts;
    let id = &entry.id;
    let step = |what: &'static str| move |bad: CaptureError| format!("{what}: {}", chain(&bad));
    let template = entry.template.clone().ok_or(
        "it was made by a version of tarn from before snapshots; copy its files to a new sandbox",
    )?;
    let with_memory = kind == SnapshotKind::Memory;
    let begin = async {
        let memory = if with_memory {
            parts.runtime.stats(id).await.map_err(|bad| chain(&bad))?.memory
        } else {
            ByteSize::from_bytes(0)
        };
        parts.captures.begin(name, memory).await.map_err(step("begin"))
    };
    let seal = async {
        held.await?;
        seal(entry, endpoint, with_memory).await
    };
    // What the layer has in memory by now need not be written while it stands still.
    let sync = async { parts.layers.sync(id).await.map_err(|bad| chain(&bad)) };
    let prepared = async { tokio::join!(begin, seal, sync) };
    let (draft, sealed, synced) = unless_short(shared, Box::pin(prepared)).await?;
    let draft = draft?;
    let sealed_on = sealed?;
    synced?;
    let begun = Instant::now();
    parts.runtime.pause(id).await.map_err(|bad| chain(&bad))?;
    if with_memory {
        // It may have grown while its daemon was sealed and its files were synced.
        let memory = parts.runtime.stats(id).await.map_err(|bad| chain(&bad))?.memory;
        if memory > draft.room {
            parts.captures.extend(name, memory).await.map_err(step("make room"))?;
        }
        parts.runtime.checkpoint(id, &draft.memory).await.map_err(|bad| chain(&bad))?;
    }
    parts.captures.clone_layer(name, id).await.map_err(step("clone the layer"))?;
    let mut is_held = false;
    match purpose {
        Purpose::Snapshot if with_memory => {
            let goes_on = go_on(shared, entry, endpoint).await;
            // What was taken is whole. It is let go when there is room.
            is_held = goes_on.is_err() && *shared.room.borrow() != Room::Enough;
            if !is_held {
                goes_on?;
            }
        }
        // Its daemon is not sealed.
        Purpose::Snapshot => parts.runtime.resume(id).await.map_err(|bad| chain(&bad))?,
        Purpose::Suspend => {}
    }
    let standstill_micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    let note = Note {
        version: NOTE_VERSION,
        sandbox: id.clone(),
        project: entry.project.clone(),
        kind,
        captured: Captured {
            image: entry.launch.image.clone(),
            resources: entry.launch.resources,
            entrypoint: entry.launch.entrypoint.clone(),
            secret_names: entry.launch.secret_names.clone(),
        },
        template,
        tarnd: entry.tarnd.clone(),
        token: entry.token.clone(),
        image: with_memory.then(|| parts.runtime.image_facts()),
        standstill_micros,
    };
    let sealed_on = sealed_on.filter(|_| purpose == Purpose::Suspend);
    Ok(Draft { name: name.to_owned(), note, sealed_on, is_held })
}

/// Does what may take long while the sandbox runs, unless the pool is short: it is to be frozen
/// then, and not held up by this.
async fn unless_short<T>(shared: &Shared, work: impl Future<Output = T>) -> Result<T, String> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = room::short(shared.room.subscribe()) => Err(STOOD_STILL.to_owned()),
    }
}

/// Seals a daemon whose memory is written down.
async fn seal(
    entry: &Entry,
    endpoint: &Endpoint,
    with_memory: bool,
) -> Result<Option<DaemonConnection>, String> {
    if !with_memory {
        return Ok(None);
    }
    let sealing = daemon::seal(endpoint.daemon, &entry.token);
    match tokio::time::timeout(SEAL_DEADLINE, sealing).await {
        Ok(Ok(connection)) => Ok(Some(connection)),
        Ok(Err(DaemonError::Refused { status: 404, .. })) => {
            Err("its daemon is older than memory snapshots; take a filesystem snapshot and \
                 restore it to get a new one"
                .to_owned())
        }
        Ok(Err(bad)) => Err(format!("seal the daemon: {bad}")),
        Err(_late) => Err("the daemon did not answer in time".to_owned()),
    }
}

/// Makes a draft whole, and as durable as it is to be. `copies` are to be made of one that lasts
/// for a boot.
pub(crate) async fn commit(
    shared: &Shared,
    draft: Draft,
    lasting: Lasting,
    copies: u32,
) -> Result<CaptureFacts, String> {
    let Draft { name, note, sealed_on: _, is_held: _ } = draft;
    let text = serde_json::to_value(&note).map_err(|bad| bad.to_string())?;
    let captures = &shared.parts.captures;
    let committed = match lasting {
        Lasting::Always => captures.commit(&name, text).await,
        Lasting::Boot => captures.commit_for_boot(&name, text, copies).await,
    };
    match committed {
        Ok(capture) => Ok(note.facts(&capture)),
        Err(bad) => {
            let said = chain(&bad);
            if let Err(bad) = shared.parts.captures.discard(&name).await {
                tracing::warn!(
                    name,
                    error = chain(&bad),
                    "what a failed capture wrote is not removed"
                );
            }
            Err(said)
        }
    }
}

/// Unseals a daemon on the connection that it was sealed on, which saves it to accept another;
/// where that is of no use any more, on a new one.
pub(crate) async fn unseal_on(
    sealed_on: Option<DaemonConnection>,
    endpoint: &Endpoint,
    request: &UnsealRequest,
) -> Result<(), String> {
    if let Some(mut connection) = sealed_on {
        let unsealing = connection.unseal(&endpoint.token, request);
        match tokio::time::timeout(KEPT_DEADLINE, unsealing).await {
            Ok(Ok(_unsealed)) => return Ok(()),
            Ok(Err(bad @ (DaemonError::Refused { .. } | DaemonError::Configuration(_)))) => {
                return Err(format!("unseal the daemon: {bad}"));
            }
            Ok(Err(DaemonError::Unreachable(_) | DaemonError::Broken(_))) | Err(_) => {}
        }
    }
    // To be asked twice does it no harm.
    unseal(endpoint, &endpoint.token, request).await
}

/// Unseals a daemon, which answers within a deadline. `endpoint` has the token from before, `new`
/// is the request's.
pub(crate) async fn unseal(
    endpoint: &Endpoint,
    new: &DaemonToken,
    request: &UnsealRequest,
) -> Result<(), String> {
    let unsealing = async {
        let first = knock(|| daemon::unseal(endpoint.daemon, &endpoint.token, request)).await;
        let Err(DaemonError::Broken(_)) = first else { return first };
        // It may have been unsealed, and the answer lost: then it knows the new token alone.
        match daemon::unseal(endpoint.daemon, &endpoint.token, request).await {
            Err(DaemonError::Refused { status: 401, .. }) => {
                daemon::unseal(endpoint.daemon, new, request).await
            }
            answered => answered,
        }
    };
    match tokio::time::timeout(SEAL_DEADLINE, unsealing).await {
        Ok(Ok(_unsealed)) => Ok(()),
        // A daemon from before seals was not sealed.
        Ok(Err(DaemonError::Refused { status: 404, .. }))
            if request.continues == Continues::Itself =>
        {
            Ok(())
        }
        Ok(Err(bad)) => Err(format!("unseal the daemon: {bad}")),
        Err(_late) => Err("the daemon did not answer in time".to_owned()),
    }
}

pub(crate) fn unseal_request(
    shared: &Shared,
    id: &SandboxId,
    continues: Continues,
    token: &DaemonToken,
) -> UnsealRequest {
    let random: [u8; 64] = shared.parts.entropy.bytes();
    UnsealRequest {
        protocol: PROTOCOL,
        continues,
        token: Secret::new(token.reveal()),
        sandbox_id: id.to_string(),
        env: None,
        entropy: Secret::new(base64(&random)),
        now_ms: u64::try_from(shared.parts.clock.now().0).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    const DONE: &str = r#"{"protocol":1,"version":"0"}"#;

    fn request() -> UnsealRequest {
        UnsealRequest {
            protocol: PROTOCOL,
            continues: Continues::Suspended,
            token: Secret::new("00"),
            sandbox_id: "box".to_owned(),
            env: None,
            entropy: Secret::new("00"),
            now_ms: 0,
        }
    }

    /// Answers the next request on a connection, and returns that connection.
    async fn answer(mut connection: TcpStream, status: u16, body: &str) -> TcpStream {
        let mut seen = Vec::new();
        while !seen.ends_with(b"}") {
            assert_ne!(connection.read_buf(&mut seen).await.expect("it asks"), 0);
        }
        let length = body.len();
        let text = format!("HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\n\r\n{body}");
        connection.write_all(text.as_bytes()).await.expect("it listens");
        connection
    }

    #[tokio::test]
    async fn a_daemon_is_unsealed_on_the_connection_that_is_there_or_else_on_another() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let daemon = listener.local_addr().expect("an address");
        let token = DaemonToken::from_random([7; 32]);
        let endpoint = Endpoint { daemon, token: token.clone() };
        // Whether its end is there still, what it says, and whether that is the end of it.
        for (kept, status, well) in [(true, 200, true), (false, 200, true), (true, 500, false)] {
            let opened = tokio::join!(DaemonConnection::open(daemon), listener.accept());
            let (ours, (theirs, _)) = (opened.0.expect("open"), opened.1.expect("open"));
            let request = request();
            let unsealing = unseal_on(Some(ours), &endpoint, &request);
            let answering = async {
                let connection = match kept {
                    true => theirs,
                    false => {
                        drop(theirs);
                        listener.accept().await.expect("another one").0
                    }
                };
                answer(connection, status, DONE).await
            };
            let (unsealed, _open) = tokio::join!(unsealing, answering);
            assert_eq!(unsealed.is_ok(), well, "{kept} {status}: {unsealed:?}");
        }
        let unsealing = request();
        let alone = unseal_on(None, &endpoint, &unsealing);
        let accepting = async {
            let (connection, _) = listener.accept().await.expect("one");
            answer(connection, 200, DONE).await
        };
        tokio::join!(alone, accepting).0.expect("unsealed");
    }
}
