//! Answers to who asks, by TLS-ALPN-01 (RFC 8737), whether a name is ours: a certificate of its own
//! for a handshake that offers one protocol and is over then.

use std::{collections::HashMap, fmt, sync::Arc};

use parking_lot::Mutex;
use rcgen::CustomExtension;
use rustls::{server::ClientHello, sign::CertifiedKey};
use tarn_types::UnixMillis;

use crate::{AuthorityError, temporary};

/// The protocol that such a handshake offers, and no other.
pub(crate) const CHALLENGE_PROTOCOL: &[u8] = b"acme-tls/1";

type Answers = Arc<Mutex<HashMap<String, Arc<CertifiedKey>>>>;

/// The answers that are given now, by name. Cheap to clone; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Challenges(Answers);

/// Has one name answered for until it is dropped.
pub struct ChallengeAnswer {
    name: String,
    answers: Answers,
}

// === impl Challenges ===

impl Challenges {
    pub(crate) fn answer(
        &self,
        name: &str,
        digest: &[u8],
        now: UnixMillis,
    ) -> Result<ChallengeAnswer, AuthorityError> {
        let failed = |source| AuthorityError::Make { what: "an answer to a challenge", source };
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let pair = temporary::self_signed(params, now)?;
        self.0.lock().insert(name.to_owned(), pair.key);
        Ok(ChallengeAnswer { name: name.to_owned(), answers: Arc::clone(&self.0) })
    }

    pub(crate) fn resolve(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        self.0.lock().get(name?).map(Arc::clone)
    }
}

// === impl ChallengeAnswer ===

impl Drop for ChallengeAnswer {
    fn drop(&mut self) {
        self.answers.lock().remove(&self.name);
    }
}

impl fmt::Debug for ChallengeAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChallengeAnswer").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Says whether a handshake asks for an answer.
pub(crate) fn is_challenge(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut offered| {
        offered.next() == Some(CHALLENGE_PROTOCOL) && offered.next().is_none()
    })
}
