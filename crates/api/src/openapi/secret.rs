//! What the document says of secrets in the words of the Rust crate.

use super::{refusal, success::Answer};
use crate::{ErrorCode, NamespaceSecretOperation};

/// Returns the one sentence of an operation.
pub(super) fn summary(operation: NamespaceSecretOperation) -> &'static str {
    match operation {
        NamespaceSecretOperation::List => "Lists all secrets by name, without their values",
        NamespaceSecretOperation::Put => {
            "Sets one secret, new or not; what boots from then on has the value"
        }
        NamespaceSecretOperation::Fetch => "Returns a secret, without its value",
        NamespaceSecretOperation::Delete => "Deletes a secret; what runs with it runs on",
    }
}

/// Returns the statuses of success, with what they mean and their body.
pub(super) fn success(
    operation: NamespaceSecretOperation,
) -> &'static [(u16, &'static str, Answer)] {
    match operation {
        NamespaceSecretOperation::List => {
            &[(200, "All of them", Answer::Json("NamespaceSecretList"))]
        }
        NamespaceSecretOperation::Put => &[(201, "It is set", Answer::Json("NamespaceSecret"))],
        NamespaceSecretOperation::Fetch => &[(200, "The secret", Answer::Json("NamespaceSecret"))],
        NamespaceSecretOperation::Delete => &[(200, "It is gone", Answer::AnyJson)],
    }
}

/// Returns the errors that are an operation's own.
pub(super) fn errors(operation: NamespaceSecretOperation) -> &'static [ErrorCode] {
    match operation {
        NamespaceSecretOperation::List => &[],
        NamespaceSecretOperation::Put => &refusal::SECRETS,
        NamespaceSecretOperation::Fetch | NamespaceSecretOperation::Delete => {
            &[ErrorCode::SecretNotFound]
        }
    }
}

/// Returns the schema of an operation's body, if it takes one.
pub(super) fn request(operation: NamespaceSecretOperation) -> Option<&'static str> {
    (operation == NamespaceSecretOperation::Put).then_some("PutSecretRequest")
}
