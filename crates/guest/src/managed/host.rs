//! The driver's hands: runs as processes of this sandbox.

use std::{rc::Rc, time::Duration};

use tarn_daemon_api::ManagedExit;

use super::{Managed, driver::Host, probe};
use crate::{
    daemon::Daemon,
    process::{
        Process,
        census::Origin,
        start::{Audience, StartError, start},
        tree,
    },
};

/// A managed process of this sandbox.
pub(super) struct Guest {
    daemon: Rc<Daemon>,
    managed: Rc<Managed>,
}

// === impl Guest ===

impl Guest {
    pub(super) fn new(daemon: Rc<Daemon>, managed: Rc<Managed>) -> Self {
        Self { daemon, managed }
    }

    /// The latest run; it stays in the table as long as its managed process is live.
    fn run(&self) -> Option<Rc<Process>> {
        self.daemon.processes.by_handle(self.managed.current.get())
    }

    fn origin(&self) -> Origin {
        Origin::Started(self.managed.current.get())
    }
}

impl Host for Guest {
    fn start(&self) -> Result<(), String> {
        let opened = self.daemon.opened().ok_or("the sandbox is not initialised")?;
        let request = self.managed.request.clone();
        match start(&self.daemon, opened, request, Audience::Followers) {
            Ok(process) => {
                self.managed.adopt(&self.daemon, &process);
                Ok(())
            }
            Err(StartError::Invalid(text) | StartError::Failed(text)) => Err(text),
        }
    }

    /// Nothing is started while the daemon is sealed: it might belong to another sandbox.
    async fn pause(&self, pause: Duration) {
        self.daemon.seal.pass(pause).await;
    }

    async fn wait_end(&self) -> ManagedExit {
        match self.run() {
            Some(run) => {
                run.wait_end().await;
                run.managed_exit()
            }
            None => std::future::pending().await,
        }
    }

    fn terminate(&self) {
        if let Some(run) = self.run() {
            tree::terminate(&self.daemon, self.origin(), run.pid());
        }
    }

    async fn wait_empty(&self) {
        tree::wait_empty(&self.daemon, self.origin()).await;
    }

    async fn kill(&self) {
        tree::kill(&self.daemon, self.origin()).await;
    }

    async fn probe(&self) -> Result<(), String> {
        match &self.managed.config.health_check {
            Some(check) => probe::probe(check).await,
            None => Ok(()),
        }
    }

    fn probe_limit(&self) -> Duration {
        let check = self.managed.config.health_check.as_ref();
        check.map_or(Duration::ZERO, |check| Duration::from_millis(check.timeout_ms))
    }
}
