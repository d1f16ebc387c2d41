//! Which sandbox, and which port of it, a request means (spec 04 §1, §2). Pure.
//!
//! `X-Tensorlake-Sandbox-Id` names the sandbox, else the Host's label does; the port comes from
//! `X-Tensorlake-Sandbox-Port` or the label, and both may say so only if they agree. A name starts
//! with a letter and an id has no `-`, so `<digits>-<rest>` can only be a port and a sandbox.

use http::{HeaderMap, HeaderName, Uri, header};
use tarn_types::SandboxRef;

use crate::error::{IngressCode, IngressError};

pub(crate) const SANDBOX_ID: HeaderName = HeaderName::from_static("x-tensorlake-sandbox-id");
pub(crate) const SANDBOX_PORT: HeaderName = HeaderName::from_static("x-tensorlake-sandbox-port");

/// A sandbox and a port of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// The sandbox, as the client named it.
    pub(crate) sandbox: SandboxRef,
    /// The port inside.
    pub(crate) port: u16,
    /// The host the client asked for, for `X-Forwarded-Host`.
    pub(crate) host: Option<String>,
}

/// What the first label of a Host says.
#[derive(Debug, PartialEq, Eq)]
struct Label {
    port: Option<u16>,
    sandbox: String,
}

// === impl Address ===

impl Address {
    /// Reads the address from a request's target and headers.
    pub(crate) fn parse(
        uri: &Uri,
        headers: &HeaderMap,
        suffixes: &[String],
    ) -> Result<Self, IngressError> {
        let host = requested_host(uri, headers)?;
        let label = match &host {
            Some(host) => match sandbox_label(host_name(host)?, suffixes) {
                Some(label) => Some(Label::parse(&label)?),
                None => None,
            },
            None => None,
        };
        let label_port = label.as_ref().and_then(|label| label.port);
        let port = match (header_port(headers)?, label_port) {
            (Some(header), Some(host)) if header != host => {
                let message = format!(
                    "X-Tensorlake-Sandbox-Port says {header} and Host says {host}; send one"
                );
                return Err(IngressError::new(IngressCode::InvalidRequest, message));
            }
            (Some(port), _) | (None, Some(port)) => port,
            (None, None) => tarn_daemon_api::PORT,
        };
        let named = match single(headers, &SANDBOX_ID)? {
            Some(text) if !text.is_empty() => text.to_owned(),
            Some(_) | None => match label {
                Some(label) => label.sandbox,
                None => return Err(missing(host.as_deref())),
            },
        };
        let Ok(sandbox) = named.parse::<SandboxRef>() else { return Err(not_found(&named)) };
        Ok(Self { sandbox, port, host })
    }

    /// Says whether the daemon is meant.
    pub(crate) fn is_daemon(&self) -> bool {
        self.port == tarn_daemon_api::PORT
    }
}

// === impl Label ===

impl Label {
    fn parse(label: &str) -> Result<Self, IngressError> {
        let Some((digits, rest)) = label.split_once('-') else {
            return Ok(Self { port: None, sandbox: label.to_owned() });
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(Self { port: None, sandbox: label.to_owned() });
        }
        Ok(Self { port: Some(parse_port(digits, "Host")?), sandbox: rest.to_owned() })
    }
}

/// The error for a sandbox that cannot exist or is not there.
pub(crate) fn not_found(named: &str) -> IngressError {
    let shown: String = named.chars().filter(|c| !c.is_control()).take(80).collect();
    let message = format!("no sandbox `{shown}`; list the sandboxes this key may use");
    IngressError::new(IngressCode::SandboxNotFound, message)
}

fn missing(host: Option<&str>) -> IngressError {
    let host = host.unwrap_or("(none)");
    let message = format!(
        "no sandbox can be read from Host `{host}`; \
         send Host <id-or-name>.local or the header X-Tensorlake-Sandbox-Id"
    );
    IngressError::new(IngressCode::MissingSandboxId, message)
}

