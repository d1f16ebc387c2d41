//! What the ingress is told at start.

use std::time::Duration;

/// How clients reach us; what user programs see in `X-Forwarded-Proto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PublicScheme {
    /// Plain HTTP.
    #[default]
    Http,
    /// HTTPS, ended by us or by something in front of us.
    Https,
}

/// Configures an ingress; the default is that of local mode.
#[derive(Debug, Clone)]
pub struct IngressConfig {
    /// Host suffixes under which one label names a sandbox, without a leading dot. Default:
    /// `local` and `localhost` (spec 04 §2).
    pub ingress_domains: Vec<String>,
    /// What clients see in front of us.
    pub public_scheme: PublicScheme,
    /// How long a connection to a sandbox may take to open. Default: 10 s (spec 04 §4).
    pub connect_timeout: Duration,
    /// After how long without a byte in either direction a stream is closed. Default: 3600 s.
    pub idle_timeout: Duration,
    /// How long a request waits for a sandbox without a budget of its own. Default: 60 s.
    pub hold_timeout: Duration,
    /// How long the port of a sandbox that has just come up may refuse before a held request is
    /// answered. Default: 5 s. Whoever listened before a suspend listens at once after the resume;
    /// a program that has only just been started takes this long at most.
    pub listen_patience: Duration,
    /// How long a new connection may take to its first whole request head, TLS handshake included.
    /// Default: 15 s.
    pub first_request_timeout: Duration,
    /// How long each further request head may take, idle time of the connection included.
    ///
    /// Default: 120 s. Longer than clients keep idle connections (90 s), so that it is they who
    /// close and none of their requests meets a closing connection.
    pub header_timeout: Duration,
    /// How long requests in flight may go on once shutdown has begun. Default: 10 s.
    pub drain_grace: Duration,
    /// Threads that client connections are shared out to. Default: 0, which serves them on the
    /// runtime of the caller.
    pub threads: usize,
    /// Client connections open at a time. Default: 16384.
    ///
    /// When there are as many, the one that has been idle for the longest gives way to the next; if
    /// none is idle, the next is refused.
    pub max_connections: usize,
    /// Requests under way at a time, over all connections: each holds a connection to a sandbox.
    /// A quarter of them may be of one sandbox; more are refused. Default: 16384.
    pub max_requests: usize,
    /// Requests waiting for their sandbox at a time, a sixteenth of them for the same one; more are
    /// refused. Default: 4096.
    pub max_held: usize,
    /// The longest request head (target, names and values) in bytes. Default: 64 KiB.
    pub max_header_bytes: usize,
    /// Requests at a time on one HTTP/2 connection. Default: 128.
    pub max_streams: u32,
    /// Idle connections kept to a daemon, which pays for each in its memory. Default: 32.
    pub pool_daemon_most: usize,
    /// How long an idle connection to a daemon is kept. Default: 60 s.
    pub pool_daemon_idle: Duration,
    /// Idle connections kept per user port. Default: 128.
    ///
    /// As many as callers at once that each wait for their answer: with fewer places a burst of
    /// answers closes connections that the requests behind it open again.
    pub pool_user_most: usize,
    /// How long an idle connection to a user port is kept.
    ///
    /// Default: 1.5 s. The servers people run close idle connections after 2 s (gunicorn) or 5 s
    /// (node, uvicorn); a request that crosses such a close is lost, so we close first.
    pub pool_user_idle: Duration,
    /// After how long the open streams of a sandbox that has stopped are cut.
    ///
    /// Default: 1 s. Its network stack dies with it, so it never closes them itself; what it has
    /// sent already is given this long to arrive.
    pub stopped_linger: Duration,
}

// === impl PublicScheme ===

impl PublicScheme {
    /// Returns the scheme's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

// === impl IngressConfig ===

impl IngressConfig {
    /// Requests open to one sandbox at a time: the callers of one public port leave room for the
    /// other sandboxes.
    pub(crate) fn most_per_sandbox(&self) -> usize {
        (self.max_requests / 4).max(1)
    }
}

impl Default for IngressConfig {
    fn default() -> Self {
        Self {
            ingress_domains: vec!["local".to_owned(), "localhost".to_owned()],
            public_scheme: PublicScheme::Http,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3600),
            hold_timeout: Duration::from_secs(60),
            listen_patience: Duration::from_secs(5),
            first_request_timeout: Duration::from_secs(15),
            header_timeout: Duration::from_secs(120),
            drain_grace: Duration::from_secs(10),
            threads: 0,
            max_connections: 16384,
            max_requests: 16384,
            max_held: 4096,
            max_header_bytes: 64 << 10,
            max_streams: 128,
            pool_daemon_most: 32,
            pool_daemon_idle: Duration::from_secs(60),
            pool_user_most: 128,
            pool_user_idle: Duration::from_millis(1500),
            stopped_linger: Duration::from_secs(1),
        }
    }
}
