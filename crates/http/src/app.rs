//! What every handler has at hand.

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use tarn_api::response::IngressAddress;
use tarn_builder::Builder;
use tarn_control::Control;
use tarn_task::Entropy;

use crate::{
    metric::HttpMetrics,
    rate::{RateLimit, Rates},
};

/// Returns further metrics in the Prometheus text format, each line ended; asked at each scrape.
pub type MetricsSource = Arc<dyn Fn() -> String + Send + Sync>;

/// The numbers and addresses of the HTTP layer; all are configuration.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Where clients find the ingress.
    pub ingress: IngressAddress,
    /// Where clients find this API, for those who do not say how they did.
    pub api_url: String,
    /// The largest JSON body, in bytes. Default: 1 MiB (spec 00 §3).
    pub body_limit: usize,
    /// The same where images are built and registered. Default: 4 MiB (spec 00 §3).
    pub build_body_limit: usize,
    /// How long a body may take to arrive. Default: 30 s.
    pub body_timeout: Duration,
    /// How long a create is held for a caller that names no budget. Default: 30 s (spec 01 §2).
    pub hold: Duration,
    /// How long a create is held at most, whatever the budget. Default: 1 h.
    pub hold_max: Duration,
    /// How many requests a key may send. Default: any number.
    pub rate_limit: Option<RateLimit>,
}

/// What the HTTP layer works with.
#[derive(Clone)]
pub struct HttpParts {
    /// The control plane.
    pub control: Control,
    /// What builds images.
    pub builder: Builder,
    /// The source of request ids.
    pub entropy: Arc<dyn Entropy>,
    /// Metrics of other components, shown by `/metrics` beside ours.
    pub metrics: Vec<MetricsSource>,
}

/// The state of a router. Clones share it.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: HttpConfig,
    pub(crate) parts: HttpParts,
    pub(crate) metrics: HttpMetrics,
    pub(crate) rates: Option<Rates>,
}

// === impl HttpConfig ===

impl HttpConfig {
    /// Takes the addresses of ingress and API, and defaults for the rest.
    #[must_use]
    pub fn new(ingress: IngressAddress, api_url: String) -> Self {
        Self {
            ingress,
            api_url,
            body_limit: 1 << 20,
            build_body_limit: 4 << 20,
            body_timeout: Duration::from_secs(30),
            hold: Duration::from_secs(30),
            hold_max: Duration::from_secs(3600),
            rate_limit: None,
        }
    }
}

// === impl HttpParts ===

impl fmt::Debug for HttpParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpParts").finish_non_exhaustive()
    }
}

// === impl App ===

impl App {
    pub(crate) fn new(config: HttpConfig, parts: HttpParts) -> Self {
        let rates = config.rate_limit.map(Rates::new);
        Self(Arc::new(Inner { config, parts, metrics: HttpMetrics::default(), rates }))
    }

    pub(crate) fn control(&self) -> &Control {
        &self.0.parts.control
    }
}

impl Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}
