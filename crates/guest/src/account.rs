//! The sandbox's accounts: who a request, or the image, means by a user.
//!
//! `/etc/passwd` and `/etc/group` are parsed here, as a static binary has no name service; the
//! rules for numbers without an account are Docker's, because image `USER` lines rely on them.

use std::fmt;

use tarn_daemon_api::UserSpec;

use crate::sys::{Identity, read_small_file};

/// The account files are read by root at every start; a tenant decides what is in them.
const MAX_ACCOUNT_FILE_BYTES: usize = 4 << 20;

/// A user as a process sees itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// Its rights.
    pub(crate) identity: Identity,
    /// `USER`; the number when it has no account.
    pub(crate) name: String,
    /// `HOME`.
    pub(crate) home: String,
    /// `SHELL`.
    pub(crate) shell: String,
}

/// The content of the two account files.
#[derive(Clone, Debug, Default)]
pub(crate) struct AccountFiles {
    passwd: String,
    group: String,
}

/// No such user or group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnknownAccount {
    kind: &'static str,
    name: String,
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

// === impl AccountFiles ===

impl AccountFiles {
    /// Reads the sandbox's files; one that can't be read counts as empty.
    pub(crate) fn read() -> Self {
        let text = |path| {
            let content = read_small_file(path, MAX_ACCOUNT_FILE_BYTES).unwrap_or_default();
            String::from_utf8_lossy(&content).into_owned()
        };
        Self { passwd: text("/etc/passwd"), group: text("/etc/group") }
    }

    /// Resolves a request's user.
    pub(crate) fn resolve(&self, user: &UserSpec) -> Result<Account, UnknownAccount> {
        match user {
            UserSpec::Text(text) => self.resolve_text(text),
            UserSpec::Name { name } => match self.passwd_entry(|entry| entry.name == name) {
                Some(entry) => Ok(self.account(&entry, None)),
                None => Err(UnknownAccount::user(name)),
            },
            UserSpec::Ids { uid, gid } => Ok(self.resolve_number(*uid, *gid)),
        }
    }

    /// Resolves `name`, `uid`, `uid:gid` or `name:group`; a name that looks like a number wins.
    pub(crate) fn resolve_text(&self, text: &str) -> Result<Account, UnknownAccount> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(self.resolve_group(group)?)),
            None => (text, None),
        };
        if let Some(entry) = self.passwd_entry(|entry| entry.name == user) {
            return Ok(self.account(&entry, group));
        }
        match parse_id(user) {
            Some(uid) => Ok(self.resolve_number(uid, group)),
            None => Err(UnknownAccount::user(user)),
        }
    }

    /// The superuser, whether or not the files know it.
    pub(crate) fn root(&self) -> Account {
        self.resolve_number(0, None)
    }

    fn resolve_number(&self, uid: u32, gid: Option<u32>) -> Account {
        if let Some(entry) = self.passwd_entry(|entry| entry.uid == uid) {
            return self.account(&entry, gid);
        }
        let gid = gid.unwrap_or(0);
        Account {
            identity: Identity { uid, gid, groups: vec![gid] },
            name: if uid == 0 { "root".to_owned() } else { uid.to_string() },
            home: if uid == 0 { "/root".to_owned() } else { "/".to_owned() },
            shell: "/bin/sh".to_owned(),
        }
    }

    fn resolve_group(&self, group: &str) -> Result<u32, UnknownAccount> {
        self.group_entries()
            .find(|entry| entry.name == group)
            .map(|entry| entry.gid)
            .or_else(|| parse_id(group))
            .ok_or_else(|| UnknownAccount { kind: "group", name: group.to_owned() })
    }

    /// An explicit group replaces the account's own, and its memberships too.
    fn account(&self, entry: &PasswdEntry<'_>, group: Option<u32>) -> Account {
        let gid = group.unwrap_or(entry.gid);
        let mut groups = vec![gid];
        if group.is_none() {
            groups.extend(
                self.group_entries()
                    .filter(|group| group.members.split(',').any(|name| name == entry.name))
                    .map(|group| group.gid),
            );
            groups.sort_unstable();
            groups.dedup();
        }
        let or = |text: &str, default: &str| {
            if text.is_empty() { default.to_owned() } else { text.to_owned() }
        };
        Account {
            identity: Identity { uid: entry.uid, gid, groups },
            name: entry.name.to_owned(),
            home: or(entry.home, "/"),
            shell: or(entry.shell, "/bin/sh"),
        }
    }

    fn passwd_entry(&self, wanted: impl Fn(&PasswdEntry<'_>) -> bool) -> Option<PasswdEntry<'_>> {
        self.passwd.lines().filter_map(parse_passwd_line).find(wanted)
    }

    fn group_entries(&self) -> impl Iterator<Item = GroupEntry<'_>> {
        self.group.lines().filter_map(parse_group_line)
    }
}

// === impl UnknownAccount ===

impl UnknownAccount {
    fn user(name: &str) -> Self {
        Self { kind: "user", name: name.to_owned() }
    }
}

impl fmt::Display for UnknownAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = if self.kind == "user" { "/etc/passwd" } else { "/etc/group" };
        write!(f, "unknown {} '{}': it is not in {file}", self.kind, self.name)
    }
}

/// `name:password:uid:gid:comment:home:shell`; a line that isn't is skipped, as libc does.
fn parse_passwd_line(line: &str) -> Option<PasswdEntry<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
    let uid = parse_id(fields.nth(1)?)?;
    let gid = parse_id(fields.next()?)?;
    let home = fields.nth(1).unwrap_or_default();
    let shell = fields.next().unwrap_or_default();
    Some(PasswdEntry { name, uid, gid, home, shell })
}

/// `name:password:gid:member,member`.
fn parse_group_line(line: &str) -> Option<GroupEntry<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
    let gid = parse_id(fields.nth(1)?)?;
    Some(GroupEntry { name, gid, members: fields.next().unwrap_or_default().trim_end() })
}

/// An id in decimal; the largest value means "no id" to the kernel and is none.
fn parse_id(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests;
