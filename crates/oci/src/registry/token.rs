//! Being let in: what a registry wants to see is a token, from a server that it names, or the
//! credentials themselves.

use base64::Engine as _;
use reqwest::{
    Method, RequestBuilder, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE},
};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use url::{Url, form_urlencoded};

use crate::{Credentials, OciError};

use super::{Failed, LONGEST_ANSWER, Session, Source, challenge::Challenge, retry_after};

/// What token servers that take identity tokens are told of who asks.
const CLIENT_ID: &str = "tarn";

/// What a token server answers.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

// === impl Session ===

impl Session<'_> {
    /// Meets a challenge: fetches a token, or uses the credentials themselves.
    pub(super) async fn authorize(
        &self,
        source: &Source,
        response: &Response,
    ) -> Result<(), Failed> {
        let credentials = self.credentials.filter(|_| !source.is_mirror);
        let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenges: Vec<_> =
            headers.filter_map(|it| it.to_str().ok()).flat_map(Challenge::parse_all).collect();
        let bearer = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer { realm, service, scope } => Some((realm, service, scope)),
            Challenge::Basic => None,
        });
        let header = match (bearer, credentials) {
            (Some((realm, service, scope)), _) => {
                let token = self.again(|| {
                    self.token(source, realm, service.as_deref(), scope.as_deref(), credentials)
                });
                let token = token.await.map_err(Failed::finally)?;
                HeaderValue::try_from(format!("Bearer {token}"))
            }
            // An identity token is no password.
            (None, Some(credentials))
                if credentials.identity_token().is_none()
                    && challenges.contains(&Challenge::Basic) =>
            {
                HeaderValue::try_from(basic(credentials))
            }
            (None, _) => return Err(Failed::finally(self.unauthorized(source))),
        };
        let mut header = header.map_err(|_not_text| {
            let detail = "its token holds characters that no token has";
            Failed::finally(OciError::malformed(format!("the answer of {}", source.name), detail))
        })?;
        header.set_sensitive(true);
        *source.authorization.lock() = Some(header);
        Ok(())
    }

    /// Asks the server that a registry names for a token (distribution, "Token Authentication";
    /// with an identity token, "OAuth2 Token Authentication").
    async fn token(
        &self,
        source: &Source,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        credentials: Option<&Credentials>,
    ) -> Result<String, Failed> {
        let elsewhere = || {
            let detail = ": it wants a token from where none may be asked for".to_owned();
            Failed::finally(source.refused(StatusCode::UNAUTHORIZED, detail))
        };
        let url = Url::parse(realm).ok().filter(|url| self.may_lead_to(source, url));
        let url = url.ok_or_else(elsewhere)?;
        let has_identity = credentials.is_some_and(|it| it.identity_token().is_some());
        let request = self.token_request(source, url.clone(), service, scope, credentials)?;
        let response = request.send().await;
        let response =
            response.map_err(|error| source.not_reached(&url, error, "fetch a token"))?;
        let status = response.status();
        match status.as_u16() {
            200 => {}
            400 | 401 | 403 => return Err(Failed::finally(self.unauthorized(source))),
            404 | 405 if has_identity => {
                let detail = ": it takes no identity token; show it a name and a password";
                return Err(Failed::finally(source.refused(status, detail.to_owned())));
            }
            408 | 425 | 429 | 500..=599 => {
                let again = Some(retry_after(&response));
                return Err(Failed { error: source.refused(status, String::new()), again });
            }
            _ => return Err(Failed::finally(source.refused(status, String::new()))),
        }
        let body = self.body(source, response, "the size of a token", LONGEST_ANSWER).await?;
        let answer = serde_json::from_slice::<TokenAnswer>(&body).ok();
        let token = answer.and_then(|answer| answer.token.or(answer.access_token));
        token.ok_or_else(|| {
            let what = format!("the token that {} gave", source.name);
            Failed::finally(OciError::malformed(what, "it is not in the answer"))
        })
    }

    fn token_request(
        &self,
        source: &Source,
        mut url: Url,
        service: Option<&str>,
        scope: Option<&str>,
        credentials: Option<&Credentials>,
    ) -> Result<RequestBuilder, Failed> {
        let own_scope = format!("repository:{}:pull", self.reference.repository());
        let scope = ("scope", scope.unwrap_or(&own_scope));
        let asked = [Some(scope), service.map(|service| ("service", service))];
        let asked = asked.into_iter().flatten();
        if let Some(identity) = credentials.and_then(Credentials::identity_token) {
            let mut form = form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token");
            form.append_pair("client_id", CLIENT_ID);
            form.append_pair("refresh_token", identity.expose_secret());
            let form = form.extend_pairs(asked).finish();
            let request = self.request(source, Method::POST, &url)?;
            return Ok(request
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form));
        }
        url.query_pairs_mut().extend_pairs(asked);
        let mut request = self.request(source, Method::GET, &url)?;
        if let Some(credentials) = credentials {
            let mut header =
                HeaderValue::try_from(basic(credentials)).expect("base64 is fit for a header");
            header.set_sensitive(true);
            request = request.header(AUTHORIZATION, header);
        }
        Ok(request)
    }
}

fn basic(credentials: &Credentials) -> String {
    let pair = format!("{}:{}", credentials.username, credentials.password.expose_secret());
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}
