//! The environment of a process (spec 01 §10).
//!
//! Later wins: the account's variables and a default `PATH` → the sandbox's base (image ENV,
//! secrets) → the call's `env`. Last comes the mark by which descendants are found, see
//! [`crate::process::census`].

use std::{collections::BTreeMap, ffi::CString};

use crate::account::Account;

/// The variable that marks a process and all its descendants.
pub(crate) const MARK: &str = "TARN_PROCESS_ID";

const ROOT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessEnvironment(BTreeMap<String, String>);

/// A name or value that no process can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadVariable(pub(crate) String);

// === impl ProcessEnvironment ===

impl ProcessEnvironment {
    /// Puts the layers over each other.
    pub(crate) fn new<'a>(
        account: &Account,
        base: &[(String, String)],
        call: impl IntoIterator<Item = (&'a String, &'a String)>,
        mark: String,
    ) -> Result<Self, BadVariable> {
        let mut variables = BTreeMap::from([
            ("HOME".to_owned(), account.home.clone()),
            ("USER".to_owned(), account.name.clone()),
            ("LOGNAME".to_owned(), account.name.clone()),
            ("SHELL".to_owned(), account.shell.clone()),
            ("PATH".to_owned(), ROOT_PATH.to_owned()),
        ]);
        variables.extend(base.iter().cloned());
        for (name, value) in call {
            check(name, value)?;
            variables.insert(name.clone(), value.clone());
        }
        variables.insert(MARK.to_owned(), mark);
        Ok(Self(variables))
    }

    /// Returns the paths to try for `command`, as a shell would: as it is when it has a slash,
    /// else in each directory of `PATH`.
    pub(crate) fn search(&self, command: &str) -> Vec<String> {
        if command.contains('/') {
            return vec![command.to_owned()];
        }
        let path = self.0.get("PATH").map_or("", String::as_str);
        path.split(':')
            .map(|directory| match directory {
                "" => format!("./{command}"),
                directory => format!("{directory}/{command}"),
            })
            .collect()
    }

    /// Returns `NAME=value` strings; none has a NUL, which [`Self::new`] and `init` check.
    pub(crate) fn to_strings(&self) -> Vec<CString> {
        self.0
            .iter()
            .filter_map(|(name, value)| CString::new(format!("{name}={value}")).ok())
            .collect()
    }
}

/// Checks one variable.
pub(crate) fn check(name: &str, value: &str) -> Result<(), BadVariable> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(BadVariable(format!(
            "{name:?} is no variable name: it must not be empty and holds neither '=' nor NUL"
        )));
    }
    if value.contains('\0') {
        return Err(BadVariable(format!("the value of {name:?} holds a NUL")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::AccountFiles;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn build(base: &[(&str, &str)], call: &[(&str, &str)]) -> ProcessEnvironment {
        let call: BTreeMap<String, String> = pairs(call).into_iter().collect();
        let root = AccountFiles::default().root();
        ProcessEnvironment::new(&root, &pairs(base), &call, "t-1".to_owned()).expect("good names")
    }

    #[test]
    fn later_layers_win() {
        let env = build(
            &[("PATH", "/image"), ("A", "image"), ("B", "image"), ("B", "secret")],
            &[("A", "call"), (MARK, "forged")],
        );
        let text: Vec<_> = env.to_strings().into_iter().map(|s| s.into_string()).collect();
        let expected = [
            "A=call",
            "B=secret",
            "HOME=/root",
            "LOGNAME=root",
            "PATH=/image",
            "SHELL=/bin/sh",
            "TARN_PROCESS_ID=t-1",
            "USER=root",
        ];
        let expected: Vec<_> = expected.iter().map(|s| Ok((*s).to_owned())).collect();
        assert_eq!(text, expected);
    }

    #[test]
    fn programs_are_searched_in_the_resulting_path() {
        let table: &[(&str, &str, &[&str])] = &[
            ("/a:/b", "true", &["/a/true", "/b/true"]),
            ("/a", "./x", &["./x"]),
            ("/a", "/bin/x", &["/bin/x"]),
            (":/a", "x", &["./x", "/a/x"]),
        ];
        for (path, command, expected) in table {
            assert_eq!(build(&[], &[("PATH", path)]).search(command), *expected);
        }
    }

    #[test]
    fn impossible_variables_are_refused() {
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0y")] {
            assert!(check(name, value).is_err(), "{name:?}={value:?}");
        }
        assert!(check("A.b-c", "=").is_ok());
    }
}
