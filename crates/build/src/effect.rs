//! What an instruction does to a file system.

use serde::Serialize;

/// What an instruction does to the files of its stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing: it changed the configuration, if anything.
    None,
    /// It runs a command.
    Run(Run),
    /// It copies files in.
    Copy(Copy),
    /// It makes a directory, with those above it, unless it is there.
    MakeDir {
        /// The directory, from the root.
        path: String,
    },
}

/// A command that is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Its environment beyond what its user has; a later pair wins.
    pub env: Vec<(String, String)>,
    /// Who runs it; `None` = root.
    pub user: Option<String>,
    /// Where it runs.
    pub dir: String,
}

/// Files that are copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copy {
    /// Where they come from.
    pub from: CopyFrom,
    /// What is copied: paths in which `*`, `?` and `[…]` are patterns.
    pub sources: Vec<String>,
    /// Files that stand in the Dockerfile itself.
    pub inline: Vec<Inline>,
    /// Where they go, from the root; with a slash at its end it is a directory.
    pub dest: String,
    /// Whom they belong to: `user`, `user:group` or numbers; `None` = root.
    pub chown: Option<String>,
    /// Their permissions, instead of their own.
    pub chmod: Option<u32>,
    /// Whether it was `ADD`.
    pub adds: bool,
}

/// Where files are copied from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyFrom {
    /// The context that was uploaded.
    Context,
    /// What an earlier stage became.
    Stage(usize),
    /// An image.
    Image(String),
}

/// A file that stands in the Dockerfile itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inline {
    /// Its name.
    pub name: String,
    /// What is in it.
    pub text: String,
}
