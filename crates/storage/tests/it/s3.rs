//! A real S3 server for a test: versitygw over a directory.

use std::{
    fs::{self, File},
    io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tarn_storage::ObjectStoreConfig;

use crate::stage::until;

const ACCESS_KEY: &str = "access";
const SECRET_KEY: &str = "a-secret-of-the-test";

/// A running server; it ends with this.
pub(crate) struct S3Server {
    program: PathBuf,
    dir: tempfile::TempDir,
    port: u16,
    process: Child,
}

impl S3Server {
    /// Starts one, if the environment says where its program is.
    pub(crate) async fn start() -> Result<Option<Self>> {
        #[allow(clippy::disallowed_methods, reason = "a test is told here what the host has")]
        let program = std::env::var("TARN_TEST_VERSITYGW");
        #[allow(clippy::print_stderr, reason = "a test has no other place to say it")]
        let Ok(program) = program else {
            eprintln!("skipped: TARN_TEST_VERSITYGW does not name a versitygw program");
            return Ok(None);
        };
        let dir = tempfile::Builder::new().prefix("tarn-s3-").tempdir_in("/var/tmp")?;
        fs::create_dir(dir.path().join("bucket"))?;
        let port = free_port().context("no port is free")?;
        let process = spawn(Path::new(&program), dir.path(), port)?;
        let mut server = Self { program: program.into(), dir, port, process };
        server.is_up().await?;
        Ok(Some(server))
    }

    async fn is_up(&mut self) -> Result<()> {
        let address = ("127.0.0.1", self.port);
        let answers = || {
            if let Some(status) = self.process.try_wait()? {
                bail!("the S3 server ended: {status}");
            }
            Ok(std::net::TcpStream::connect(address).is_ok())
        };
        until("the S3 server", answers).await
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait().context("wait for its end").map(drop)
    }

    /// Takes one connection in its place, and ends it.
    pub(crate) async fn refuse_one(&self) -> Result<()> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", self.port)).await?;
        listener.accept().await.context("be asked").map(drop)
    }

    pub(crate) async fn restart(&mut self) -> Result<()> {
        self.process = spawn(&self.program, self.dir.path(), self.port)?;
        self.is_up().await
    }

    pub(crate) fn config(&self) -> ObjectStoreConfig {
        ObjectStoreConfig {
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            access_key: Some(ACCESS_KEY.to_owned()),
            secret_key: Some(SECRET_KEY.to_owned().into()),
            allow_http: true,
            ..ObjectStoreConfig::new("s3://bucket/some/prefix/")
        }
    }

    /// Makes all objects older.
    pub(crate) fn age(&self, by: Duration) -> Result<()> {
        age(&self.dir.path().join("bucket"), by)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // It may have ended before.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn spawn(program: &Path, dir: &Path, port: u16) -> Result<Child> {
    let mut command = Command::new(program);
    command
        .arg("--port")
        .arg(format!("127.0.0.1:{port}"))
        .arg("posix")
        .arg(dir)
        .env("ROOT_ACCESS_KEY", ACCESS_KEY)
        .env("ROOT_SECRET_KEY", SECRET_KEY)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().with_context(|| format!("start {}", program.display()))
}

/// A port below those that the kernel gives away, so that it is free after a restart as well.
fn free_port() -> Option<u16> {
    let first = u16::try_from(std::process::id() % 10_000).ok()?;
    (0..10_000)
        .map(|n| 20_000 + (first + n) % 10_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
}

fn age(dir: &Path, by: Duration) -> Result<()> {
    // The server removes directories that have become empty, and its drafts, when it likes.
    let Some(entries) = there(fs::read_dir(dir))? else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            age(&path, by)?;
        } else if let Some(file) = there(File::options().write(true).open(&path))? {
            file.set_modified(file.metadata()?.modified()? - by)?;
        }
    }
    Ok(())
}

/// What is removed meanwhile is not there; anything else that fails does.
fn there<T>(found: io::Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(failed) => Err(failed.into()),
    }
}
