//! The body of every error answer, and the stable codes.

use serde::{Deserialize, Serialize};

/// `{"error": "<what happened, what to do>", "code": "<STABLE_CODE>"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What happened, for a person.
    pub error: String,
    /// One of [`code`], for a program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// The codes of the daemon (spec 00 §3). Their meaning never changes.
pub mod code {
    /// 400: malformed JSON, a wrong type, a bad query.
    pub const INVALID_REQUEST: &str = "INVALID_REQUEST";
    /// 400: this daemon cannot do it; nothing was changed.
    pub const NOT_SUPPORTED: &str = "NOT_SUPPORTED";
    /// 404: no such route, file or terminal.
    pub const NOT_FOUND: &str = "NOT_FOUND";
    /// 405: the route has no such method.
    pub const METHOD_NOT_ALLOWED: &str = "METHOD_NOT_ALLOWED";
    /// 413: a JSON body over [`crate::MAX_JSON_BYTES`].
    pub const PAYLOAD_TOO_LARGE: &str = "PAYLOAD_TOO_LARGE";
    /// 500: our fault, or the operating system refused (`EACCES`, `ENOSPC`).
    pub const INTERNAL_ERROR: &str = "INTERNAL_ERROR";
    /// 404: unknown pid or name.
    pub const PROCESS_NOT_FOUND: &str = "PROCESS_NOT_FOUND";
    /// 400: nothing was started; the text says why.
    pub const PROCESS_START_FAILED: &str = "PROCESS_START_FAILED";
    /// 400: the process has already ended.
    pub const PROCESS_NOT_RUNNING: &str = "PROCESS_NOT_RUNNING";
    /// 400: only a managed process can be restarted.
    pub const PROCESS_NOT_MANAGED: &str = "PROCESS_NOT_MANAGED";
    /// 409: a live managed process has that name.
    pub const PROCESS_NAME_TAKEN: &str = "PROCESS_NAME_TAKEN";
    /// 400: the process takes no input: `stdin_mode` was not `pipe`, or it was closed.
    pub const STDIN_NOT_WRITABLE: &str = "STDIN_NOT_WRITABLE";
    /// 400: the path is a directory.
    pub const IS_DIRECTORY: &str = "IS_DIRECTORY";
    /// 400: the path is not a directory.
    pub const NOT_A_DIRECTORY: &str = "NOT_A_DIRECTORY";
    /// 403: the path has a `..` component.
    pub const PATH_TRAVERSAL: &str = "PATH_TRAVERSAL";
    /// 403: the token is not that of the terminal.
    pub const INVALID_TOKEN: &str = "INVALID_TOKEN";
    /// 404: no such terminal to attach to.
    pub const SESSION_NOT_FOUND: &str = "SESSION_NOT_FOUND";
    /// 429: too many terminals live.
    pub const TOO_MANY_SESSIONS: &str = "TOO_MANY_SESSIONS";
    /// 502: nothing in the sandbox accepts on that port.
    pub const CONNECTION_REFUSED: &str = "CONNECTION_REFUSED";
}
