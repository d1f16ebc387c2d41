//! The addresses under which this server is reached, as clients are told them.

use std::net::SocketAddr;

use serde::Serialize;

use crate::config::Config;

/// Every address a client may be told. Written to `run/addresses.json` for local tools.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Addresses {
    /// What `TENSORLAKE_API_URL` must be.
    pub(crate) api: String,
    /// `sandbox_url` of every sandbox.
    pub(crate) ingress: String,
    /// `ingress_endpoint` of every sandbox.
    pub(crate) ingress_endpoint: String,
}

// === impl Addresses ===

impl Addresses {
    /// Composes them from the configuration and the ports that were taken.
    pub(crate) fn new(config: &Config, api: SocketAddr, ingress: SocketAddr) -> Self {
        let public = config.ingress.public_url.clone();
        let scheme = config.tls.mode.scheme();
        // In local mode `sandbox_url` is an address, which needs no resolver, and
        // `ingress_endpoint` a name, under which `<port>-<id>.localhost` works (spec 04 §2).
        let name = if ingress.ip().is_loopback() {
            format!("{scheme}://localhost:{}", ingress.port())
        } else {
            format!("{scheme}://{ingress}")
        };
        Self {
            api: config.api.public_url.clone().unwrap_or_else(|| format!("{scheme}://{api}")),
            ingress: public.clone().unwrap_or_else(|| format!("{scheme}://{ingress}")),
            ingress_endpoint: public.unwrap_or(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::TlsMode;

    #[test]
    fn local_mode_is_what_the_clients_expect() {
        let address = |text: &str| text.parse().expect("an address");
        let local = Addresses::new(
            &Config::default(),
            address("127.0.0.1:8900"),
            address("127.0.0.1:9443"),
        );
        assert_eq!(local.api, "http://127.0.0.1:8900");
        assert_eq!(local.ingress, "http://127.0.0.1:9443");
        assert_eq!(local.ingress_endpoint, "http://localhost:9443");
        let mut config = Config::default();
        config.tls.mode = TlsMode::LocalCa;
        let local = Addresses::new(&config, address("127.0.0.1:8900"), address("127.0.0.1:9443"));
        assert_eq!(local.api, "https://127.0.0.1:8900");
        assert_eq!(local.ingress, "https://127.0.0.1:9443");
        assert_eq!(local.ingress_endpoint, "https://localhost:9443");
        config.ingress.public_url = Some("https://sandbox.example.com".to_owned());
        let public = Addresses::new(&config, address("127.0.0.1:1"), address("127.0.0.1:2"));
        assert_eq!(public.ingress_endpoint, "https://sandbox.example.com");
    }
}
