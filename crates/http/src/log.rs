//! The handlers of persisted output (spec 08 §3).

use axum::{
    Extension, Json,
    extract::{RawQuery, State},
};
use tarn_api::{
    request::{ListLogs, LogPart, LogToken},
    response::{LogFacts, LogList, LogProcessEntry, LogProcessList, LogRecord},
};
use tarn_control::{Caller, LogAsk, LogFilter, LogPlace, LogStart};

use crate::{app::App, failure::Failure, sandbox::SandboxPath};

pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    SandboxPath(sandbox): SandboxPath,
    RawQuery(query): RawQuery,
) -> Result<Json<LogList>, Failure> {
    let ask = ask(ListLogs::parse(query.as_deref())?);
    let view = app.control().log_read(&caller.project, &sandbox, ask).await?;
    let record = |entry: &tarn_control::LogEntry| {
        LogRecord::new(&LogFacts {
            uuid: &entry.uuid,
            namespace: &caller.project_name,
            sandbox: &view.sandbox,
            line: &entry.record.line,
            process: entry.record.process.as_ref(),
            retention_days: view.retention_days,
        })
    };
    let token = |LogPlace { after, most }| LogToken { after, most }.to_string();
    Ok(Json(LogList {
        logs: view.entries.iter().map(record).collect(),
        next_token: view.next.map(token),
    }))
}

pub(crate) async fn list_processes(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    SandboxPath(sandbox): SandboxPath,
) -> Result<Json<LogProcessList>, Failure> {
    let records = app.control().log_process_list(&caller.project, &sandbox).await?;
    let entries = records.iter().map(|record| {
        let (first, last) = (record.first_seen, record.last_seen);
        LogProcessEntry::new(&record.process, first, last, record.lines)
    });
    Ok(Json(LogProcessList { processes: entries.collect() }))
}

fn ask(list: ListLogs) -> LogAsk {
    let ListLogs { levels, processes, body, part } = list;
    let (start, most) = match part {
        LogPart::All => (LogStart::After(0), None),
        LogPart::Head(count) => (LogStart::After(0), Some(count)),
        LogPart::Tail(count) => (LogStart::Last(count), None),
        LogPart::Rest(LogToken { after, most }) => (LogStart::After(after), most),
    };
    LogAsk { filter: LogFilter { levels, processes, body }, start, most }
}
