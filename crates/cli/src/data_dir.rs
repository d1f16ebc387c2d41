//! Where the server keeps its data, and so where its socket is.

use std::path::PathBuf;

use clap::Args;
use thiserror::Error;

/// The name of the administrative socket in the data directory.
pub const ADMIN_SOCKET: &str = "admin.sock";

/// Which data directory is meant. The environment is read by clap and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct DataDirArgs {
    /// The server's data directory
    /// [default: ${XDG_STATE_HOME:-$HOME/.local/state}/tarn]
    #[arg(long, env = "TARN_DATA_DIR", global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Only read from the environment.
    #[arg(long, env = "XDG_STATE_HOME", hide = true, global = true)]
    xdg_state_home: Option<PathBuf>,
    /// Only read from the environment.
    #[arg(long, env = "HOME", hide = true, global = true)]
    home: Option<PathBuf>,
}

/// Says that no data directory is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("neither --data-dir nor TARN_DATA_DIR, XDG_STATE_HOME or HOME says where the data is")]
pub struct DataDirError;

// === impl DataDirArgs ===

impl DataDirArgs {
    /// Returns the directory, whether it exists or not.
    ///
    /// # Errors
    /// Fails when nothing says where it is.
    pub fn resolve(&self) -> Result<PathBuf, DataDirError> {
        if let Some(named) = non_empty(self.data_dir.as_ref()) {
            return Ok(named);
        }
        // The XDG specification: a relative path there is to be ignored.
        let state = non_empty(self.xdg_state_home.as_ref()).filter(|path| path.is_absolute());
        let state = state.or_else(|| Some(non_empty(self.home.as_ref())?.join(".local/state")));
        Ok(state.ok_or(DataDirError)?.join("tarn"))
    }
}

fn non_empty(path: Option<&PathBuf>) -> Option<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_follows_the_environment() {
        let table = [
            ((Some("/d"), Some("/x"), Some("/h")), Ok("/d")),
            ((Some("d"), None, None), Ok("d")),
            ((Some(""), Some("/x"), Some("/h")), Ok("/x/tarn")),
            ((None, Some("relative"), Some("/h")), Ok("/h/.local/state/tarn")),
            ((None, None, Some("/h")), Ok("/h/.local/state/tarn")),
            ((None, None, Some("")), Err(DataDirError)),
        ];
        for ((data_dir, xdg, home), expected) in table {
            let args = DataDirArgs {
                data_dir: data_dir.map(PathBuf::from),
                xdg_state_home: xdg.map(PathBuf::from),
                home: home.map(PathBuf::from),
            };
            assert_eq!(args.resolve(), expected.map(PathBuf::from), "{args:?}");
        }
    }
}
