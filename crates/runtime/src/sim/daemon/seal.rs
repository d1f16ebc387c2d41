//! Standing aside around a memory image, as the real daemon does it: while it is sealed requests
//! are held, and connections end with the era in which they were accepted.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use http::Request;
use hyper::body::Incoming;
use tarn_daemon_api::code;
use tarn_guest_api::{
    Continues, PROTOCOL, SealRequest, SealResponse, UnsealRequest, UnsealResponse,
};
use tokio::sync::watch;

use super::{Daemon, Identity, body, private::check_token};
use crate::sim::{
    answer::{self, Answer, Refusal},
    fault::SimStep,
};

/// An unseal that would install a token in a daemon that is not sealed.
const NOT_SEALED: &str = "NOT_SEALED";

/// Whether requests are begun, and of which connections.
pub(super) struct Seal(watch::Sender<State>);

#[derive(Debug, Clone, Copy)]
struct State {
    sealed: bool,
    era: u64,
}

/// One client's connection.
pub(super) struct Connection {
    era: AtomicU64,
}

// === impl Seal ===

impl Seal {
    pub(super) fn new(sealed: bool) -> Self {
        Self(watch::Sender::new(State { sealed, era: 0 }))
    }

    /// Describes a connection accepted now.
    pub(super) fn connection(&self) -> Connection {
        Connection { era: AtomicU64::new(self.0.borrow().era) }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.borrow().sealed
    }

    fn close(&self) {
        self.0.send_modify(|state| state.sealed = true);
    }

    /// Begins requests again.
    fn open(&self) {
        self.0.send_modify(|state| state.sealed = false);
    }

    /// Begins requests again, and ends every connection but one.
    fn open_for(&self, survivor: &Connection) {
        self.0.send_modify(|state| {
            *state = State { sealed: false, era: state.era + 1 };
            survivor.era.store(state.era, Ordering::Relaxed);
        });
    }

    /// Resolves when requests are begun.
    pub(super) async fn opened(&self) {
        // The sender lives in `self`, so the channel cannot close while this waits.
        drop(self.0.subscribe().wait_for(|state| !state.sealed).await);
    }

    /// Resolves when a connection is to end.
    pub(super) async fn outlived(&self, connection: &Connection) {
        let is_over = |state: &State| state.era > connection.era.load(Ordering::Relaxed);
        drop(self.0.subscribe().wait_for(is_over).await);
    }
}

impl Daemon {
    pub(super) async fn seal(self: &Arc<Self>, request: Request<Incoming>) -> Answer {
        self.authorise(&request)?;
        let SealRequest {} = body(request).await?;
        if self.faults.meet(SimStep::Seal).await {
            return Err(Refusal::new(500, code::INTERNAL_ERROR, "seal was made to fail"));
        }
        self.seal.close();
        Ok(answer::json(200, &SealResponse {}))
    }

    pub(super) async fn unseal(
        self: &Arc<Self>,
        connection: &Connection,
        request: Request<Incoming>,
    ) -> Answer {
        let identity = self.authorise(&request)?;
        let unseal: UnsealRequest = body(request).await?;
        if self.faults.meet(SimStep::Unseal).await {
            return Err(Refusal::new(500, code::INTERNAL_ERROR, "unseal was made to fail"));
        }
        if unseal.protocol != PROTOCOL {
            let text = format!("this daemon speaks protocol {PROTOCOL}, not {}", unseal.protocol);
            return Err(Refusal::new(400, tarn_guest_api::code::UNSUPPORTED_PROTOCOL, text));
        }
        let token = check_token(&unseal.token)?;
        let response = UnsealResponse { protocol: PROTOCOL, version: self.info().version };
        if !self.seal.is_closed() {
            if identity.token == token {
                return Ok(answer::json(200, &response));
            }
            let text = "this daemon is not sealed, and its token is another: seal it first";
            return Err(Refusal::new(409, NOT_SEALED, text));
        }
        if unseal.continues == Continues::Copy {
            self.log
                .begin_anew(format!("sim-{}-{}", self.clock.now(), &token[..16]), &self.processes);
        }
        let env = unseal.env.map(|env| env.0.into_iter().collect());
        let env = env.unwrap_or_else(|| identity.env.clone());
        let next = Identity { token, env, ..Identity::clone(&identity) };
        *self.identity.lock() = Some(Arc::new(next));
        match unseal.continues {
            Continues::Itself => self.seal.open(),
            Continues::Suspended | Continues::Copy => self.seal.open_for(connection),
        }
        Ok(answer::json(200, &response))
    }
}
