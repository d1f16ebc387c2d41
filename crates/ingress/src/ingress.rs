//! The ingress as a whole, and one request through it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use crate::{
    activity::ActivityLog,
    address::Address,
    admit::Admission,
    body::IngressBody,
    config::IngressConfig,
    cors,
    error::{IngressCode, IngressError},
    forward, header as head,
    lane::LaneNumber,
    places::{Busy, Place},
    shape,
    stats::IngressStats,
    upstream::Upstreams,
};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use tarn_route_api::Routes;
use tarn_task::Tasks;

/// Proxies requests to sandboxes. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Ingress {
    pub(crate) shared: Arc<Shared>,
}

/// One client's connection, as far as its requests need to know it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ClientConnection {
    peer: SocketAddr,
    /// The same as programs are told it.
    hop: HeaderValue,
    number: ClientNumber,
    lane: LaneNumber,
    phase: Arc<ClientPhase>,
    /// Kept also by what outlives the connection's task.
    place: Option<Arc<Place>>,
}

/// Tells one client's connection from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClientNumber(u64);

/// What has become of a client's connection.
#[derive(Debug, Default)]
pub(crate) struct ClientPhase {
    tunnel: AtomicBool,
}

/// What all parts of the ingress share.
pub(crate) struct Shared {
    pub(crate) config: Arc<IngressConfig>,
    pub(crate) tasks: Tasks,
    pub(crate) stats: Arc<IngressStats>,
    pub(crate) upstreams: Arc<Upstreams>,
    admission: Admission,
}

// === impl Ingress ===

impl Ingress {
    /// Makes an ingress that asks `routes`, spawns through `tasks`, and tells `activity` what goes
    /// on.
    #[must_use]
    pub fn new(
        config: IngressConfig,
        routes: Arc<dyn Routes>,
        activity: Arc<ActivityLog>,
        tasks: Tasks,
    ) -> Self {
        let config = Arc::new(config);
        let stats = Arc::new(IngressStats::default());
        let upstreams = Arc::new(Upstreams::new(
            Arc::clone(&config),
            Arc::clone(&routes),
            tasks.clone(),
            Arc::clone(&stats),
        ));
        let (told, counted) = (Arc::clone(&config), Arc::clone(&stats));
        let admission = Admission::new(told, routes, tasks.clone(), counted, activity);
        Self { shared: Arc::new(Shared { config, tasks, stats, upstreams, admission }) }
    }

    /// Returns the counters, for `/metrics`.
    #[must_use]
    pub fn stats(&self) -> Arc<IngressStats> {
        Arc::clone(&self.shared.stats)
    }

    /// Answers one request; for a server that shares its port with the API.
    ///
    /// The server must be hyper's with upgrades. Dropping the future withdraws the request from
    /// the sandbox.
    pub async fn answer(
        &self,
        client: &ClientConnection,
        request: Request<Incoming>,
    ) -> Response<IngressBody> {
        let most = self.shared.config.max_header_bytes;
        if head_bytes(&request) > most {
            let mut response = Response::new(IngressBody::full(Bytes::new()));
            *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return self.answer_last(response);
        }
        let Some(busy) = client.begin() else {
            let response = self.refuse(full());
            return self.answer_last(response);
        };
        if let Err(error) = shape::check(&request, !request.body().is_end_stream()) {
            let response = self.refuse(error);
            return self.answer_last(response);
        }
        let origin = request.headers().get(header::ORIGIN).cloned();
        let parsed = forward::refuse_connect(request.method()).and_then(|()| {
            let domains = &self.shared.config.ingress_domains;
            Address::parse(request.uri(), request.headers(), domains)
        });
        let (daemon, answer) = match parsed {
            Ok(address) => (address.is_daemon(), self.route(client, request, &address, busy).await),
            Err(error) => (false, Err(error)),
        };
        let mut response = match answer {
            Ok(response) => response,
            Err(error) => self.refuse(error),
        };
        if daemon {
            cors::allow_origin(response.headers_mut(), origin.as_ref());
        }
        self.shared.stats.count_response(response.status());
        response
    }

    async fn route(
        &self,
        client: &ClientConnection,
        request: Request<Incoming>,
        address: &Address,
        busy: Option<Busy>,
    ) -> Result<Response<IngressBody>, IngressError> {
        if address.is_daemon() && cors::is_preflight(request.method(), request.headers()) {
            return Ok(cors::preflight(request.headers()));
        }
        if address.is_daemon() {
            // Before anything is looked up or woken: it is nobody's, so everybody hears the same.
            forward::refuse_internal(request.uri().path())?;
        }
        let admitted = self.shared.admission.admit(address, request.headers()).await?;
        forward::forward(&self.shared, client, request, (address, admitted, busy)).await
    }

    /// Counts an answer after which nothing more is believed on its connection.
    fn answer_last(&self, mut response: Response<IngressBody>) -> Response<IngressBody> {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        self.shared.stats.count_response(response.status());
        response
    }

    fn refuse(&self, error: IngressError) -> Response<IngressBody> {
        tracing::debug!(code = error.code().as_str(), %error, "refused");
        self.shared.stats.count_error(error.code());
        error.into_response()
    }
}

// === impl ClientConnection ===

impl ClientConnection {
    /// Describes a connection by its peer's address.
    #[must_use]
    pub fn new(peer: SocketAddr) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = ClientNumber(NEXT.fetch_add(1, SeqCst));
        let hop = head::hop(peer.ip());
        let (lane, phase) = (LaneNumber::default(), Arc::default());
        Self { peer, hop, number, lane, phase, place: None }
    }

    pub(crate) fn holding(peer: SocketAddr, place: Arc<Place>, lane: LaneNumber) -> Self {
        Self { place: Some(place), lane, ..Self::new(peer) }
    }

    /// Begins a request; None if none may begin here.
    #[allow(clippy::option_option, reason = "a connection of another server has no place")]
    fn begin(&self) -> Option<Option<Busy>> {
        match &self.place {
            None => Some(None),
            Some(place) if place.is_turned_away() => None,
            Some(place) => place.begin().map(Some),
        }
    }

    /// Says whether requests here are only told that there is no place.
    pub(crate) fn is_turned_away(&self) -> bool {
        self.place.as_ref().is_some_and(|place| place.is_turned_away())
    }

    /// Resolves when the connection has to make room for another.
    pub(crate) async fn given_up(&self) {
        match &self.place {
            Some(place) => place.given_up().await,
            None => std::future::pending().await,
        }
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn hop(&self) -> &HeaderValue {
        &self.hop
    }

    pub(crate) fn number(&self) -> ClientNumber {
        self.number
    }

    pub(crate) fn lane(&self) -> LaneNumber {
        self.lane
    }

    pub(crate) fn phase(&self) -> &Arc<ClientPhase> {
        &self.phase
    }
}

// === impl ClientPhase ===

impl ClientPhase {
    /// Notes that from now on the connection is only bytes.
    pub(crate) fn become_tunnel(&self) {
        self.tunnel.store(true, SeqCst);
    }

    pub(crate) fn is_tunnel(&self) -> bool {
        self.tunnel.load(SeqCst)
    }
}

/// The answer where no connection has a place to give.
fn full() -> IngressError {
    let message = "the ingress has no place for another connection; the request was not executed, \
                   close connections that are not needed and retry";
    IngressError::new(IngressCode::SandboxUpstreamError, message)
}

/// What a head takes as text in HTTP/1.
fn head_bytes(request: &Request<Incoming>) -> usize {
    let line = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let headers = request.headers().iter();
    line + headers.map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>()
}
