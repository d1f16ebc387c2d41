//! What an owner of the official Rust SDK does, against the server that `TENSORLAKE_API_URL` and
//! `TENSORLAKE_API_KEY` name. Prints `ok PART` for each part that went well, and ends at the first
//! that did not.

use std::env;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tensorlake::error::SdkError;
use tensorlake::sandbox_image_catalog::{
    ImageServiceCatalog, SandboxImageCatalog, SnapshotAdoption,
};
use tensorlake::sandboxes::models::{
    CreateSandboxRequest, NetworkConfig, NetworkPolicyUpdate, RunProcessEvent, SandboxPoolRequest,
    SnapshotType, UpdateSandboxRequest,
};
use tensorlake::sandboxes::{SandboxProxyClient, SandboxesClient, resolve_sandbox_proxy_target};
use tensorlake::secrets::models::UpsertSecret;
use tensorlake::{Client, ClientBuilder, Sdk};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<()> {
    let (url, key) = (env::var("TENSORLAKE_API_URL")?, env::var("TENSORLAKE_API_KEY")?);
    let user = User::new(&url, &key)?;
    let sandbox = user.create(json!({"name": "rust-sdk", "exposed_ports": [8080]})).await?;
    let inside = user.inside(&sandbox).await?;
    part("processes", processes(&inside).await)?;
    part("files and terminals", files(&inside).await)?;
    part("lifecycle", lifecycle(&user, &sandbox).await)?;
    part("snapshots and copies", snapshots(&user, &sandbox).await)?;
    part("network and resources", update(&user, &sandbox).await)?;
    part("images", images(&user, &sandbox).await)?;
    user.sandboxes.delete(&sandbox).await?;
    part("pools", pools(&user).await)?;
    part("secrets", secrets(&user).await)?;
    part("errors", errors(&user).await)
}

fn part(name: &str, result: Result<()>) -> Result<()> {
    result.with_context(|| name.to_owned())?;
    println!("ok {name}");
    Ok(())
}

struct User {
    sdk: Sdk,
    client: Client,
    url: String,
    sandboxes: SandboxesClient,
}

impl User {
    fn new(url: &str, key: &str) -> Result<Self> {
        let builder = ClientBuilder::new(url).bearer_token(key).timeout(PATIENCE);
        let sdk = Sdk::with_client_builder(builder.clone())?;
        let sandboxes = sdk.sandboxes("default", false);
        Ok(Self { sdk, client: builder.build()?, url: url.to_owned(), sandboxes })
    }

    /// A sandbox that runs; answers its id.
    async fn create(&self, fields: Value) -> Result<String> {
        let made = self.sandboxes.create_and_wait(&shape::<CreateSandboxRequest>(fields)?).await?;
        ensure!(made.status == "running", "{made:?}", made = made.into_inner());
        Ok(made.sandbox_id.clone())
    }

    /// The way to what runs inside, as the SDK finds it.
    async fn inside(&self, sandbox: &str) -> Result<SandboxProxyClient> {
        let info = self.sandboxes.get(sandbox).await?;
        let url = info.sandbox_url.clone().context("no sandbox_url")?;
        let target = resolve_sandbox_proxy_target(&url, &info.sandbox_id)?;
        let client = self.client.with_base_url(&target.base_url);
        Ok(SandboxProxyClient::new(client, target.host_override)
            .with_routing_hint(info.routing_hint.clone())
            .with_sandbox_id(target.sandbox_id_header))
    }
}

/// A request of the SDK from the fields that differ from its defaults.
fn shape<T: DeserializeOwned>(fields: Value) -> Result<T> {
    serde_json::from_value(fields).context("a request")
}

/// Runs a shell script inside; answers its lines and its exit code.
async fn run(inside: &SandboxProxyClient, script: &str) -> Result<(Vec<String>, Option<i64>)> {
    let (mut lines, mut code) = (Vec::new(), None);
    for event in
        inside.run_process(&json!({"command": "sh", "args": ["-c", script]})).await?.into_inner()
    {
        match event {
            RunProcessEvent::Started { .. } => {}
            RunProcessEvent::Output(output) => lines.push(output.line),
            RunProcessEvent::Exited { exit_code, .. } => code = exit_code,
        }
    }
    Ok((lines, code))
}

async fn says(inside: &SandboxProxyClient, script: &str, expected: &str) -> Result<()> {
    let (lines, code) = run(inside, script).await?;
    ensure!(code == Some(0) && lines == [expected], "{script}: {lines:?}, {code:?}");
    Ok(())
}

