use proptest::prelude::*;

use super::*;

fn shown(text: &str) -> String {
    match text.parse::<EgressEntry>() {
        Ok(entry) => {
            assert_eq!(entry.as_str(), text, "kept as written");
            match entry.target() {
                EgressTarget::V4 { network, prefix } => format!("{network}/{prefix}"),
                EgressTarget::V6 { network, prefix } => format!("{network}/{prefix}"),
                EgressTarget::Name(name) => name.to_string(),
            }
        }
        Err(EgressEntryError::Unknown(_)) => "unknown".into(),
        Err(EgressEntryError::Wildcard(_)) => "wildcard".into(),
        Err(EgressEntryError::Prefix(_)) => "prefix".into(),
        Err(EgressEntryError::Port(_)) => "port".into(),
    }
}

#[test]
fn entries_are_read() {
    for (text, expected) in [
        ("203.0.113.7", "203.0.113.7/32"),
        ("203.0.113.7:443", "203.0.113.7/32"),
        ("203.0.113.7/24", "203.0.113.0/24"),
        ("203.0.113.0/24:443", "203.0.113.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("255.255.255.255/32", "255.255.255.255/32"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("2001:DB8::1/32", "2001:db8::/32"),
        ("[2001:db8::1]", "2001:db8::1/128"),
        ("[2001:db8::1]:443", "2001:db8::1/128"),
        ("[2001:db8::]/32:443", "2001:db8::/32"),
        ("2001:db8::/32:443", "2001:db8::/32"),
        ("::/0", "::/0"),
        ("::ffff:203.0.113.7", "203.0.113.7/32"),
        ("::ffff:203.0.113.7/120", "203.0.113.0/24"),
        ("::ffff:0:0/95", "::fffe:0:0/95"),
        ("example.com", "example.com"),
        ("Example.COM.", "example.com"),
        ("example.com:443", "example.com"),
        ("localhost", "localhost"),
        ("_dmarc.xn--bcher-kva.example", "_dmarc.xn--bcher-kva.example"),
        ("1and1.com", "1and1.com"),
    ] {
        assert_eq!(shown(text), expected, "{text}");
    }
}

#[test]
fn what_is_no_entry_is_refused() {
    let long = format!("{}.com", "a".repeat(64));
    let longer = ["a".repeat(60).as_str(); 5].join(".");
    for (text, expected) in [
        ("", "unknown"),
        (".", "unknown"),
        (" example.com", "unknown"),
        ("exa mple.com", "unknown"),
        ("-example.com", "unknown"),
        ("example-.com", "unknown"),
        ("example..com", "unknown"),
        ("bücher.example", "unknown"),
        ("https://example.com", "unknown"),
        ("example.com/path", "unknown"),
        ("203.0.113", "unknown"),
        ("203.0.113.256", "unknown"),
        ("203.0.113.07", "unknown"),
        ("[203.0.113.7]:443", "unknown"),
        ("[2001:db8::1", "unknown"),
        ("[2001:db8::1]x", "unknown"),
        ("fe80::1%eth0", "port"),
        ("*.example.com", "wildcard"),
        ("*", "wildcard"),
        ("203.0.113.0/33", "prefix"),
        ("203.0.113.0/", "prefix"),
        ("203.0.113.0/+8", "prefix"),
        ("2001:db8::/129", "prefix"),
        ("203.0.113.7:0", "port"),
        ("203.0.113.7:65536", "port"),
        ("203.0.113.7:", "port"),
        ("example.com:https", "port"),
        ("203.0.113.0/24:x", "port"),
        (long.as_str(), "unknown"),
        (longer.as_str(), "unknown"),
    ] {
        assert_eq!(shown(text), expected, "{text}");
    }
}

#[test]
fn a_policy_is_stored_as_before_and_with_its_lists() {
    let old = r#"{"allow_internet_access":true}"#;
    assert_eq!(serde_json::from_str::<EgressPolicy>(old).expect("old"), EgressPolicy::OPEN);
    assert_eq!(serde_json::to_string(&EgressPolicy::OPEN).expect("text"), old);
    let new = r#"{"allow_internet_access":false,"allow_out":["Example.com:443"],"deny_out":["10.1.2.3/8"]}"#;
    let policy: EgressPolicy = serde_json::from_str(new).expect("new");
    assert_eq!(serde_json::to_string(&policy).expect("text"), new, "as written");
    serde_json::from_str::<EgressPolicy>(r#"{"allow_internet_access":true,"deny_out":["*"]}"#)
        .expect_err("what is no entry is not passed over");
}

proptest! {
    #[test]
    fn whatever_is_written_is_an_entry_that_comes_back_or_none(
        text in r"(\PC{0,40}|[0-9a-f.:/\[\]]{0,30}|[a-z0-9.-]{1,20}(:[0-9]{0,6})?)"
    ) {
        if let Ok(entry) = text.parse::<EgressEntry>() {
            prop_assert_eq!(entry.as_str(), &text);
            let stored = serde_json::to_string(&entry).expect("text");
            prop_assert_eq!(serde_json::from_str::<EgressEntry>(&stored).expect("text"), entry);
        }
    }

    #[test]
    fn an_address_is_the_same_with_brackets_port_and_whole_prefix(bits in any::<u128>(), v4: bool) {
        let low = u32::try_from(bits & 0xffff_ffff).expect("32 bits");
        let (plain, forms) = if v4 {
            let ip = Ipv4Addr::from_bits(low);
            (ip.to_string(), [format!("{ip}:1"), format!("{ip}/32"), format!("{ip}/32:65535")])
        } else {
            let ip = Ipv6Addr::from_bits(bits);
            (ip.to_string(), [format!("[{ip}]:1"), format!("{ip}/128"), format!("[{ip}]/128:2")])
        };
        let plain: EgressEntry = plain.parse().expect("an address");
        for form in forms {
            let entry: EgressEntry = form.parse().expect("an address");
            prop_assert_eq!(entry.target(), plain.target(), "{}", form);
        }
    }
}
