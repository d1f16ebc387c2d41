//! Who is calling, and whether the path and headers agree with the key (spec 00 §2).

use axum::{
    extract::{FromRequestParts, RawPathParams, Request, State},
    http::{HeaderMap, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tarn_api::{ErrorCode, response::ORGANIZATION_ID};
use tarn_control::Caller;

use crate::{app::App, failure::Failure};

const FORWARDED_ORGANIZATION: &str = "x-forwarded-organization-id";
const FORWARDED_PROJECT: &str = "x-forwarded-project-id";

/// The namespace that always means the key's own project.
const OWN_NAMESPACE: &str = "default";

/// Lets a request pass that has a valid key and names nothing the key does not open.
///
/// Also in front of the answers for unknown routes: without a key, nothing is told.
pub(crate) async fn authorise(State(app): State<App>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match check(&app, &mut parts).await {
        Ok(caller) => {
            parts.extensions.insert(caller);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(failure) => failure.into_response(),
    }
}

async fn check(app: &App, parts: &mut Parts) -> Result<Caller, Failure> {
    let caller = app.control().authenticate(bearer(&parts.headers)).await?;
    if let Some(rates) = &app.rates {
        rates.note(&caller.key).map_err(Failure::rate_limited)?;
    }
    check_forwarded(&parts.headers, &caller)?;
    check_path(parts, &caller).await?;
    Ok(caller)
}

/// Returns the bearer token; nothing is as good as a wrong one.
fn bearer(headers: &HeaderMap) -> &str {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match value.unwrap_or_default().trim().split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        Some(_) | None => "",
    }
}

fn check_forwarded(headers: &HeaderMap, caller: &Caller) -> Result<(), Failure> {
    for (name, expected) in
        [(FORWARDED_ORGANIZATION, ORGANIZATION_ID), (FORWARDED_PROJECT, caller.project.as_str())]
    {
        let Some(value) = headers.get(name).filter(|value| !value.is_empty()) else { continue };
        let by_name =
            name == FORWARDED_PROJECT && value.as_bytes() == caller.project_name.as_bytes();
        if value.as_bytes() != expected.as_bytes() && !by_name {
            let text = format!("{name}: the key belongs to `{expected}`; leave the header out");
            return Err(Failure::new(ErrorCode::Forbidden, text));
        }
    }
    Ok(())
}

async fn check_path(parts: &mut Parts, caller: &Caller) -> Result<(), Failure> {
    // No parameters, or such as are no UTF-8: the handler, if there is one, says what is wrong.
    let Ok(params) = RawPathParams::from_request_parts(parts, &()).await else { return Ok(()) };
    for (name, value) in &params {
        let is_own = match name {
            "ns" => value == OWN_NAMESPACE || is_project(value, caller),
            "o" => value == ORGANIZATION_ID,
            "p" => is_project(value, caller),
            _ => true,
        };
        if is_own {
            continue;
        }
        return Err(match name {
            "ns" => Failure::new(
                ErrorCode::Forbidden,
                "the key does not open this namespace; use `default`, which is the key's own",
            ),
            // Whether it exists is nobody else's business.
            _ => Failure::new(ErrorCode::NotFound, "no such organization or project"),
        });
    }
    Ok(())
}

fn is_project(text: &str, caller: &Caller) -> bool {
    text == caller.project.as_str() || text == caller.project_name
}
