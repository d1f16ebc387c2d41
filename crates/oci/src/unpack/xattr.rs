//! The extended attributes that files of an image may have.
//!
//! Capabilities of programs and what users keep for themselves. All else is passed over: it would
//! say something to this host that the image may not say: `trusted.overlay.*` and `user.overlay.*`
//! steer the overlay that the tree becomes part of, `security.selinux`, `security.ima` and the like
//! belong to this host's policy, `system.*` to its file systems.

use std::os::fd::BorrowedFd;

use rustix::{
    fs::{XattrFlags, fsetxattr},
    io::Errno,
};

/// Says whether an image may set an attribute.
fn is_taken(name: &[u8]) -> bool {
    name == b"security.capability"
        || (name.starts_with(b"user.")
            && name.len() > b"user.".len()
            && !name.starts_with(b"user.overlay.")
            && !name.contains(&0))
}

/// Sets those attributes that an image may set.
pub(crate) fn set(fd: BorrowedFd<'_>, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Errno> {
    for (name, value) in xattrs.iter().filter(|(name, _)| is_taken(name)) {
        fsetxattr(fd, name.as_slice(), value, XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_the_host_is_taken() {
        for (name, taken) in [
            ("security.capability", true),
            ("user.note", true),
            ("user.", false),
            ("user.overlay.opaque", false),
            ("trusted.overlay.redirect", false),
            ("trusted.x", false),
            ("security.selinux", false),
            ("security.ima", false),
            ("system.posix_acl_access", false),
            ("security.capability\0", false),
            ("user.a\0b", false),
        ] {
            assert_eq!(is_taken(name.as_bytes()), taken, "{name}");
        }
    }
}
