//! Managed processes (spec 05 §2): what a start may ask for, and what is told of them.
//!
//! Requests may be partial: [`StartRequest::managed`] checks every value and fills in what is
//! missing, so that an answer always holds the whole configuration.

use serde::{Deserialize, Serialize};

use crate::StartRequest;

/// The longest name, in bytes: it is a path segment of routes.
pub const MAX_NAME_BYTES: usize = 255;

const MAX_PATH_BYTES: usize = 2048;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Below this a check would be a busy loop.
const MIN_INTERVAL_MS: u64 = 10;

const DEFAULT_INITIAL_BACKOFF_MS: u64 = 500;
const DEFAULT_MAX_BACKOFF_MS: u64 = 30_000;
const DEFAULT_INITIAL_DELAY_MS: u64 = 5000;
const DEFAULT_INTERVAL_MS: u64 = 1000;
const DEFAULT_TIMEOUT_MS: u64 = 500;
const DEFAULT_FAILURE_THRESHOLD: u32 = 3;

/// When a managed process is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Never.
    Never,
    /// After any end but exit code 0.
    #[default]
    OnFailure,
    /// After every end.
    Always,
}

/// `restart` of a start; numbers are read wide, so that [`StartRequest::managed`] can say what
/// is wrong with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartRequest {
    /// Absent means `on_failure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<RestartPolicy>,
    /// Absent means without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_restarts: Option<i64>,
    /// Absent means 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_backoff_ms: Option<i64>,
    /// Absent means 30000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_backoff_ms: Option<i64>,
}

/// `restart`, complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartConfig {
    /// When.
    pub policy: RestartPolicy,
    /// How often at most; absent means without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_restarts: Option<u32>,
    /// The pause before the first restart; it doubles with each further one.
    pub initial_backoff_ms: u64,
    /// The longest pause.
    pub max_backoff_ms: u64,
}

/// How a process is asked whether it is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthCheckType {
    /// `GET` of a path; 2xx and 3xx are well.
    Http,
    /// A connection; being accepted is well.
    Tcp,
}

/// `health_check` of a start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheckRequest {
    /// Required.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<HealthCheckType>,
    /// Required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    /// For `http` only; absent means `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Absent means 5000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_delay_ms: Option<i64>,
    /// Absent means 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<i64>,
    /// Absent means 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<i64>,
    /// Absent means 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_threshold: Option<i64>,
}

/// `health_check`, complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheckConfig {
    /// How.
    #[serde(rename = "type")]
    pub kind: HealthCheckType,
    /// On 127.0.0.1, else on ::1.
    pub port: u16,
    /// For `http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// From the start of the process to the first check.
    pub initial_delay_ms: u64,
    /// From the end of a check to the next one.
    pub interval_ms: u64,
    /// How long a check may take.
    pub timeout_ms: u64,
    /// So many failed checks in a row end the process.
    pub failure_threshold: u32,
}

/// What makes a start managed, complete and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedConfig {
    /// What it is called in routes.
    pub name: Option<String>,
    /// When it is started again.
    pub restart: RestartConfig,
    /// How it is asked whether it is well.
    pub health_check: Option<HealthCheckConfig>,
}

/// A value that can't be meant; the text begins with its JSON path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadField(pub String);

/// `managed` of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedInfo {
    /// The name when one was given, else assigned; the same for all runs.
    pub id: String,
    /// As given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it stands.
    pub status: ManagedStatus,
    /// How often it was started again, by the policy and by request.
    pub restart_count: u32,
    /// The whole configuration.
    pub restart: RestartConfig,
    /// The whole configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheckConfig>,
    /// What the checks of this run say.
    pub health_status: HealthStatus,
    /// Failed checks in a row.
    pub consecutive_health_failures: u32,
    /// How the latest run that has ended did so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<ManagedExit>,
    /// What went wrong last: a failed check, or a restart that did not start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// While backing off: when it is started again, ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_restart_at: Option<u64>,
}

/// Where a managed process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManagedStatus {
    /// A run is about to start: what is left of the one before is being removed.
    Starting,
    /// A run is there.
    Running,
    /// It ended, and is started again after a pause.
    BackingOff,
    /// It ended, and is not started again but by request.
    Stopped,
}

/// What the health checks of a run say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// There are none.
    Disabled,
    /// None has passed yet.
    Starting,
    /// The last one passed.
    Healthy,
    /// The last one failed, after one had passed or as often as the threshold says.
    Unhealthy,
}

/// How a run of a managed process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedExit {
    /// Set when it exited by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Set when a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether it was ended because memory ran out.
    pub oom_killed: bool,
    /// When, ms since 1970.
    pub ended_at: u64,
}

// === impl StartRequest ===

