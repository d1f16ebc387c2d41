//! Persisted output of processes (spec 08 §3): camelCase, pids and process ids as strings.

use serde::Serialize;
use serde_json::json;
use tarn_types::{LogLevel, LogLine, LogProcess, SandboxId, UnixMillis};
use utoipa::ToSchema;

/// What every record of process output says it comes from.
const APPLICATION: &str = "sandbox";

/// The most days that a record may show: clients read the number as a signed byte, and one that is
/// larger makes them refuse the whole page. What is kept for longer is kept nonetheless.
const RETENTION_MOST: u8 = 127;

/// A page of log records, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogList {
    /// The records; at most 1000, and fewer when they are long.
    pub logs: Vec<LogRecord>,
    /// Asks for the records that follow; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_token: Option<String>,
}

/// One line that a process printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogRecord {
    /// When the line was read, in ms since 1970, by the sandbox's clock.
    pub timestamp: i64,
    /// Names the record, the same at each reading.
    pub uuid: String,
    /// The project.
    pub namespace: String,
    /// Always `sandbox`.
    pub application: &'static str,
    /// The sandbox.
    pub sandbox_id: String,
    /// The process: pairs of `processId`, `processPid`, `processCommand`, and for a managed one
    /// `processManagedId`, `processManagedName`.
    pub resource_attributes: Vec<[String; 2]>,
    /// The line, without its newline.
    pub body: String,
    /// JSON text: `stream` is `stdout` or `stderr`; `dropped` says how many lines are missing
    /// here.
    pub log_attributes: String,
    /// Always empty: sandboxes have none.
    pub allocations: Vec<String>,
    /// Always empty: sandboxes have none.
    pub function_runs: Vec<String>,
    /// 3 for standard output, 5 for standard error, 4 where the server let lines go.
    pub level: u8,
    /// For how many days it is kept; 127 stands for more as well, since clients read no larger
    /// number.
    #[schema(minimum = 0, maximum = 127)]
    pub retention: u8,
}

/// The processes whose output is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LogProcessList {
    /// In the order in which they were started.
    pub processes: Vec<LogProcessEntry>,
}

/// A process whose output is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogProcessEntry {
    /// What `processId` filters by; never used again in its sandbox.
    pub process_id: String,
    /// Its pid inside the sandbox.
    pub process_pid: String,
    /// Its command line, shortened.
    pub process_command: String,
    /// The id of its managed process; empty if there is none.
    pub process_managed_id: String,
    /// The name of its managed process; empty if there is none.
    pub process_managed_name: String,
    /// When its first line was printed, in ms since 1970.
    pub first_seen: i64,
    /// When its last line was printed.
    pub last_seen: i64,
    /// How many of its records are there.
    pub log_count: u64,
}

/// What a record is made from.
#[derive(Debug, Clone, Copy)]
pub struct LogFacts<'a> {
    /// Its name.
    pub uuid: &'a str,
    /// The project's name.
    pub namespace: &'a str,
    /// The sandbox.
    pub sandbox: &'a SandboxId,
    /// The line.
    pub line: &'a LogLine,
    /// Its process, unless it is a note of the server's own.
    pub process: Option<&'a LogProcess>,
    /// For how many days it is kept.
    pub retention_days: u32,
}

// === impl LogRecord ===

impl LogRecord {
    /// Makes the record of a line.
    #[must_use]
    pub fn new(facts: &LogFacts<'_>) -> Self {
        let line = facts.line;
        Self {
            timestamp: line.at.0,
            uuid: facts.uuid.to_owned(),
            namespace: facts.namespace.to_owned(),
            application: APPLICATION,
            sandbox_id: facts.sandbox.to_string(),
            resource_attributes: facts.process.map(resource_attributes).unwrap_or_default(),
            body: line.body.clone(),
            log_attributes: log_attributes(line),
            allocations: Vec::new(),
            function_runs: Vec::new(),
            level: line.level.number(),
            retention: shown_retention(facts.retention_days),
        }
    }
}

fn shown_retention(days: u32) -> u8 {
    u8::try_from(days).map_or(RETENTION_MOST, |days| days.min(RETENTION_MOST))
}

fn resource_attributes(process: &LogProcess) -> Vec<[String; 2]> {
    let LogProcess { id, pid, command, managed_id, managed_name } = process;
    [
        ("processId", Some(id.to_string())),
        ("processPid", Some(pid.to_string())),
        ("processCommand", Some(command.clone())),
        ("processManagedId", managed_id.clone()),
        ("processManagedName", managed_name.clone()),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some([key.to_owned(), value?]))
    .collect()
}

