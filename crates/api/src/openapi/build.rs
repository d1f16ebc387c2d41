//! What the document says about builds of images.

use super::success::Answer;
use crate::{BuildOperation, ErrorCode};

pub(super) fn summary(operation: BuildOperation) -> &'static str {
    match operation {
        BuildOperation::Create => "Begins to build or to import an image",
        BuildOperation::Fetch => "Returns a build",
        BuildOperation::Upload => "Takes the context of a build, as a tar archive",
        BuildOperation::Seal => "Says that the context is whole, and builds",
        BuildOperation::Cancel => "Cancels a build, by its id or that of its request",
        BuildOperation::TemplatePrepare => {
            "Prepares a build that the client drives from a sandbox of its own"
        }
        BuildOperation::TemplateComplete => "Registers the image of such a build",
    }
}

pub(super) fn success(operation: BuildOperation) -> &'static [(u16, &'static str, Answer)] {
    match operation {
        BuildOperation::Create => &[
            (200, "The build", Answer::Json("BuildBody")),
            (409, "Another build of the name goes on", Answer::Json("BuildConflict")),
        ],
        BuildOperation::Fetch | BuildOperation::Seal => {
            &[(200, "The build", Answer::Json("BuildBody"))]
        }
        BuildOperation::Upload => &[(204, "It is here; seal it next", Answer::Text)],
        BuildOperation::Cancel => {
            &[(200, "What became of the build", Answer::Json("BuildCancelled"))]
        }
        BuildOperation::TemplatePrepare => &[
            (200, "What the client needs to know", Answer::Json("SandboxTemplateBuild")),
            (409, "Another build of the name goes on", Answer::Json("BuildConflict")),
        ],
        BuildOperation::TemplateComplete => &[(200, "The image", Answer::Json("SandboxTemplate"))],
    }
}

pub(super) fn errors(operation: BuildOperation) -> &'static [ErrorCode] {
    match operation {
        BuildOperation::Create => {
            &[ErrorCode::InvalidRequest, ErrorCode::QuotaExceeded, ErrorCode::PayloadTooLarge]
        }
        BuildOperation::Fetch => &[ErrorCode::BuildNotFound],
        BuildOperation::Upload => &[
            ErrorCode::InvalidRequest,
            ErrorCode::Forbidden,
            ErrorCode::BuildNotAwaiting,
            ErrorCode::PayloadTooLarge,
        ],
        BuildOperation::Seal => {
            &[ErrorCode::InvalidRequest, ErrorCode::BuildNotFound, ErrorCode::BuildNotAwaiting]
        }
        BuildOperation::Cancel => &[ErrorCode::InvalidRequest, ErrorCode::BuildNotFound],
        BuildOperation::TemplatePrepare => &[
            ErrorCode::InvalidRequest,
            ErrorCode::Forbidden,
            ErrorCode::ImageNotFound,
            ErrorCode::QuotaExceeded,
            ErrorCode::PayloadTooLarge,
        ],
        BuildOperation::TemplateComplete => &[
            ErrorCode::InvalidRequest,
            ErrorCode::BuildNotFound,
            ErrorCode::BuildNotAwaiting,
            ErrorCode::ImageNameTaken,
            ErrorCode::QuotaExceeded,
        ],
    }
}

pub(super) fn request(operation: BuildOperation) -> Option<&'static str> {
    match operation {
        BuildOperation::Create => Some("CreateBuildRequest"),
        BuildOperation::Seal => Some("SealContextRequest"),
        BuildOperation::TemplatePrepare => Some("PrepareTemplateBuildRequest"),
        BuildOperation::TemplateComplete => Some("CompleteTemplateBuildRequest"),
        BuildOperation::Fetch | BuildOperation::Upload | BuildOperation::Cancel => None,
    }
}
