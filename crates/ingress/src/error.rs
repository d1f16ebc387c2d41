//! The errors a client of the ingress can meet (spec 04 §6).

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;
use tarn_types::ErrorClass;
use thiserror::Error;

use crate::body::IngressBody;

/// The stable codes of the ingress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IngressCode {
    /// No sandbox can be read from the request.
    MissingSandboxId,
    /// The request is malformed or contradicts itself.
    InvalidRequest,
    /// CONNECT; tunnels go through the daemon.
    MethodNotAllowed,
    /// A path of the daemon that only the sandbox's node may ask for.
    NotFound,
    /// No valid credential.
    Unauthenticated,
    /// The port is not among the sandbox's exposed ports.
    PortNotExposed,
    /// The caller has no such sandbox.
    SandboxNotFound,
    /// It exists, does not run and cannot be woken.
    SandboxNotRunning,
    /// It did not get ready within the time; not executed.
    SandboxNotReady,
    /// Its daemon could not be reached; not executed.
    SandboxUnreachable,
    /// Our side of the way is missing, draining or out of date; not executed.
    SandboxUpstreamError,
    /// Keys cannot be checked just now; not executed.
    AuthServiceUnavailable,
    /// Nothing listens on the user port.
    ConnectionRefused,
    /// The sandbox closed the connection before it answered.
    ConnectionClosed,
    /// The user port did not accept in time.
    ConnectionTimeout,
    /// No answer and no byte for the idle time.
    ReadTimeout,
    /// The request's body was not accepted for the idle time.
    WriteTimeout,
    /// The sandbox answered with something that is not HTTP, or could not be reached at all.
    ProxyError,
}

/// Says why a request was not answered by its sandbox, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct IngressError {
    code: IngressCode,
    message: String,
}

// === impl IngressCode ===

impl IngressCode {
    /// Every code.
    pub const ALL: [Self; 18] = [
        Self::MissingSandboxId,
        Self::InvalidRequest,
        Self::MethodNotAllowed,
        Self::NotFound,
        Self::Unauthenticated,
        Self::PortNotExposed,
        Self::SandboxNotFound,
        Self::SandboxNotRunning,
        Self::SandboxNotReady,
        Self::SandboxUnreachable,
        Self::SandboxUpstreamError,
        Self::AuthServiceUnavailable,
        Self::ConnectionRefused,
        Self::ConnectionClosed,
        Self::ConnectionTimeout,
        Self::ReadTimeout,
        Self::WriteTimeout,
        Self::ProxyError,
    ];

