//! How long a create may be held: the caller's budget, less the time the answer needs to get back
//! (spec 01 §2, "Holding").

use std::time::Duration;

use axum::http::HeaderMap;
use tokio::time::Instant;

use crate::HttpConfig;

const BUDGET: &str = "x-tensorlake-request-timeout-ms";
const GRACE: &str = "x-tensorlake-request-timeout-grace-ms";

/// The longest grace that is assumed for a caller that names none.
const DEFAULT_GRACE_MAX: Duration = Duration::from_secs(5);

/// Returns how long a request may be held. A header that is no number counts as absent: the
/// caller's own clock still ends its request.
pub(crate) fn hold(config: &HttpConfig, headers: &HeaderMap) -> Duration {
    let Some(budget) = millis(headers, BUDGET) else { return config.hold };
    let grace = millis(headers, GRACE).unwrap_or_else(|| DEFAULT_GRACE_MAX.min(budget / 4));
    budget.saturating_sub(grace).min(config.hold_max)
}

/// Returns how much of the hold is left of a request that came at `arrived`.
pub(crate) fn left(config: &HttpConfig, headers: &HeaderMap, arrived: Instant) -> Duration {
    hold(config, headers).saturating_sub(arrived.elapsed())
}

fn millis(headers: &HeaderMap, name: &str) -> Option<Duration> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use tarn_api::response::IngressAddress;

    use super::*;

    #[test]
    fn the_hold_is_the_table_of_the_spec() {
        let address =
            IngressAddress { sandbox_url: String::new(), ingress_endpoint: String::new() };
        let config = HttpConfig::new(address, String::new());
        let table: [(Option<&str>, Option<&str>, u64); 9] = [
            (None, None, 30_000),
            (None, Some("5000"), 30_000),
            (Some("300000"), Some("5000"), 295_000),
            (Some("300000"), None, 295_000),
            (Some("8000"), None, 6_000),
            (Some("1000"), Some("2000"), 0),
            (Some("0"), None, 0),
            (Some("soon"), None, 30_000),
            (Some("18446744073709551615"), None, 3_600_000),
        ];
        for (budget, grace, expected) in table {
            let mut headers = HeaderMap::new();
            for (name, value) in [(BUDGET, budget), (GRACE, grace)] {
                if let Some(value) = value {
                    headers.insert(name, HeaderValue::from_str(value).expect("plain text"));
                }
            }
            let expected = Duration::from_millis(expected);
            assert_eq!(hold(&config, &headers), expected, "{budget:?} {grace:?}");
        }
    }
}