async fn processes(inside: &SandboxProxyClient) -> Result<()> {
    ensure!(inside.health().await?.healthy, "unhealthy");
    let (lines, code) = run(inside, "echo out; echo err >&2; exit 7").await?;
    ensure!(lines.len() == 2 && code == Some(7), "{lines:?}, {code:?}");
    let fields =
        json!({"command": "sh", "args": ["-c", "read word; echo got $word"], "stdin_mode": "pipe"});
    let pid = inside.start_process(&fields).await?.pid;
    inside.write_stdin(pid, b"food\n".to_vec()).await?;
    inside.close_stdin(pid).await?;
    let followed = inside.follow_output(pid).await?;
    ensure!(followed.iter().map(|it| it.line.as_str()).eq(["got food"]), "{:?}", *followed);
    ensure!(inside.get_stdout(pid).await?.lines == ["got food"]);
    let managed = json!({"command": "sleep", "args": ["1000"], "name": "kept", "restart": {"policy": "always"}});
    let first = inside.start_process(&managed).await?.pid;
    let second = inside.restart_process("kept").await?.pid;
    ensure!(first != second, "restarted with the same pid");
    ensure!(inside.list_processes().await?.iter().any(|it| it.pid == second));
    inside.kill_process("kept").await?;
    let sleeper = inside.start_process(&json!({"command": "sleep", "args": ["1000"]})).await?.pid;
    ensure!(inside.send_signal(sleeper, 15).await?.success, "no signal");
    inside.follow_output(sleeper).await?;
    ensure!(inside.get_process(sleeper).await?.signal == Some(15), "not ended by it");
    Ok(())
}

async fn files(inside: &SandboxProxyClient) -> Result<()> {
    let content: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    inside.write_file("/tmp/rust/deep/data", content.clone()).await?;
    ensure!(
        *inside.read_file("/tmp/rust/deep/data").await? == content,
        "read otherwise than written"
    );
    let listed = inside.list_directory("/tmp/rust/deep").await?;
    ensure!(listed.entries.len() == 1 && listed.entries[0].name == "data", "{:?}", listed.entries);
    inside.delete_file("/tmp/rust/deep/data").await?;
    ensure!(inside.read_file("/tmp/rust/deep/data").await.is_err(), "read after its end");
    let session =
        inside.create_pty_session(&json!({"command": "bash", "rows": 24, "cols": 80})).await?;
    let id = session["session_id"].as_str().context("session_id")?;
    inside.delete_pty_session(id).await?;
    Ok(())
}

async fn lifecycle(user: &User, sandbox: &str) -> Result<()> {
    says(&user.inside(sandbox).await?, "echo kept > /tmp/kept; cat /tmp/kept", "kept").await?;
    ensure!(*user.sandboxes.suspend_and_wait(sandbox, PATIENCE).await?, "still suspending");
    ensure!(user.sandboxes.get(sandbox).await?.status == "suspended");
    ensure!(*user.sandboxes.resume_and_wait(sandbox, PATIENCE).await?, "still resuming");
    says(&user.inside(sandbox).await?, "cat /tmp/kept", "kept").await?;
    let waits = user.sandboxes.create_no_wait(&shape::<CreateSandboxRequest>(json!({}))?).await?;
    let settled = user
        .sandboxes
        .wait_until_settled(&waits.sandbox_id, PATIENCE, Duration::from_millis(50))
        .await?;
    ensure!(settled.status == "running", "{:?}", *settled);
    let found = user.sandboxes.list().await?.iter().filter(|it| it.status == "running").count();
    ensure!(found >= 2, "{found} listed");
    user.sandboxes.delete(&waits.sandbox_id).await?;
    Ok(())
}

async fn snapshots(user: &User, sandbox: &str) -> Result<()> {
    for kind in [SnapshotType::Filesystem, SnapshotType::Memory] {
        let id = user.sandboxes.snapshot(sandbox, Some(kind)).await?.snapshot_id.clone();
        completed(user, &id).await?;
        let child = user.create(json!({"snapshot_id": id})).await?;
        says(&user.inside(&child).await?, "cat /tmp/kept", "kept").await?;
        user.sandboxes.delete(&child).await?;
        ensure!(
            user.sandboxes
                .list_sandbox_snapshots(sandbox)
                .await?
                .iter()
                .any(|it| it.snapshot_id == id)
        );
        user.sandboxes.delete_snapshot(&id).await?;
        ensure!(user.sandboxes.get_snapshot(&id).await.is_err(), "{kind:?} is there after its end");
    }
    let copied = user.sandboxes.copy(sandbox, 2).await?;
    ensure!(copied.sandboxes.len() == 2, "{:?}", *copied);
    for child in &copied.sandboxes {
        says(&user.inside(&child.sandbox_id).await?, "cat /tmp/kept", "kept").await?;
        user.sandboxes.delete(&child.sandbox_id).await?;
    }
    Ok(())
}

