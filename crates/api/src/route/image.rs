//! The operations on registered images.

/// What is done with registered images, through either family of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is described by its row and its entry in the document")]
pub enum ImageOperation {
    CasList,
    CasFetchByName,
    CasDeleteByName,
    CasFetch,
    CasDelete,
    CasResolve,
    CasRegister,
    TemplateList,
    TemplateRegister,
    TemplateFetchByName,
    TemplateDeleteByName,
    TemplateFetch,
    TemplateDelete,
    NamedDelete,
}

// === impl ImageOperation ===

impl ImageOperation {
    /// Returns the operation's id.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CasList => "cas_image_list",
            Self::CasFetchByName => "cas_image_fetch_by_name",
            Self::CasDeleteByName => "cas_image_delete_by_name",
            Self::CasFetch => "cas_image_fetch",
            Self::CasDelete => "cas_image_delete",
            Self::CasResolve => "cas_image_resolve",
            Self::CasRegister => "cas_image_register",
            Self::TemplateList => "template_list",
            Self::TemplateRegister => "template_register",
            Self::TemplateFetchByName => "template_fetch_by_name",
            Self::TemplateDeleteByName => "template_delete_by_name",
            Self::TemplateFetch => "template_fetch",
            Self::TemplateDelete => "template_delete",
            Self::NamedDelete => "sandbox_image_delete",
        }
    }
}
