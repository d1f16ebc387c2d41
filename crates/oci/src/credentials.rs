//! Who a registry takes us for.

use secrecy::SecretString;

/// A user of a registry and the password or access token. `Debug` hides it, and its memory is
/// wiped when it is dropped.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The user name.
    pub username: String,
    /// The password, or a token that the registry takes in its place.
    pub password: SecretString,
}