/// Waits for a snapshot to be complete.
async fn completed(user: &User, id: &str) -> Result<()> {
    let wait = async {
        loop {
            let now = user.sandboxes.get_snapshot(id).await?;
            match now.status.as_str() {
                "completed" | "local_ready" => return Ok(()),
                "failed" => bail!("{:?}", now.error),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.context("a snapshot")?
}

async fn update(user: &User, sandbox: &str) -> Result<()> {
    let mut request = shape::<UpdateSandboxRequest>(json!({"exposed_ports": [8080, 9090]}))?;
    request.network =
        NetworkPolicyUpdate::Set(shape::<NetworkConfig>(json!({"allow_internet_access": false}))?);
    let changed = user.sandboxes.update(sandbox, &request).await?;
    ensure!(changed.exposed_ports.as_deref() == Some(&[8080, 9090]), "{:?}", *changed);
    ensure!(
        changed.network_policy.as_ref().is_some_and(|it| !it.allow_internet_access),
        "{:?}",
        *changed
    );
    let larger = changed.resources.memory_mb + 256;
    let request = shape::<UpdateSandboxRequest>(json!({"resources": {"memory_mb": larger}}))?;
    let resized = user.sandboxes.update(sandbox, &request).await?;
    ensure!(resized.resources.memory_mb == larger, "{:?}", *resized);
    Ok(())
}

async fn images(user: &User, sandbox: &str) -> Result<()> {
    let snapshot =
        user.sandboxes.snapshot(sandbox, Some(SnapshotType::Filesystem)).await?.snapshot_id.clone();
    completed(user, &snapshot).await?;
    let service = ImageServiceCatalog::new(&user.client, &user.url);
    let adopted = service.adopt_snapshot("rust/adopted", &snapshot, false).await;
    let SnapshotAdoption::Published(_) = adopted.map_err(|error| anyhow::anyhow!("{error}"))?
    else {
        bail!("published later");
    };
    let catalog = SandboxImageCatalog::new(user.client.clone(), &user.url, None);
    let found = catalog.find("rust/adopted").await?.context("not found by its name")?;
    ensure!(catalog.list().await?.iter().any(|it| it.id == found.id), "not listed");
    let child = user.create(json!({"image": "rust/adopted"})).await?;
    says(&user.inside(&child).await?, "cat /tmp/kept", "kept").await?;
    user.sandboxes.delete(&child).await?;
    catalog.delete("rust/adopted").await?;
    ensure!(catalog.find("rust/adopted").await?.is_none(), "there after its end");
    user.sandboxes.delete_snapshot(&snapshot).await?;
    Ok(())
}

async fn pools(user: &User) -> Result<()> {
    let request = shape::<SandboxPoolRequest>(json!({
        "image": "tensorlake/ubuntu-minimal",
        "resources": {"cpus": 1.0, "memory_mb": 512, "disk_mb": 1024},
        "warm_containers": 1,
        "max_containers": 2,
    }))?;
    let pool = user.sandboxes.create_pool(&request).await?.pool_id.clone();
    let claimed = user.sandboxes.claim(&pool).await?.sandbox_id.clone();
    user.sandboxes.wait_until_settled(&claimed, PATIENCE, Duration::from_millis(50)).await?;
    says(&user.inside(&claimed).await?, "echo claimed", "claimed").await?;
    ensure!(user.sandboxes.list_pools().await?.iter().any(|it| it.pool_id == pool), "not listed");
    user.sandboxes.delete(&claimed).await?;
    user.sandboxes.delete_pool(&pool).await?;
    ensure!(user.sandboxes.get_pool(&pool).await.is_err(), "there after its end");
    Ok(())
}

async fn secrets(user: &User) -> Result<()> {
    let client = user.sdk.secrets();
    client.upsert_api_key_scoped(UpsertSecret::from(("RUST_SECRET", "told"))).await?;
    let listed = client.list_api_key_scoped(None).await?;
    let secret = listed.items.iter().find(|it| it.name == "RUST_SECRET").context("not listed")?;
    ensure!(client.get_api_key_scoped(&secret.id).await?.name == "RUST_SECRET");
    client.delete_api_key_scoped(&secret.id).await?;
    Ok(())
}

async fn errors(user: &User) -> Result<()> {
    match user.sandboxes.get("sbx_that_is_not_there").await {
        Err(SdkError::ReadRetryExhausted(error)) if error.to_string().contains("404") => {}
        Err(SdkError::ServerError { status, .. }) if status == 404 => {}
        other => bail!("an unknown sandbox: {other:?}"),
    }
    let stranger = User::new(&user.url, "tl_a_key_that_nobody_has")?;
    match stranger.sandboxes.list().await {
        Err(SdkError::Authentication(_)) => Ok(()),
        other => bail!("an unknown key: {other:?}"),
    }
}
