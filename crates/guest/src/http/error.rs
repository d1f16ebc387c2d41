//! Errors as answers.

use std::io;

use http::{Response, StatusCode};
use tarn_daemon_api::{BadField, ErrorBody, code};

use super::body::{Body, json_body};
use crate::{
    managed::{ManagedStartError, RestartError},
    process::{StdinError, start::StartError},
};

/// A failed request: status, stable code, and what to tell the caller.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    text: String,
}

// === impl ApiError ===

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        Self { status, code, text: text.into() }
    }

    pub(crate) fn bad_request(code: &'static str, text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, text)
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::bad_request(code::INVALID_REQUEST, text)
    }

    pub(crate) fn not_supported(what: &str) -> Self {
        Self::bad_request(code::NOT_SUPPORTED, format!("{what} is not supported by this daemon"))
    }

    pub(crate) fn conflict(code: &'static str, text: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, text)
    }

    pub(crate) fn unauthenticated(code: &'static str, text: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, text)
    }

    pub(crate) fn forbidden(text: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, tarn_guest_api::code::FORBIDDEN, text)
    }

    pub(crate) fn not_ready() -> Self {
        let text = "the sandbox is not initialised yet: try again in a moment";
        let code = tarn_guest_api::code::SANDBOX_NOT_READY;
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, text)
    }

    pub(crate) fn no_route(path: &str) -> Self {
        let text = format!("there is no route {path}");
        Self::new(StatusCode::NOT_FOUND, code::NOT_FOUND, text)
    }

    pub(crate) fn wrong_method(path: &str) -> Self {
        let text = format!("the route {path} has no such method");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, code::METHOD_NOT_ALLOWED, text)
    }

    pub(crate) fn no_process(key: &str) -> Self {
        let text = format!("there is no process '{key}'");
        Self::new(StatusCode::NOT_FOUND, code::PROCESS_NOT_FOUND, text)
    }

    pub(crate) fn too_large(max_bytes: usize) -> Self {
        let text = format!("the body is larger than {max_bytes} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, code::PAYLOAD_TOO_LARGE, text)
    }

    pub(crate) fn internal(text: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, code::INTERNAL_ERROR, text)
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let body = ErrorBody { error: self.text, code: Some(self.code.to_owned()) };
        let mut response = json_body(&body);
        *response.status_mut() = self.status;
        response
    }
}

impl From<StartError> for ApiError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Invalid(text) => Self::invalid(text),
            StartError::Failed(text) => Self::bad_request(code::PROCESS_START_FAILED, text),
        }
    }
}

impl From<ManagedStartError> for ApiError {
    fn from(error: ManagedStartError) -> Self {
        match error {
            ManagedStartError::NameTaken(name, pid) => {
                let text = format!(
                    "the name '{name}' is that of a managed process (pid {pid}): end it, restart \
                     it, or choose another name"
                );
                Self::conflict(code::PROCESS_NAME_TAKEN, text)
            }
            ManagedStartError::Start(error) => error.into(),
        }
    }
}

impl From<RestartError> for ApiError {
    fn from(error: RestartError) -> Self {
        match error {
            RestartError::Failed(text) => Self::bad_request(code::PROCESS_START_FAILED, text),
            RestartError::Stopped => {
                let text = "the process was stopped by another request meanwhile";
                Self::bad_request(code::PROCESS_NOT_RUNNING, text)
            }
        }
    }
}

impl From<BadField> for ApiError {
    fn from(BadField(text): BadField) -> Self {
        Self::invalid(text)
    }
}

impl From<StdinError> for ApiError {
    fn from(error: StdinError) -> Self {
        let text = match error {
            StdinError::NoPipe => "the process was started without `stdin_mode: pipe`",
            StdinError::Closed => "the standard input of the process is closed",
        };
        Self::bad_request(code::STDIN_NOT_WRITABLE, text)
    }
}

/// A failure of the operating system that is not the caller's mistake.
impl From<io::Error> for ApiError {
    fn from(error: io::Error) -> Self {
        Self::internal(error.to_string())
    }
}