impl StartRequest {
    /// Completes and checks what makes a start managed; none if nothing does.
    ///
    /// # Errors
    /// Names the first value that can't be meant.
    pub fn managed(&self) -> Result<Option<ManagedConfig>, BadField> {
        if self.name.is_none() && self.restart.is_none() && self.health_check.is_none() {
            return Ok(None);
        }
        if let Some(name) = &self.name {
            check_name(name)?;
        }
        Ok(Some(ManagedConfig {
            name: self.name.clone(),
            restart: self.restart.clone().unwrap_or_default().complete()?,
            health_check: self
                .health_check
                .as_ref()
                .map(HealthCheckRequest::complete)
                .transpose()?,
        }))
    }
}

// === impl RestartRequest ===

impl RestartRequest {
    fn complete(self) -> Result<RestartConfig, BadField> {
        let pause = |field, value, default| bounded(field, value, 1, DAY_MS, default);
        Ok(RestartConfig {
            policy: self.policy.unwrap_or_default(),
            max_restarts: match self.max_restarts {
                None => None,
                value => Some(bounded_u32("restart.max_restarts", value, 0, 0)?),
            },
            initial_backoff_ms: pause(
                "restart.initial_backoff_ms",
                self.initial_backoff_ms,
                DEFAULT_INITIAL_BACKOFF_MS,
            )?,
            max_backoff_ms: pause(
                "restart.max_backoff_ms",
                self.max_backoff_ms,
                DEFAULT_MAX_BACKOFF_MS,
            )?,
        })
    }
}

// === impl HealthCheckRequest ===

impl HealthCheckRequest {
    fn complete(&self) -> Result<HealthCheckConfig, BadField> {
        let Some(kind) = self.kind else {
            return Err(BadField("`health_check.type` is missing: `http` or `tcp`".to_owned()));
        };
        let Some(port) = self.port else {
            return Err(BadField("`health_check.port` is missing".to_owned()));
        };
        let port = u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| {
            BadField(format!("`health_check.port`: {port} is not a port (1 to 65535)"))
        })?;
        let path = match (kind, self.path.as_deref()) {
            (HealthCheckType::Http, path) => Some(complete_path(path.unwrap_or_default())?),
            (HealthCheckType::Tcp, None) => None,
            (HealthCheckType::Tcp, Some(_)) => {
                let text = "`health_check.path`: a check of type `tcp` has no path";
                return Err(BadField(text.to_owned()));
            }
        };
        let time = |field, value, min, default| bounded(field, value, min, DAY_MS, default);
        Ok(HealthCheckConfig {
            kind,
            port,
            path,
            initial_delay_ms: time(
                "health_check.initial_delay_ms",
                self.initial_delay_ms,
                0,
                DEFAULT_INITIAL_DELAY_MS,
            )?,
            interval_ms: time(
                "health_check.interval_ms",
                self.interval_ms,
                MIN_INTERVAL_MS,
                DEFAULT_INTERVAL_MS,
            )?,
            timeout_ms: time("health_check.timeout_ms", self.timeout_ms, 1, DEFAULT_TIMEOUT_MS)?,
            failure_threshold: bounded_u32(
                "health_check.failure_threshold",
                self.failure_threshold,
                1,
                DEFAULT_FAILURE_THRESHOLD,
            )?,
        })
    }
}

/// A name is a segment of a path: everything that percent-encoding carries is allowed, but not
/// what clients and proxies would resolve (`.`, `..`) or take for a pid.
fn check_name(name: &str) -> Result<(), BadField> {
    let wrong = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > MAX_NAME_BYTES {
        format!("is longer than {MAX_NAME_BYTES} bytes")
    } else if name.contains('/') {
        format!("{name:?} contains '/'")
    } else if name.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("{name:?} is a number, and numbers are pids")
    } else if matches!(name, "." | "..") {
        format!("{name:?} is no name in a path")
    } else {
        return Ok(());
    };
    Err(BadField(format!("`name` {wrong}")))
}

/// A path without its `/` is meant with it.
fn complete_path(path: &str) -> Result<String, BadField> {
    if path.len() > MAX_PATH_BYTES {
        let text = format!("`health_check.path` is longer than {MAX_PATH_BYTES} bytes");
        return Err(BadField(text));
    }
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(BadField(format!(
            "`health_check.path`: {path:?} must be percent-encoded: no spaces, no controls, ASCII"
        )));
    }
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

fn bounded(
    field: &str,
    value: Option<i64>,
    min: u64,
    max: u64,
    default: u64,
) -> Result<u64, BadField> {
    let Some(value) = value else { return Ok(default) };
    u64::try_from(value)
        .ok()
        .filter(|value| (min..=max).contains(value))
        .ok_or_else(|| BadField(format!("`{field}`: {value} is not in {min} to {max}")))
}

fn bounded_u32(field: &str, value: Option<i64>, min: u32, default: u32) -> Result<u32, BadField> {
    let value = bounded(field, value, min.into(), u32::MAX.into(), default.into())?;
    // The bound was that of the type.
    Ok(u32::try_from(value).unwrap_or(u32::MAX))
}