fn invalid(message: impl Into<String>) -> IngressError {
    IngressError::new(IngressCode::InvalidRequest, message)
}

/// Returns a header's one value; two of a kind could mean different things to us and to others.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, IngressError> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid(format!("the header {name} was sent twice; send it once")));
    }
    match first.to_str() {
        Ok(text) => Ok(Some(text.trim())),
        Err(_not_ascii) => Err(invalid(format!("the header {name} holds characters beyond ASCII"))),
    }
}

/// Returns the Host header.
///
/// The blocking terminals of the Python SDK 0.5.113 send two in local mode: their WebSocket library
/// writes the address it connects to, and the SDK adds the sandbox. An address on loopback names no
/// sandbox, so nobody can have judged the request by it; any other pair is refused.
fn host_header(headers: &HeaderMap) -> Result<Option<&str>, IngressError> {
    let mut values = headers.get_all(header::HOST).iter().map(|value| value.to_str());
    if let (Some(Ok(first)), Some(Ok(second)), None) = (values.next(), values.next(), values.next())
    {
        let name = first.trim().split(':').next().unwrap_or_default();
        if name == "127.0.0.1" || name.eq_ignore_ascii_case("localhost") {
            return Ok(Some(second.trim()));
        }
    }
    single(headers, &header::HOST)
}

fn header_port(headers: &HeaderMap) -> Result<Option<u16>, IngressError> {
    match single(headers, &SANDBOX_PORT)? {
        Some(text) => parse_port(text, SANDBOX_PORT.as_str()).map(Some),
        None => Ok(None),
    }
}

/// Reads 1..=65535 in plain digits: no sign, and no leading zero that others might read as octal.
fn parse_port(text: &str, place: &str) -> Result<u16, IngressError> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    match text.parse::<u16>() {
        Ok(port) if plain && port > 0 => Ok(port),
        _ => {
            let shown: String = text.chars().take(20).collect();
            Err(invalid(format!("`{shown}` in {place} is not a port; ports are 1 to 65535")))
        }
    }
}

/// Returns the host the client asked for: the target's authority (HTTP/2, absolute form) or Host.
///
/// RFC 9112 §3.2.2 lets the target win; we refuse a difference instead, since somebody between
/// may have judged the other one.
fn requested_host(uri: &Uri, headers: &HeaderMap) -> Result<Option<String>, IngressError> {
    let host = host_header(headers)?;
    let Some(authority) = uri.authority() else { return Ok(host.map(str::to_owned)) };
    match host {
        Some(host) if !host.eq_ignore_ascii_case(authority.as_str()) => {
            Err(invalid("the request target and the Host header name different hosts"))
        }
        Some(_) | None => Ok(Some(authority.as_str().to_owned())),
    }
}

/// Returns the name in a Host, without port and final dot.
fn host_name(host: &str) -> Result<&str, IngressError> {
    let malformed = || invalid("the Host header is not a host name with an optional port");
    if host.starts_with('[') {
        let literal = |b: u8| b.is_ascii_hexdigit() || b"[]:.".contains(&b);
        return if host.bytes().all(literal) { Ok("") } else { Err(malformed()) };
    }
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    let in_name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if !name.bytes().all(in_name) || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(malformed());
    }
    Ok(name.strip_suffix('.').unwrap_or(name))
}

/// Returns the one label before a suffix of ours, lower-cased as host names are.
fn sandbox_label(name: &str, suffixes: &[String]) -> Option<String> {
    suffixes.iter().find_map(|suffix| {
        let (label, end) = name.split_at_checked(name.len().checked_sub(suffix.len())?)?;
        let label = label.strip_suffix('.').filter(|_| end.eq_ignore_ascii_case(suffix))?;
        (!label.is_empty() && !label.contains('.')).then(|| label.to_ascii_lowercase())
    })
}

#[cfg(test)]
mod tests;
