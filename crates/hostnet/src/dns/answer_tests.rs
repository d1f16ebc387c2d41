use tarn_types::EgressPolicy;

use super::*;

/// One record: owner, type, lifetime, data.
type Raw<'a> = (&'a [u8], u16, u32, &'a [u8]);

/// The owner of most records: what was asked for.
const ASKED: &[u8] = b"\xc0\x0c";

/// Reads an answer where no private network is opened.
fn read(message: &[u8]) -> Option<Answer> {
    super::read(message, &OpenedNetworks::default())
}

fn message(question: &[u8], sections: [&[Raw<'_>]; 3]) -> Vec<u8> {
    let mut bytes = vec![0, 1, 0x81, 0x80, 0, 1];
    for section in sections {
        bytes.extend_from_slice(&[0, u8::try_from(section.len()).expect("few")]);
    }
    bytes.extend_from_slice(question);
    bytes.extend_from_slice(&[0, 1, 0, 1]);
    for (owner, kind, ttl, data) in sections.into_iter().flatten() {
        bytes.extend_from_slice(owner);
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&[0, 1]);
        bytes.extend_from_slice(&ttl.to_be_bytes());
        bytes.extend_from_slice(&u16::try_from(data.len()).expect("short").to_be_bytes());
        bytes.extend_from_slice(data);
    }
    bytes
}

const EXAMPLE: &[u8] = b"\x01a\x07example\0";

fn egress(allow: &[&str], deny: &[&str]) -> Egress {
    let read = |list: &[&str]| {
        list.iter().map(|text| text.parse().expect("a good entry")).collect::<Vec<_>>()
    };
    Egress::compile(&EgressPolicy {
        allow_internet_access: true,
        allow_out: read(allow),
        deny_out: read(deny),
    })
}

fn name(text: &str) -> HostName {
    HostName::read(text).expect("a good name")
}

fn shown(message: &[u8], egress: &Egress) -> String {
    let Some(answer) = read(message) else { return "broken".into() };
    match admit(&answer, egress, asked_name(message).as_ref()) {
        Admission::After(name, records) => format!("after {name} {}", records.len()),
        Admission::Now => "now".into(),
        Admission::Empty => "empty".into(),
        Admission::Refused => "refused".into(),
        Admission::Denied(name, records) => format!("denied {name} {}", records.len()),
    }
}

#[test]
fn a_private_address_that_is_opened_is_as_good_as_any() {
    let opened = ["10.0.0.0/24".to_owned()];
    let opened = OpenedNetworks::read(&opened, crate::AddressRange::DEFAULT).expect("private");
    for (address, expected) in
        [([10, 0, 0, 1], Admission::Now), ([10, 0, 1, 1], Admission::Refused)]
    {
        let reply = message(EXAMPLE, [&[(ASKED, 1, 60, &address[..])], &[], &[]]);
        let answer = super::read(&reply, &opened).expect("whole");
        assert_eq!(admit(&answer, &egress(&[], &[]), None), expected, "{address:?}");
    }
}

#[test]
fn answers_are_admitted_by_what_they_lead_to() {
    let v4 = |a, b, c, d| [a, b, c, d];
    let good = v4(203, 0, 113, 7);
    let bad = v4(10, 0, 0, 1);
    let [mapped, public, behind_nat, private_behind_nat] =
        ["::ffff:10.0.0.1", "2001:db8::1", "64:ff9b::203.0.113.7", "64:ff9b::10.0.0.1"]
            .map(|text| text.parse::<Ipv6Addr>().expect("an address").octets());
    let alias = (ASKED, 5, 60, &b"\x01b\xc0\x0e"[..]);
    let behind: &[u8] = b"\x01b\xc0\x0e";
    for (what, sections, listed, open, deny_b) in [
        ("nothing", [&[][..], &[], &[]], "now", "now", "now"),
        (
            "an address",
            [&[(ASKED, 1, 60, &good[..])][..], &[], &[]],
            "after a.example 1",
            "now",
            "now",
        ),
        (
            "a private one",
            [&[(ASKED, 1, 60, &bad[..])][..], &[], &[]],
            "refused",
            "refused",
            "refused",
        ),
        (
            "one of both",
            [&[(ASKED, 1, 60, &good[..]), (ASKED, 1, 60, &bad[..])][..], &[], &[]],
            "refused",
            "refused",
            "refused",
        ),
        (
            "a mapped one",
            [&[(ASKED, 28, 60, &mapped[..])][..], &[], &[]],
            "refused",
            "refused",
            "refused",
        ),
        (
            "one of IPv6",
            [&[(ASKED, 28, 60, &public[..])][..], &[], &[]],
            "after a.example 1",
            "now",
            "now",
        ),
        (
            "a public one behind NAT64",
            [&[(ASKED, 28, 60, &behind_nat[..])][..], &[], &[]],
            "empty",
            "empty",
            "empty",
        ),
        (
            "a private one behind NAT64",
            [&[(ASKED, 28, 60, &private_behind_nat[..])][..], &[], &[]],
            "refused",
            "refused",
            "refused",
        ),
        (
            "beside it",
            [&[(ASKED, 1, 60, &good[..])][..], &[], &[(ASKED, 1, 60, &bad[..])]],
            "refused",
            "refused",
            "refused",
        ),
        ("text", [&[(ASKED, 16, 60, &b"\x02hi"[..])][..], &[], &[]], "now", "now", "now"),
        (
            "an alias",
            [&[alias, (behind, 1, 60, &good[..])][..], &[], &[]],
            "after a.example 1",
            "now",
            "denied b.example 1",
        ),
        (
            "an address of three bytes",
            [&[(ASKED, 1, 60, &good[..3])][..], &[], &[]],
            "broken",
            "broken",
            "broken",
        ),
    ] {
        let message = message(EXAMPLE, sections);
        assert_eq!(shown(&message, &egress(&["a.example"], &[])), listed, "{what}, listed");
        assert_eq!(shown(&message, &egress(&[], &[])), open, "{what}, open");
        assert_eq!(shown(&message, &egress(&[], &["b.example"])), deny_b, "{what}, b denied");
    }
}

#[test]
fn names_are_read_from_any_place_and_loops_end() {
    let alias = message(EXAMPLE, [&[(ASKED, 5, 60, b"\x03WWW\xc0\x0e")], &[], &[]]);
    let answer = read(&alias).expect("whole");
    assert_eq!(answer.names, [name("a.example"), name("www.example")].into());
    let itself = message(EXAMPLE, [&[(b"\xc0\x1b", 1, 60, &[1, 1, 1, 1])], &[], &[]]);
    assert_eq!(itself[27..29], [0xc0, 0x1b], "the pointer points to itself");
    assert_eq!(read(&itself), None);
    // A dot inside a label is not the dot between two.
    let dotted = message(b"\x09a.example\0", [&[], &[], &[]]);
    assert_eq!(asked_name(&dotted), None);
    let shouted = message(b"\x01A\x07EXAMPLE\0", [&[], &[], &[]]);
    assert_eq!(asked_name(&shouted), Some(name("a.example")));
}

#[test]
fn no_cut_answer_panics() {
    let whole = message(
        EXAMPLE,
        [&[(ASKED, 5, 60, b"\x01b\xc0\x0e"), (b"\x01b\xc0\x0e", 1, 60, &[1, 1, 1, 1])], &[], &[]],
    );
    assert!(read(&whole).is_some());
    for cut in 0..whole.len() {
        assert_eq!(read(&whole[..cut]), None, "cut at {cut}");
    }
    for at in 0..whole.len() {
        for value in [0, 1, 63, 64, 192, 255] {
            let mut broken = whole.clone();
            broken[at] = value;
            drop(read(&broken));
        }
    }
}