fn log_attributes(line: &LogLine) -> String {
    let mut attributes = json!({});
    match line.level {
        LogLevel::Info => attributes["stream"] = json!("stdout"),
        LogLevel::Error => attributes["stream"] = json!("stderr"),
        LogLevel::Trace | LogLevel::Debug | LogLevel::Warn | LogLevel::Fatal => {}
    }
    if line.dropped > 0 {
        attributes["dropped"] = json!(line.dropped);
    }
    attributes.to_string()
}

// === impl LogProcessEntry ===

impl LogProcessEntry {
    /// Makes the entry of a process.
    #[must_use]
    pub fn new(
        process: &LogProcess,
        first_seen: UnixMillis,
        last_seen: UnixMillis,
        lines: u64,
    ) -> Self {
        Self {
            process_id: process.id.to_string(),
            process_pid: process.pid.to_string(),
            process_command: process.command.clone(),
            process_managed_id: process.managed_id.clone().unwrap_or_default(),
            process_managed_name: process.managed_name.clone().unwrap_or_default(),
            first_seen: first_seen.0,
            last_seen: last_seen.0,
            log_count: lines,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> LogProcess {
        LogProcess {
            id: 7,
            pid: 42,
            command: "sh -c x".to_owned(),
            managed_id: Some("web".to_owned()),
            managed_name: None,
        }
    }

    fn record(level: LogLevel, dropped: u64, process: Option<&LogProcess>) -> LogRecord {
        let line = LogLine { process: 7, level, at: UnixMillis(5), dropped, body: "b".to_owned() };
        LogRecord::new(&LogFacts {
            uuid: "u",
            namespace: "default",
            sandbox: &SandboxId::from_random([0; 21]),
            line: &line,
            process,
            retention_days: 7,
        })
    }

    #[test]
    fn a_record_is_what_the_clients_parse() {
        let attributes = [
            ["processId", "7"],
            ["processPid", "42"],
            ["processCommand", "sh -c x"],
            ["processManagedId", "web"],
        ];
        assert_eq!(
            json!(record(LogLevel::Info, 0, Some(&process()))),
            json!({"timestamp": 5, "uuid": "u", "namespace": "default", "application": "sandbox",
                "sandboxId": "000000000000000000000", "resourceAttributes": attributes,
                "body": "b", "logAttributes": "{\"stream\":\"stdout\"}", "allocations": [],
                "functionRuns": [], "level": 3, "retention": 7})
        );
        let list = LogList { logs: vec![], next_token: None };
        assert_eq!(json!(list), json!({"logs": []}));
        let list = LogList { logs: vec![], next_token: Some("t".to_owned()) };
        assert_eq!(json!(list), json!({"logs": [], "nextToken": "t"}));
    }

    #[test]
    fn retention_is_a_number_that_clients_can_read() {
        for (days, expected) in [(1, 1), (127, 127), (128, 127), (256, 127), (u32::MAX, 127)] {
            assert_eq!(shown_retention(days), expected, "{days}");
            assert!(i8::try_from(shown_retention(days)).is_ok(), "{days}");
        }
    }

    #[test]
    fn attributes_tell_stream_and_gap() {
        for (level, dropped, expected) in [
            (LogLevel::Info, 0, json!({"stream": "stdout"})),
            (LogLevel::Error, 0, json!({"stream": "stderr"})),
            (LogLevel::Error, 9, json!({"stream": "stderr", "dropped": 9})),
            (LogLevel::Warn, 9, json!({"dropped": 9})),
        ] {
            let record = record(level, dropped, None);
            let parsed: serde_json::Value =
                serde_json::from_str(&record.log_attributes).expect("JSON");
            assert_eq!(parsed, expected);
            assert!(record.resource_attributes.is_empty());
        }
    }

    #[test]
    fn a_process_has_strings_where_there_is_nothing() {
        let entry = LogProcessEntry::new(&process(), UnixMillis(1), UnixMillis(2), 3);
        assert_eq!(
            json!(LogProcessList { processes: vec![entry] }),
            json!({"processes": [{"processId": "7", "processPid": "42", "processCommand": "sh -c x",
                "processManagedId": "web", "processManagedName": "", "firstSeen": 1, "lastSeen": 2,
                "logCount": 3}]})
        );
    }
}
