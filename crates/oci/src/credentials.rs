//! Who a registry takes us for.

use secrecy::SecretString;

/// The user name that says that an identity token stands for the password (the protocol of
/// docker's credential helpers).
const TOKEN_USER: &str = "<token>";

/// A user of a registry and the password or access token. `Debug` hides it, and its memory is
/// wiped when it is dropped.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The user name; `<token>` if an identity token stands for the password.
    pub username: String,
    /// The password, or a token that the registry takes in its place.
    pub password: SecretString,
}

// === impl Credentials ===

impl Credentials {
    /// Returns the token that only a token server takes, if that is what there is.
    pub(crate) fn identity_token(&self) -> Option<&SecretString> {
        (self.username == TOKEN_USER).then_some(&self.password)
    }
}
