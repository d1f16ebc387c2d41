//! A table of every form of user, and proof that no content of the files can panic.

use proptest::prelude::*;

use super::*;

fn files() -> AccountFiles {
    AccountFiles {
        passwd: "root:x:0:0:root:/root:/bin/bash\n\
                 # comment\n\
                 broken line\n\
                 nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n\
                 tl-user:x:1000:1000:,,,:/home/tl-user:/bin/bash\n\
                 bare:x:1001:1002::\n\
                 77:x:1077:1077::/seven:\n"
            .to_owned(),
        group: "root:x:0:\nsudo:x:27:tl-user\ndocker:x:999:bare,tl-user\ntl-user:x:1000:\n"
            .to_owned(),
    }
}

#[test]
fn every_text_form_resolves() {
    // text, uid, gid, groups, name, home
    type Row = (&'static str, u32, u32, &'static [u32], &'static str, &'static str);
    let table: &[Row] = &[
        ("root", 0, 0, &[0], "root", "/root"),
        ("0", 0, 0, &[0], "root", "/root"),
        ("tl-user", 1000, 1000, &[27, 999, 1000], "tl-user", "/home/tl-user"),
        ("1000", 1000, 1000, &[27, 999, 1000], "tl-user", "/home/tl-user"),
        ("tl-user:sudo", 1000, 27, &[27], "tl-user", "/home/tl-user"),
        ("1000:5", 1000, 5, &[5], "tl-user", "/home/tl-user"),
        ("4242", 4242, 0, &[0], "4242", "/"),
        ("4242:17", 4242, 17, &[17], "4242", "/"),
        ("bare", 1001, 1002, &[999, 1002], "bare", "/"),
        ("77", 1077, 1077, &[1077], "77", "/seven"),
    ];
    for (text, uid, gid, groups, name, home) in table {
        let account = files().resolve_text(text).expect(text);
        assert_eq!(account.identity.uid, *uid, "{text}");
        assert_eq!(account.identity.gid, *gid, "{text}");
        assert_eq!(account.identity.groups, *groups, "{text}");
        assert_eq!(account.name, *name, "{text}");
        assert_eq!(account.home, *home, "{text}");
    }
}

#[test]
fn unknown_names_are_refused_with_their_file() {
    let table = [
        ("ghost", "unknown user 'ghost': it is not in /etc/passwd"),
        ("", "unknown user '': it is not in /etc/passwd"),
        ("-1", "unknown user '-1': it is not in /etc/passwd"),
        ("4294967295", "unknown user '4294967295': it is not in /etc/passwd"),
        ("root:ghosts", "unknown group 'ghosts': it is not in /etc/group"),
        ("root:", "unknown group '': it is not in /etc/group"),
    ];
    for (text, message) in table {
        let error = files().resolve_text(text).expect_err(text);
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn object_forms_resolve() {
    let named = UserSpec::Name { name: "tl-user".to_owned() };
    assert_eq!(files().resolve(&named).expect("known").identity.uid, 1000);
    // The object names an account, never a number.
    assert!(files().resolve(&UserSpec::Name { name: "1000".to_owned() }).is_err());
    let ids = UserSpec::Ids { uid: 1000, gid: Some(9) };
    assert_eq!(files().resolve(&ids).expect("numbers").identity.gid, 9);
}

#[test]
fn root_needs_no_files() {
    let root = AccountFiles::default().root();
    assert_eq!((root.identity.uid, root.name.as_str(), root.home.as_str()), (0, "root", "/root"));
}

proptest! {
    #[test]
    fn no_content_panics(passwd in ".{0,200}", group in ".{0,200}", text in ".{0,40}") {
        let files = AccountFiles { passwd, group };
        if let Ok(account) = files.resolve_text(&text) {
            prop_assert!(account.identity.groups.contains(&account.identity.gid));
        }
    }
}
