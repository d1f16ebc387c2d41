//! Certificates that nobody vouches for.

use std::sync::Arc;

use rcgen::CertificateParams;
use rustls::sign::CertifiedKey;
use tarn_types::UnixMillis;

use crate::{
    AuthorityError, ServerNames,
    authority::{LeafKey, backdated, named, set_dates},
    pair::{Pair, Validity},
};

/// How long they last. One that is shown for longer is no worse for having expired.
const TEMPORARY_SECS: u64 = 7 * 24 * 3600;

/// Makes one to show until a better one is there.
pub(crate) fn pair(names: &ServerNames, now: UnixMillis) -> Result<Pair, AuthorityError> {
    let params = CertificateParams::new(names.alternative_names());
    let params = params.map_err(|source| failed("a temporary certificate", source))?;
    self_signed(params, now)
}

/// Signs a certificate with its own key.
pub(crate) fn self_signed(
    mut params: CertificateParams,
    now: UnixMillis,
) -> Result<Pair, AuthorityError> {
    let validity = Validity { from: backdated(now), until: now.plus_secs(TEMPORARY_SECS) };
    set_dates(&mut params, validity);
    params.distinguished_name = named("tarn, temporary");
    let key = LeafKey::new()?;
    let made = params.self_signed(&key.pair);
    let made = made.map_err(|source| failed("a temporary certificate", source))?;
    let key = CertifiedKey::new(vec![made.der().clone()], key.signing);
    Ok(Pair { key: Arc::new(key), validity })
}

fn failed(what: &'static str, source: rcgen::Error) -> AuthorityError {
    AuthorityError::Make { what, source }
}
