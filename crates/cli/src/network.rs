//! What a sandbox did with the network.

use clap::Args;
use http::Method;
use tarn_api::response::{NetworkReport, NetworkReportEntry};

use crate::{
    CliError,
    client::AdminClient,
    command::pretty,
    state::check_sandbox,
    table::{table, time},
};

/// Which part of a network log is printed.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct NetworkOptions {
    /// The sandbox's id or name
    pub sandbox: String,
    /// Only what was denied
    #[arg(long)]
    pub denied: bool,
    /// Only what happened so long until now, such as 90s, 30m, 1h or 2d
    #[arg(long, value_name = "TIME", value_parser = read_time)]
    pub since: Option<u64>,
    /// Print JSON instead of columns
    #[arg(long)]
    pub json: bool,
}

/// Reads a time as seconds.
fn read_time(text: &str) -> Result<u64, String> {
    let read = || {
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let secs = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        let is_number = digits.bytes().all(|digit| digit.is_ascii_digit());
        is_number.then(|| digits.parse::<u64>().ok()?.checked_mul(secs)).flatten()
    };
    read().ok_or_else(|| "give a number with s, m, h or d behind it, such as 30m".to_owned())
}

/// Prints the network log of a sandbox.
pub(crate) async fn network(
    client: &AdminClient,
    options: &NetworkOptions,
) -> Result<String, CliError> {
    let sandbox = check_sandbox(&options.sandbox)?;
    let mut path = format!("/tarn/v1/sandboxes/{sandbox}/network?denied={}", options.denied);
    if let Some(secs) = options.since {
        path.push_str(&format!("&since_secs={secs}"));
    }
    let report: NetworkReport = client.call(Method::GET, &path, None).await?;
    Ok(if options.json { pretty(&report) } else { show(&report) })
}

fn show(report: &NetworkReport) -> String {
    let sums = &report.counters;
    let until = report.until.map_or("now".to_owned(), time);
    let mut text = format!(
        "{} to {until}: {} connections, {} bytes sent, {} received; {} packets denied; {} \
         questions answered, {} refused\n",
        time(report.since),
        sums.connections,
        sums.bytes_sent,
        sums.bytes_received,
        sums.packets_denied,
        sums.dns_answered,
        sums.dns_refused,
    );
    let lost = &report.lost;
    if lost.rate + lost.room + lost.node > 0 {
        text.push_str(&format!(
            "not all of it is shown: {} attempts came too fast, {} older entries had no room, {} \
             notes of all sandboxes were lost\n",
            lost.rate, lost.room, lost.node
        ));
    }
    let rows: Vec<_> = report.entries.iter().map(row).collect();
    let head =
        ["LAST", "VERDICT", "COUNT", "PROTOCOL", "DESTINATION", "SENT", "RECEIVED", "ADVICE"];
    text + &table(head, &rows)
}

fn row(entry: &NetworkReportEntry) -> [String; 8] {
    let port = entry.port.map(|port| format!(":{port}")).unwrap_or_default();
    let address = entry.address.as_ref().map(|address| format!("{address}{port}"));
    let destination = match (&entry.name, address) {
        (Some(name), Some(address)) => format!("{name} ({address})"),
        (Some(name), None) => name.clone(),
        (None, Some(address)) => address,
        (None, None) => "-".to_owned(),
    };
    let verdict = entry.reason.as_ref().unwrap_or(&entry.verdict).clone();
    [
        time(entry.last_at),
        verdict,
        entry.count.to_string(),
        entry.protocol.clone(),
        destination,
        entry.bytes_sent.to_string(),
        entry.bytes_received.to_string(),
        entry.advice.clone().unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        for (text, expected) in
            [("90s", Some(90)), ("30m", Some(1800)), ("1h", Some(3600)), ("2d", Some(172_800))]
        {
            assert_eq!(read_time(text).ok(), expected, "{text}");
        }
        for bad in ["", "1", "h", "1w", "-1h", "1.5h", "99999999999999999999d", "1é"] {
            assert!(read_time(bad).is_err(), "{bad}");
        }
    }
}
