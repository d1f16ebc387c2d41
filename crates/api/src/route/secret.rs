//! The operations on secrets in the words of the Rust crate (tensorlake 0.5.160, `secrets/mod.rs`).

/// What is done with secrets below a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is described by its row and its entry in the document")]
pub enum NamespaceSecretOperation {
    List,
    Put,
    Fetch,
    Delete,
}

// === impl NamespaceSecretOperation ===

impl NamespaceSecretOperation {
    /// Returns the operation's id.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::List => "namespace_secret_list",
            Self::Put => "namespace_secret_put",
            Self::Fetch => "namespace_secret_fetch",
            Self::Delete => "namespace_secret_delete",
        }
    }
}
