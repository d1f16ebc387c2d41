//! What is shown to the authority while it looks, and taken away again.

use tarn_hook::Hook;
use tarn_tls::{Certificates, ChallengeAnswer};

use crate::{AcmeError, Proof, error::chain};

/// Everything that is shown for one order.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    records: Vec<Record>,
    /// Until they are dropped.
    answers: Vec<ChallengeAnswer>,
}

/// A TXT record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    name: String,
    text: String,
}

// === impl Shown ===

impl Shown {
    /// Shows the proof for a name: the text of a record, or the digest in a handshake's answer.
    pub(crate) async fn show(
        &mut self,
        proof: &Proof,
        certificates: &Certificates,
        name: &str,
        (text, digest): (String, &[u8]),
    ) -> Result<(), AcmeError> {
        match proof {
            Proof::Tls => self.answers.push(certificates.answer_challenge(name, digest)?),
            Proof::Dns { hook, .. } => {
                let name = format!("_acme-challenge.{name}");
                let record = Record { name: name.clone(), text };
                // First, so that one that was set and said otherwise is unset as well.
                self.records.push(record.clone());
                let set = call(hook, "set", &record).await;
                set.map_err(|source| AcmeError::Hook { name, source })?;
            }
        }
        Ok(())
    }

    /// Takes everything away. What cannot be is harmless, and said.
    pub(crate) async fn clear(self, proof: &Proof) {
        let Proof::Dns { hook, .. } = proof else { return };
        for record in &self.records {
            if let Err(error) = call(hook, "unset", record).await {
                let error = chain(&error);
                tracing::warn!(error, acme.record = %record.name, "a DNS record stays behind");
            }
        }
    }
}

async fn call(hook: &Hook, verb: &str, record: &Record) -> Result<(), tarn_hook::HookError> {
    // Whatever it writes, it is not read; but it may write.
    const CHATTER: usize = 1 << 16;
    hook.run(&[verb, &record.name, &record.text], b"", CHATTER).await.map(drop)
}
