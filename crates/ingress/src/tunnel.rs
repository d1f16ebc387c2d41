//! WebSockets: after the handshake both ends are only bytes.

use std::{pin::pin, sync::Arc};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{io::copy_bidirectional_with_sizes, time::timeout};

use crate::{
    ingress::{ClientConnection, Shared},
    seldom::Seldom,
    stats::{Active, Gauge},
    upstream::Lease,
};

const BUFFER_BYTES: usize = 16 << 10;

/// The two ends of a tunnel.
#[derive(Debug)]
pub(crate) struct Ends<T> {
    pub(crate) client: T,
    pub(crate) sandbox: T,
}

/// Carries bytes both ways until one end closes, nobody speaks for the idle time, the sandbox
/// stops, or shutdown has waited long enough.
pub(crate) fn spawn(
    shared: &Arc<Shared>,
    client: ClientConnection,
    ends: Ends<OnUpgrade>,
    lease: Lease,
    active: Active,
) {
    let open = shared.stats.enter(Gauge::Tunnels);
    let tunnel = Arc::clone(shared);
    let run = async move {
        // Held for their drops: the client's connection still counts, the gauges are still up.
        let _held = (client, active, open);
        if let Some(ends) = opened(&tunnel, ends).await {
            carry(&tunnel, ends, &lease).await;
        }
    };
    drop(shared.tasks.spawn_here("ingress-tunnel", run));
}

/// Waits until both connections have finished their handshake.
async fn opened(shared: &Shared, ends: Ends<OnUpgrade>) -> Option<Ends<Upgraded>> {
    let both = async { tokio::try_join!(ends.client, ends.sandbox) };
    match timeout(shared.config.connect_timeout, both).await {
        Ok(Ok((client, sandbox))) => Some(Ends { client, sandbox }),
        Ok(Err(error)) => {
            tracing::debug!(%error, "an upgrade did not finish");
            None
        }
        Err(_elapsed) => None,
    }
}

async fn carry(shared: &Shared, ends: Ends<Upgraded>, lease: &Lease) {
    let mut client = TokioIo::new(ends.client);
    let mut sandbox = TokioIo::new(ends.sandbox);
    let copy = copy_bidirectional_with_sizes(&mut client, &mut sandbox, BUFFER_BYTES, BUFFER_BYTES);
    let drained = async {
        shared.tasks.stopping().await;
        tokio::time::sleep(shared.config.drain_grace).await;
    };
    let cut = pin!(async {
        tokio::select! {
            () = lease.idle(shared.config.idle_timeout) => {}
            () = lease.gone() => {}
            () = drained => {}
        }
    });
    tokio::select! {
        biased;
        copied = copy => {
            if let Err(error) = copied {
                tracing::debug!(%error, "a WebSocket broke");
            }
        }
        () = Seldom::new(cut) => {}
    }
}
