//! The operations of builds of images (spec 06 §2).

/// Every operation of builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is described by its row and its entry in the document")]
pub enum BuildOperation {
    Create,
    Fetch,
    Upload,
    Seal,
    Cancel,
    TemplatePrepare,
    TemplateComplete,
}

// === impl BuildOperation ===

impl BuildOperation {
    /// Returns the operation's name in logs, metrics and the document.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "build_create",
            Self::Fetch => "build_fetch",
            Self::Upload => "build_upload",
            Self::Seal => "build_seal",
            Self::Cancel => "build_cancel",
            Self::TemplatePrepare => "template_build_prepare",
            Self::TemplateComplete => "template_build_complete",
        }
    }
}