    /// Returns the word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MissingSandboxId => "MISSING_SANDBOX_ID",
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::NotFound => "NOT_FOUND",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::PortNotExposed => "PORT_NOT_EXPOSED",
            Self::SandboxNotFound => "SANDBOX_NOT_FOUND",
            Self::SandboxNotRunning => "SANDBOX_NOT_RUNNING",
            Self::SandboxNotReady => "SANDBOX_NOT_READY",
            Self::SandboxUnreachable => "SANDBOX_UNREACHABLE",
            Self::SandboxUpstreamError => "SANDBOX_UPSTREAM_ERROR",
            Self::AuthServiceUnavailable => "AUTH_SERVICE_UNAVAILABLE",
            Self::ConnectionRefused => "CONNECTION_REFUSED",
            Self::ConnectionClosed => "CONNECTION_CLOSED",
            Self::ConnectionTimeout => "CONNECTION_TIMEOUT",
            Self::ReadTimeout => "READ_TIMEOUT",
            Self::WriteTimeout => "WRITE_TIMEOUT",
            Self::ProxyError => "PROXY_ERROR",
        }
    }

    /// Returns the HTTP status (spec 00 §3, 04 §6).
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::MissingSandboxId | Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::PortNotExposed => StatusCode::FORBIDDEN,
            Self::NotFound | Self::SandboxNotFound => StatusCode::NOT_FOUND,
            Self::SandboxNotRunning | Self::SandboxNotReady | Self::AuthServiceUnavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::SandboxUnreachable
            | Self::SandboxUpstreamError
            | Self::ConnectionRefused
            | Self::ConnectionClosed
            | Self::ProxyError => StatusCode::BAD_GATEWAY,
            Self::ConnectionTimeout | Self::ReadTimeout | Self::WriteTimeout => {
                StatusCode::GATEWAY_TIMEOUT
            }
        }
    }

    /// Says whether clients repeat any request that got this code, even a `processes/run`.
    ///
    /// Such a code promises that the request was not executed.
    #[must_use]
    pub const fn is_retry_safe(self) -> bool {
        matches!(
            self,
            Self::SandboxNotReady
                | Self::SandboxUnreachable
                | Self::SandboxUpstreamError
                | Self::AuthServiceUnavailable
        )
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

// === impl IngressError ===

impl IngressError {
    pub(crate) fn new(code: IngressCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Returns the stable code.
    #[must_use]
    pub fn code(&self) -> IngressCode {
        self.code
    }

    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self.code {
            IngressCode::MissingSandboxId
            | IngressCode::InvalidRequest
            | IngressCode::MethodNotAllowed => ErrorClass::Invalid,
            IngressCode::Unauthenticated | IngressCode::PortNotExposed => ErrorClass::Denied,
            IngressCode::NotFound | IngressCode::SandboxNotFound => ErrorClass::NotFound,
            IngressCode::SandboxNotRunning => ErrorClass::Conflict,
            IngressCode::SandboxNotReady
            | IngressCode::SandboxUnreachable
            | IngressCode::SandboxUpstreamError
            | IngressCode::AuthServiceUnavailable
            | IngressCode::ConnectionRefused
            | IngressCode::ConnectionClosed
            | IngressCode::ConnectionTimeout
            | IngressCode::ReadTimeout
            | IngressCode::WriteTimeout
            | IngressCode::ProxyError => ErrorClass::Unavailable,
        }
    }

    /// Makes the answer: `{"error","code"}`.
    pub(crate) fn into_response(self) -> Response<IngressBody> {
        let body = json!({ "error": self.message, "code": self.code.as_str() }).to_string();
        let mut response = Response::new(IngressBody::full(Bytes::from(body)));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self.code {
            IngressCode::Unauthenticated => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            IngressCode::MethodNotAllowed => {
                let allowed = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
                headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
            }
            IngressCode::MissingSandboxId
            | IngressCode::InvalidRequest
            | IngressCode::NotFound
            | IngressCode::PortNotExposed
            | IngressCode::SandboxNotFound
            | IngressCode::SandboxNotRunning
            | IngressCode::SandboxNotReady
            | IngressCode::SandboxUnreachable
            | IngressCode::SandboxUpstreamError
            | IngressCode::AuthServiceUnavailable
            | IngressCode::ConnectionRefused
            | IngressCode::ConnectionClosed
            | IngressCode::ConnectionTimeout
            | IngressCode::ReadTimeout
            | IngressCode::WriteTimeout
            | IngressCode::ProxyError => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_statuses_of_the_spec() {
        let table = [
            ("MISSING_SANDBOX_ID", 400, false),
            ("INVALID_REQUEST", 400, false),
            ("METHOD_NOT_ALLOWED", 405, false),
            ("NOT_FOUND", 404, false),
            ("UNAUTHENTICATED", 401, false),
            ("PORT_NOT_EXPOSED", 403, false),
            ("SANDBOX_NOT_FOUND", 404, false),
            ("SANDBOX_NOT_RUNNING", 503, false),
            ("SANDBOX_NOT_READY", 503, true),
            ("SANDBOX_UNREACHABLE", 502, true),
            ("SANDBOX_UPSTREAM_ERROR", 502, true),
            ("AUTH_SERVICE_UNAVAILABLE", 503, true),
            ("CONNECTION_REFUSED", 502, false),
            ("CONNECTION_CLOSED", 502, false),
            ("CONNECTION_TIMEOUT", 504, false),
            ("READ_TIMEOUT", 504, false),
            ("WRITE_TIMEOUT", 504, false),
            ("PROXY_ERROR", 502, false),
        ];
        for (index, (code, (word, status, safe))) in IngressCode::ALL.iter().zip(table).enumerate()
        {
            assert_eq!(code.index(), index);
            assert_eq!(code.as_str(), word);
            assert_eq!(code.status(), status, "{word}");
            assert_eq!(code.is_retry_safe(), safe, "{word}");
        }
    }
}
