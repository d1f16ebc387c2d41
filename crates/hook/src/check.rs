//! Whether a program is fit to be run with the server's rights.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Says why a program is not run.
#[derive(Debug, Error)]
pub enum HookCheckError {
    /// The list is empty.
    #[error("it names no program")]
    Empty,
    /// The path depends on where the server was started.
    #[error("`{}` is not an absolute path", .program.display())]
    Relative {
        /// What was said.
        program: PathBuf,
    },
    /// It cannot be looked at.
    #[error("look at the program {}", .program.display())]
    Look {
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is no file that can be run.
    #[error("{} is not a program; chmod +x it, or name another", .program.display())]
    NoProgram {
        /// The file.
        program: PathBuf,
    },
    /// Others may change what the server runs.
    #[error(
        "others than its owner may change {} (mode {mode:o}); chmod go-w it",
        .program.display()
    )]
    Open {
        /// The program.
        program: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// Looks at a program. Blocks.
pub(crate) fn check(program: &Path) -> Result<(), HookCheckError> {
    let program = program.to_owned();
    if !program.is_absolute() {
        return Err(HookCheckError::Relative { program });
    }
    let meta = match fs::metadata(&program) {
        Ok(meta) => meta,
        Err(source) => return Err(HookCheckError::Look { program, source }),
    };
    let mode = meta.permissions().mode() & 0o7777;
    if !meta.is_file() || mode & 0o111 == 0 {
        return Err(HookCheckError::NoProgram { program });
    }
    if mode & 0o022 != 0 {
        return Err(HookCheckError::Open { program, mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_may_change_is_not_run() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("program");
        let with = |mode| {
            fs::write(&path, "#!/bin/sh\n").expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changed");
            check(&path).map_err(|error| error.to_string())
        };
        for (mode, wrong) in [
            (0o700, None),
            (0o755, None),
            (0o600, Some("is not a program")),
            (0o775, Some("(mode 775); chmod go-w")),
            (0o757, Some("(mode 757); chmod go-w")),
        ] {
            match (with(mode), wrong) {
                (Ok(()), None) => {}
                (Err(error), Some(part)) => assert!(error.contains(part), "{mode:o}: {error}"),
                (other, _) => unreachable!("{mode:o}: {other:?}"),
            }
        }
        let absent = check(&dir.path().join("absent"));
        assert!(matches!(absent, Err(HookCheckError::Look { .. })), "{absent:?}");
        let relative = check(Path::new("program"));
        assert!(matches!(relative, Err(HookCheckError::Relative { .. })), "{relative:?}");
        let folder = check(dir.path());
        assert!(matches!(folder, Err(HookCheckError::NoProgram { .. })), "{folder:?}");
    }
}
