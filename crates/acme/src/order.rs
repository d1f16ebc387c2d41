//! One order, from the account to key and chain.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, NewOrder, Order, OrderStatus, Problem,
    RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tarn_tls::Certificates;
use zeroize::Zeroizing;

use crate::{AcmeConfig, AcmeError, Proof, certificate_id, proof::Shown};

/// How long the authority may take to look, and to issue.
const POLLS: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(180));

/// Orders a certificate, shows the authority what it wants to see, and returns key and chain as
/// PEM. What was shown is the caller's to take away, whatever comes of it.
pub(crate) async fn order(
    account: &Account,
    config: &AcmeConfig,
    certificates: &Certificates,
    shown: &mut Shown,
) -> Result<Zeroizing<String>, AcmeError> {
    let names = config.names.names_to_order();
    let mut order = place(account, config, certificates, &names).await?;
    prove(&mut order, config, certificates, shown).await?;
    let made = |what| move |source| AcmeError::Make { what, source };
    let key = KeyPair::generate().map_err(made("the certificate's key"))?;
    let mut params = CertificateParams::new(names).map_err(made("a request"))?;
    // Authorities take the names from the extension, and some refuse a subject beside it.
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(made("a request"))?;
    order.finalize_csr(request.der()).await.map_err(said("ask for the certificate"))?;
    let chain = order.poll_certificate(&POLLS).await.map_err(said("wait for the certificate"))?;
    let key = Zeroizing::new(key.serialize_pem());
    Ok(Zeroizing::new(format!("{}{chain}", *key)))
}

/// Says to an authority that cares which certificate is to be replaced.
async fn place(
    account: &Account,
    config: &AcmeConfig,
    certificates: &Certificates,
    names: &[String],
) -> Result<Order, AcmeError> {
    let names: Vec<Identifier> = names.iter().cloned().map(Identifier::Dns).collect();
    let new = || {
        let new = NewOrder::new(&names);
        if let Some(profile) = &config.profile { new.profile(profile) } else { new }
    };
    let replaced = certificates.issued_der().and_then(|der| certificate_id::of(&der));
    if let Some(replaced) = replaced {
        // It may be of another authority, replaced already, or the authority knows nothing of this.
        let order = account.new_order(&new().replaces(replaced)).await;
        match order {
            Ok(order) => return Ok(order),
            Err(error) => tracing::debug!(%error, "the order does not name its predecessor"),
        }
    }
    account.new_order(&new()).await.map_err(said("order a certificate"))
}

/// Shows the authority that every name is ours.
async fn prove(
    order: &mut Order,
    config: &AcmeConfig,
    certificates: &Certificates,
    shown: &mut Shown,
) -> Result<(), AcmeError> {
    let (kind, kind_name) = match &config.proof {
        Proof::Tls => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
        Proof::Dns { .. } => (ChallengeType::Dns01, "dns-01"),
    };
    let read = || said("read what the authority wants to see");
    let mut any = false;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(read())?;
        // One that was proved lately still is.
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        any = true;
        let full_name = authorization.identifier().to_string();
        let Some(challenge) = authorization.challenge(kind.clone()) else {
            return Err(AcmeError::NoChallenge { kind: kind_name, name: full_name });
        };
        let name = full_name.trim_start_matches("*.");
        let answer = challenge.key_authorization();
        let (text, digest) = (answer.dns_value(), answer.digest());
        shown.show(&config.proof, certificates, name, (text, digest.as_ref())).await?;
    }
    if any && let Proof::Dns { wait, .. } = &config.proof {
        tokio::time::sleep(*wait).await;
    }
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(read())?;
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        let Some(mut challenge) = authorization.challenge(kind.clone()) else { continue };
        challenge.set_ready().await.map_err(said("have the authority look"))?;
    }
    let polled = order.poll_ready(&POLLS).await;
    if let Ok(OrderStatus::Ready) = polled {
        return Ok(());
    }
    if let Some(refused) = refusal(order, kind_name).await {
        return Err(refused);
    }
    polled.map_err(said("wait for the authority to look"))?;
    let source = instant_acme::Error::Str("the order became invalid, and it is not said why");
    Err(AcmeError::Authority { step: "wait for the authority to look", source })
}

/// Finds the name that the authority was not convinced of, and what it saw there.
async fn refusal(order: &mut Order, kind: &'static str) -> Option<AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        let found = authorization.challenges.iter().find_map(|each| each.error.as_ref());
        if let Some(problem) = found {
            let name = authorization.identifier().to_string();
            return Some(AcmeError::NotProved { kind, name, detail: detail(problem) });
        }
    }
    None
}

fn detail(problem: &Problem) -> String {
    problem.detail.clone().unwrap_or_else(|| problem.to_string())
}

fn said(step: &'static str) -> impl FnOnce(instant_acme::Error) -> AcmeError {
    move |source| AcmeError::Authority { step, source }
}
