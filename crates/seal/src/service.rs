//! Keys that are never seen here: a service holds them, and seals for us.

use std::fmt;

use async_trait::async_trait;
use thiserror::Error;
use zeroize::Zeroizing;

/// Seals bytes with keys that it alone has, such as a KMS or an HSM.
#[async_trait]
pub trait KeyService: fmt::Debug + Send + Sync + 'static {
    /// Seals bytes with one of its keys.
    ///
    /// # Errors
    /// Fails when the service does not answer, or refuses.
    async fn wrap(&self, key_id: &str, plain: &[u8]) -> Result<Vec<u8>, KeyServiceError>;

    /// Opens what it sealed with one of its keys.
    ///
    /// # Errors
    /// Fails when the service does not answer, or refuses.
    async fn unwrap(
        &self,
        key_id: &str,
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyServiceError>;
}

/// Says why a key service did not do what it was asked; never what it was given or gave.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{detail}")]
pub struct KeyServiceError {
    /// In words, with the causes.
    pub detail: String,
}
