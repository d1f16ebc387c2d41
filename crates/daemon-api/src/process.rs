//! Processes (spec 05 §2).

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{HealthCheckRequest, ManagedInfo, RestartRequest};

/// `POST /processes`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StartRequest {
    /// The program, found through the `PATH` of the resulting environment.
    pub command: String,
    /// Its arguments, without the program's name.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Added to the sandbox's environment.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub env: BTreeMap<String, String>,
    /// Where it starts; absent means the sandbox's working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Who runs it; absent means the sandbox's default user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserSpec>,
    /// What its standard input is.
    #[serde(default, deserialize_with = "null_is_default")]
    pub stdin_mode: StdinMode,
    /// What becomes of its standard output.
    #[serde(default, deserialize_with = "null_is_default")]
    pub stdout_mode: OutputMode,
    /// What becomes of its standard error.
    #[serde(default, deserialize_with = "null_is_default")]
    pub stderr_mode: OutputMode,
    /// Makes it managed, and names it in routes; see [`StartRequest::managed`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Makes it managed: when it is started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartRequest>,
    /// Makes it managed: how it is asked whether it is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheckRequest>,
}

/// `POST /processes/run`: start, stream the output, report the end.
///
/// The mode fields of [`StartRequest`] are accepted by the route and ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunRequest {
    /// As in [`StartRequest`].
    pub command: String,
    /// As in [`StartRequest`].
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// As in [`StartRequest`].
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub env: BTreeMap<String, String>,
    /// As in [`StartRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// As in [`StartRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserSpec>,
    /// Seconds until the whole process tree is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
    /// The same under the name of the desktop probes; `timeout` wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_secs: Option<f64>,
}

/// Who runs a process: `"name"`, `"uid"`, `"uid:gid"`, `"name:group"`, `{name}` or `{uid, gid}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum UserSpec {
    /// One of the string forms, not yet looked at.
    Text(String),
    /// An account of the sandbox's `/etc/passwd`.
    Name {
        /// The account's name.
        name: String,
    },
    /// Numbers, which need no account.
    Ids {
        /// The user id.
        uid: u32,
        /// The group id; absent means the account's, else 0 (as Docker has it).
        #[serde(skip_serializing_if = "Option::is_none")]
        gid: Option<u32>,
    },
}

/// A process's standard input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StdinMode {
    /// `/dev/null`.
    #[default]
    Closed,
    /// A pipe, fed by `POST /processes/{p}/stdin`.
    Pipe,
}

/// What becomes of a process's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputMode {
    /// Kept in the retention ring.
    #[default]
    Capture,
    /// `/dev/null`.
    Discard,
}

/// One process, running or finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// A stable daemon-local number; pids may be used again, handles are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<u64>,
    /// The pid inside the sandbox; it names the process in routes.
    pub pid: i32,
    /// Where it stands.
    pub status: ProcessStatus,
    /// Set when it exited by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Set when a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// True when memory ran out and it, or a descendant of it, was ended for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_killed: Option<bool>,
    /// Whether `POST /processes/{p}/stdin` would be taken.
    pub stdin_writable: bool,
    /// The program, as asked.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// When it was started, ms since 1970.
    pub started_at: u64,
    /// When it ended, ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<u64>,
    /// Set on the latest run of a managed process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedInfo>,
}

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessStatus {
    /// It has not ended.
    Running,
    /// It ended by itself.
    Exited,
    /// A signal ended it.
    Signaled,
    /// It was ended because memory ran out.
    OomKilled,
}

/// `GET /processes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessList {
    /// All that run and the latest finished ones, oldest first.
    pub processes: Vec<ProcessInfo>,
}

/// `POST /processes/{p}/signal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalRequest {
    /// The signal's number, 1 to 64.
    pub signal: i32,
}

/// The answer to [`SignalRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalResponse {
    /// Always true; failures are errors.
    pub success: bool,
}

/// `GET /processes/{p}/stdout`, `/stderr`, `/output`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputResponse {
    /// Whose output it is.
    pub pid: i32,
    /// The retained lines, without their newlines.
    pub lines: Vec<String>,
    /// The number of `lines`.
    pub line_count: u64,
}

// === impl RunRequest ===

impl RunRequest {
    /// Returns the time limit in seconds, from whichever field carries it.
    #[must_use]
    pub fn time_limit_secs(&self) -> Option<f64> {
        self.timeout.or(self.timeout_secs)
    }

    /// Turns the request into that of a plain start: input closed, output captured.
    #[must_use]
    pub fn into_start(self) -> StartRequest {
        StartRequest {
            command: self.command,
            args: self.args,
            env: self.env,
            working_dir: self.working_dir,
            user: self.user,
            stdin_mode: StdinMode::Closed,
            stdout_mode: OutputMode::Capture,
            stderr_mode: OutputMode::Capture,
            name: None,
            restart: None,
            health_check: None,
        }
    }
}

// === impl UserSpec ===

impl<'de> Deserialize<'de> for UserSpec {
    /// Written by hand because an untagged derive loses both the path and the cause of an error.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UserSpecVisitor)
    }
}

struct UserSpecVisitor;

impl<'de> de::Visitor<'de> for UserSpecVisitor {
    type Value = UserSpec;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a user: "name", "uid", "uid:gid", {"name"} or {"uid", "gid"}"#)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<UserSpec, E> {
        Ok(UserSpec::Text(text.to_owned()))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<UserSpec, A::Error> {
        #[derive(Deserialize)]
        struct Fields {
            name: Option<String>,
            uid: Option<u32>,
            gid: Option<u32>,
        }
        let fields = Fields::deserialize(de::value::MapAccessDeserializer::new(map))?;
        match fields {
            Fields { name: Some(name), uid: None, gid: None } => Ok(UserSpec::Name { name }),
            Fields { name: None, uid: Some(uid), gid } => Ok(UserSpec::Ids { uid, gid }),
            Fields { name: None, uid: None, .. } => {
                Err(de::Error::custom("a user object needs `name` or `uid`"))
            }
            Fields { name: Some(_), .. } => {
                Err(de::Error::custom("a user object has either `name` or `uid` and `gid`"))
            }
        }
    }
}

/// Reads `null` as the default value: on input `null` equals absent (spec 00 §5).
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
