//! What the document says of registered images.

use super::success::Answer;
use crate::{ErrorCode, ImageOperation};

/// What a registration may be refused for.
const REGISTRATIONS: [ErrorCode; 7] = [
    ErrorCode::InvalidRequest,
    ErrorCode::Forbidden,
    ErrorCode::SnapshotNotFound,
    ErrorCode::SnapshotNotReady,
    ErrorCode::ImageNameTaken,
    ErrorCode::PayloadTooLarge,
    ErrorCode::QuotaExceeded,
];

/// Returns the one sentence of an operation.
pub(super) fn summary(operation: ImageOperation) -> &'static str {
    match operation {
        ImageOperation::CasList | ImageOperation::TemplateList => {
            "Lists the images that the project made through this family, newest first"
        }
        ImageOperation::CasFetch | ImageOperation::TemplateFetch => "Returns an image",
        ImageOperation::CasFetchByName | ImageOperation::TemplateFetchByName => {
            "Returns the image of a name: the project's own, else one for all projects"
        }
        ImageOperation::CasResolve => "Returns the id of the image of a name",
        ImageOperation::CasDelete
        | ImageOperation::CasDeleteByName
        | ImageOperation::TemplateDelete
        | ImageOperation::TemplateDeleteByName
        | ImageOperation::NamedDelete => {
            "Deletes an image, whichever family made it; what was made from it stays"
        }
        ImageOperation::CasRegister | ImageOperation::TemplateRegister => {
            "Makes an image of a snapshot, in the place of one of that name"
        }
    }
}

/// Returns the statuses of success, with what they mean and their body.
pub(super) fn success(operation: ImageOperation) -> &'static [(u16, &'static str, Answer)] {
    match operation {
        ImageOperation::CasList => &[(200, "A page", Answer::Json("CasImageList"))],
        ImageOperation::CasFetch | ImageOperation::CasFetchByName => {
            &[(200, "The image", Answer::Json("CasImage"))]
        }
        ImageOperation::CasResolve => &[(200, "Its id", Answer::Json("CasImageId"))],
        ImageOperation::CasRegister => &[(201, "It is registered", Answer::Json("CasImage"))],
        ImageOperation::TemplateList => &[(200, "A page", Answer::Json("SandboxTemplateList"))],
        ImageOperation::TemplateRegister => {
            &[(200, "It is registered", Answer::Json("SandboxTemplate"))]
        }
        ImageOperation::TemplateFetch | ImageOperation::TemplateFetchByName => {
            &[(200, "The image", Answer::Json("SandboxTemplate"))]
        }
        ImageOperation::CasDelete
        | ImageOperation::CasDeleteByName
        | ImageOperation::TemplateDelete
        | ImageOperation::TemplateDeleteByName
        | ImageOperation::NamedDelete => &[(200, "It is gone", Answer::AnyJson)],
    }
}

/// Returns the errors that are an operation's own.
pub(super) fn errors(operation: ImageOperation) -> &'static [ErrorCode] {
    match operation {
        ImageOperation::CasList | ImageOperation::TemplateList => &[ErrorCode::InvalidRequest],
        ImageOperation::CasRegister | ImageOperation::TemplateRegister => &REGISTRATIONS,
        ImageOperation::CasFetch
        | ImageOperation::CasFetchByName
        | ImageOperation::CasResolve
        | ImageOperation::CasDelete
        | ImageOperation::CasDeleteByName
        | ImageOperation::TemplateFetch
        | ImageOperation::TemplateFetchByName
        | ImageOperation::TemplateDelete
        | ImageOperation::TemplateDeleteByName
        | ImageOperation::NamedDelete => &[ErrorCode::ImageNotFound],
    }
}

/// Returns the schema of an operation's body, if it takes one.
pub(super) fn request(operation: ImageOperation) -> Option<&'static str> {
    match operation {
        ImageOperation::CasRegister => Some("RegisterCasImageRequest"),
        ImageOperation::TemplateRegister => Some("RegisterImageRequest"),
        ImageOperation::CasList
        | ImageOperation::CasFetch
        | ImageOperation::CasFetchByName
        | ImageOperation::CasResolve
        | ImageOperation::CasDelete
        | ImageOperation::CasDeleteByName
        | ImageOperation::TemplateList
        | ImageOperation::TemplateFetch
        | ImageOperation::TemplateFetchByName
        | ImageOperation::TemplateDelete
        | ImageOperation::TemplateDeleteByName
        | ImageOperation::NamedDelete => None,
    }
}
