//! From refusals and errors to answers: status, body, headers and log line, in one place.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use tarn_api::{ErrorBody, ErrorCode, Refusal};
use tarn_control::{ControlError, SecretKeyError};
use tarn_types::{ErrorClass, SandboxStatus};

/// Why a request is answered with an error.
///
/// As a response it is only a status with itself attached: [`crate::frame`] writes the body,
/// because it alone knows the path, and some paths want the text twice.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    code: ErrorCode,
    status: StatusCode,
    text: String,
    /// For our log only.
    detail: Option<String>,
    /// In how many seconds another try makes sense.
    retry_after_secs: Option<u64>,
}

/// Whether the body repeats its text as `message`, where the `tl` CLI looks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyStyle {
    Plain,
    WithMessage,
}

/// How long a client should wait before it tries again what is not available, in seconds.
const RETRY_AFTER_SECS: u64 = 1;

// === impl Failure ===

impl Failure {
    pub(crate) fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        let status = status(code);
        let retry_after_secs =
            (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER_SECS);
        Self { code, status, text: text.into(), detail: None, retry_after_secs }
    }

    /// Refuses what comes too fast. A whole number of seconds is told, at least one.
    pub(crate) fn rate_limited(wait: Duration) -> Self {
        let secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let secs = secs.max(1);
        let text =
            format!("too many requests with this key; try again in {secs} s, and send fewer");
        Self { retry_after_secs: Some(secs), ..Self::new(ErrorCode::RateLimited, text) }
    }

    /// Answers with another status than the code's usual one.
    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// Answers for a handler that panicked; what it said is in the log already.
    pub(crate) fn panicked() -> Self {
        let text = "internal error; the server's log says more under this request's id";
        Self {
            detail: Some("a handler panicked".to_owned()),
            ..Self::new(ErrorCode::Internal, text)
        }
    }

    /// Writes the answer.
    pub(crate) fn render(self, style: BodyStyle) -> Response {
        let message = (style == BodyStyle::WithMessage).then(|| self.text.clone());
        let status = self.status;
        let body = ErrorBody { error: self.text, code: self.code, message };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(secs) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }

    /// Writes the log line: once, here, with what callers must not see.
    pub(crate) fn log(&self, request_id: &str) {
        let (code, text) = (self.code.as_str(), self.text.as_str());
        let detail = self.detail.as_deref().unwrap_or_default();
        match self.code.class() {
            ErrorClass::Internal => {
                tracing::error!(request.id = request_id, code, text, detail, "request failed");
            }
            ErrorClass::Unavailable => {
                tracing::warn!(request.id = request_id, code, text, detail, "request not served");
            }
            ErrorClass::Invalid
            | ErrorClass::NotFound
            | ErrorClass::Conflict
            | ErrorClass::Denied
            | ErrorClass::Quota
            | ErrorClass::Cancelled => {
                tracing::debug!(request.id = request_id, code, text, "request refused");
            }
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let code = match &error {
            ControlError::Unauthenticated => ErrorCode::Unauthenticated,
            ControlError::Invalid { .. } => ErrorCode::InvalidRequest,
            ControlError::LimitExceeded { .. } => ErrorCode::LimitExceeded,
            ControlError::NoSuchGpu(_) => ErrorCode::NoSuchGpu,
            ControlError::ImageNotFound { .. } | ControlError::ImageNotBuilt { .. } => {
                ErrorCode::ImageNotFound
            }
            ControlError::NoSuchImage(_) => ErrorCode::ImageNotFound,
            ControlError::TemplateNotFound(_) => ErrorCode::TemplateNotFound,
            ControlError::TemplateMismatch { .. } => ErrorCode::TemplateMismatch,
            ControlError::ImageNameTaken(_) => ErrorCode::ImageNameTaken,
            ControlError::NoPublisher => ErrorCode::Forbidden,
            ControlError::SandboxNotFound(_) => ErrorCode::SandboxNotFound,
            ControlError::NameTaken { .. } => ErrorCode::SandboxNameTaken,
            ControlError::Terminated(_) => ErrorCode::SandboxTerminated,
            ControlError::Ephemeral { .. } | ControlError::Unnamed(_) => {
                ErrorCode::SandboxEphemeral
            }
            ControlError::NoNetworkLog { status: SandboxStatus::Terminated, .. } => {
                ErrorCode::SandboxTerminated
            }
            ControlError::NotRunning { .. } | ControlError::NoNetworkLog { .. } => {
                ErrorCode::SandboxNotRunning
            }
            ControlError::Busy { .. } => ErrorCode::SandboxBusy,
            ControlError::SnapshotNotFound(_) => ErrorCode::SnapshotNotFound,
            ControlError::SnapshotNotReady { .. } => ErrorCode::SnapshotNotReady,
            ControlError::SnapshotOverrideForbidden { .. } => ErrorCode::SnapshotOverrideForbidden,
            ControlError::DiskShrinkForbidden { .. } => ErrorCode::DiskShrinkForbidden,
            ControlError::SnapshotIncompatible { .. } => ErrorCode::SnapshotIncompatible,
            ControlError::HasGpus { .. } | ControlError::NotSupported { .. } => {
                ErrorCode::NotSupported
            }
            ControlError::NoSuchSecret(_) | ControlError::SecretNotFound(_) => {
                ErrorCode::SecretNotFound
            }
            ControlError::PoolNotFound(_) => ErrorCode::PoolNotFound,
            ControlError::PoolInUse { .. } => ErrorCode::PoolInUse,
            ControlError::NotFound(_) => ErrorCode::NotFound,
            ControlError::QuotaExceeded { .. } | ControlError::TooMany { .. } => {
                ErrorCode::QuotaExceeded
            }
            ControlError::SshKeyExists { .. } => ErrorCode::SshKeyExists,
            ControlError::NoRoom { .. }
            | ControlError::ImageUnavailable { .. }
            | ControlError::KeysUnavailable { .. }
            | ControlError::Unavailable { .. } => ErrorCode::Unavailable,
            ControlError::CaptureFailed { .. }
            | ControlError::ImageNotCaptured { .. }
            | ControlError::Internal { .. } => ErrorCode::Internal,
        };
        let detail = error.detail().map(str::to_owned);
        let failure = Self { detail, ..Self::new(code, error.to_string()) };
        // Its path names it (spec 00 §3).
        let in_path = matches!(error, ControlError::SecretNotFound(_));
        if in_path { failure.with_status(StatusCode::NOT_FOUND) } else { failure }
    }
}

impl From<SecretKeyError> for Failure {
    fn from(error: SecretKeyError) -> Self {
        let text = "the key of the secrets was not replaced; the server's log says why, and it may \
                    be tried again";
        let mut detail = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(next) = cause {
            detail = format!("{detail}: {next}");
            cause = next.source();
        }
        let code = match error {
            SecretKeyError::Service { .. } | SecretKeyError::WrongAnswer { .. } => {
                ErrorCode::Unavailable
            }
            SecretKeyError::Lost { .. }
            | SecretKeyError::File { .. }
            | SecretKeyError::Foreign { .. }
            | SecretKeyError::NoService { .. }
            | SecretKeyError::Damaged { .. }
            | SecretKeyError::Store(_) => ErrorCode::Internal,
        };
        Self { detail: Some(detail), ..Self::new(code, text) }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

fn status(code: ErrorCode) -> StatusCode {
    StatusCode::from_u16(code.status()).expect("every code's status is a number of three digits")
}
