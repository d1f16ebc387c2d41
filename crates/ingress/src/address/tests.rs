//! The table of addresses.

use http::HeaderValue;

use super::*;
use IngressCode::{InvalidRequest as Invalid, MissingSandboxId as Missing, SandboxNotFound};

const ID: &str = "0123456789abcdefghij0";
const DIGITS: &str = "012345678901234567890";

struct Case {
    host: &'static str,
    headers: &'static [(&'static str, &'static str)],
    expected: Result<(&'static str, u16), IngressCode>,
}

const fn host(host: &'static str, expected: Result<(&'static str, u16), IngressCode>) -> Case {
    Case { host, headers: &[], expected }
}

const fn with(
    host: &'static str,
    headers: &'static [(&'static str, &'static str)],
    expected: Result<(&'static str, u16), IngressCode>,
) -> Case {
    Case { host, headers, expected }
}

const SID: &str = "x-tensorlake-sandbox-id";
const PORT: &str = "x-tensorlake-sandbox-port";

#[rustfmt::skip]
const CASES: &[Case] = &[
    // the daemon, by Host
    host("0123456789abcdefghij0.local", Ok((ID, 9501))),
    host("box.local", Ok(("box", 9501))),
    host("Box.LOCAL", Ok(("box", 9501))),
    host("box.local.", Ok(("box", 9501))),
    host("box.local:9443", Ok(("box", 9501))),
    host("box.localhost:9443", Ok(("box", 9501))),
    host("box.sandbox.example.com", Ok(("box", 9501))),
    host("box-3000.local", Ok(("box-3000", 9501))),
    host("a-1-b.local", Ok(("a-1-b", 9501))),
    host("012345678901234567890.local", Ok((DIGITS, 9501))),
    // user ports, by Host
    host("3000-box.local", Ok(("box", 3000))),
    host("3000-box-2.local", Ok(("box-2", 3000))),
    host("3000-0123456789abcdefghij0.localhost", Ok((ID, 3000))),
    host("3000-012345678901234567890.local", Ok((DIGITS, 3000))),
    host("3000-0123456789abcdefghij0.sandbox.example.com:443", Ok((ID, 3000))),
    host("1-box.local", Ok(("box", 1))),
    host("65535-box.local", Ok(("box", 65535))),
    host("9501-box.local", Ok(("box", 9501))),
    // not a port
    host("0-box.local", Err(Invalid)),
    host("65536-box.local", Err(Invalid)),
    host("080-box.local", Err(Invalid)),
    host("99999999999999999999-box.local", Err(Invalid)),
    // no such sandbox can exist
    host("3000.local", Err(SandboxNotFound)),
    host("3000-.local", Err(SandboxNotFound)),
    host("3000--box.local", Err(SandboxNotFound)),
    host("3000-4000-box.local", Err(SandboxNotFound)),
    host("-box.local", Err(SandboxNotFound)),
    host("box-.local", Err(SandboxNotFound)),
    host("my_box.local", Err(SandboxNotFound)),
    // nothing of ours
    host("a.b.local", Err(Missing)),
    host("local", Err(Missing)),
    host(".local", Err(Missing)),
    host("localhost:9443", Err(Missing)),
    host("127.0.0.1:9443", Err(Missing)),
    host("[::1]:9443", Err(Missing)),
    host("boxlocal", Err(Missing)),
    host("box.locals", Err(Missing)),
    host("box.example.com", Err(Missing)),
    host("sandbox.example.com", Err(Missing)),
    host("", Err(Missing)),
    // malformed
    host("box.local:80:80", Err(Invalid)),
    host("box.local:http", Err(Invalid)),
    host("user@box.local", Err(Invalid)),
    host("box.local/x", Err(Invalid)),
    host("box local", Err(Invalid)),
    host("b%6fx.local", Err(Invalid)),
    host("[::1].local:x y", Err(Invalid)),
    host("bøx.local", Err(Invalid)),
    // the header wins over the label
    with("127.0.0.1:9443", &[(SID, ID)], Ok((ID, 9501))),
    with("proxy.example.com", &[(SID, "box")], Ok(("box", 9501))),
    with("other.local", &[(SID, "box")], Ok(("box", 9501))),
    with("3000-other.local", &[(SID, "box")], Ok(("box", 3000))),
    with("a.b.local", &[(SID, " box ")], Ok(("box", 9501))),
    with("box.local", &[(SID, "")], Ok(("box", 9501))),
    with("127.0.0.1", &[(SID, "")], Err(Missing)),
    with("box.local", &[(SID, "Box!")], Err(SandboxNotFound)),
    with("box.local", &[(SID, "../etc")], Err(SandboxNotFound)),
    with("box.local", &[(SID, "3000-box")], Err(SandboxNotFound)),
    with("box.local", &[(SID, "a"), (SID, "b")], Err(Invalid)),
    with("box.local", &[(SID, "bøx")], Err(Invalid)),
    // the port header
    with("box.local", &[(PORT, "8080")], Ok(("box", 8080))),
    with("box.local", &[(PORT, "9501")], Ok(("box", 9501))),
    with("127.0.0.1", &[(SID, "box"), (PORT, "8080")], Ok(("box", 8080))),
    with("3000-box.local", &[(PORT, "3000")], Ok(("box", 3000))),
    with("3000-box.local", &[(PORT, "3001")], Err(Invalid)),
    with("9501-box.local", &[(PORT, "3001")], Err(Invalid)),
    with("3000-other.local", &[(SID, "box"), (PORT, "1")], Err(Invalid)),
    with("box.local", &[(PORT, "0")], Err(Invalid)),
    with("box.local", &[(PORT, "65536")], Err(Invalid)),
    with("box.local", &[(PORT, "+80")], Err(Invalid)),
    with("box.local", &[(PORT, "-1")], Err(Invalid)),
    with("box.local", &[(PORT, "80 80")], Err(Invalid)),
    with("box.local", &[(PORT, "http")], Err(Invalid)),
    with("box.local", &[(PORT, "")], Err(Invalid)),
    with("box.local", &[(PORT, "80"), (PORT, "80")], Err(Invalid)),
    // two Hosts
    with("box.local", &[("host", "box.local")], Err(Invalid)),
    with("box.local", &[("host", "127.0.0.1")], Err(Invalid)),
    with("example.com", &[("host", "box.local")], Err(Invalid)),
    with("127.0.0.1:9443", &[("host", "box.local")], Ok(("box", 9501))),
    with("localhost:9443", &[("host", "3000-box.local")], Ok(("box", 3000))),
    with("127.0.0.1", &[("host", "box.local"), ("host", "box.local")], Err(Invalid)),
];

fn suffixes() -> Vec<String> {
    ["local", "localhost", "sandbox.example.com"].map(str::to_owned).to_vec()
}

fn parse(uri: &str, headers: &HeaderMap) -> Result<(String, u16), IngressCode> {
    let uri = uri.parse().expect("the table holds good targets");
    Address::parse(&uri, headers, &suffixes())
        .map(|address| (address.sandbox.to_string(), address.port))
        .map_err(|error| error.code())
}

#[test]
fn addresses_are_read_as_the_table_says() {
    for case in CASES {
        let mut headers = HeaderMap::new();
        headers.append("host", HeaderValue::from_bytes(case.host.as_bytes()).expect("a value"));
        for (name, value) in case.headers {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        }
        let expected = case.expected.map(|(sandbox, port)| (sandbox.to_owned(), port));
        assert_eq!(parse("/x", &headers), expected, "{:?} {:?}", case.host, case.headers);
    }
}

#[test]
fn a_target_with_an_authority_must_agree_with_host() {
    let mut headers = HeaderMap::new();
    let target = "http://3000-box.local/x";
    assert_eq!(parse(target, &headers), Ok(("box".to_owned(), 3000)));
    headers.insert("host", HeaderValue::from_static("3000-BOX.local"));
    assert_eq!(parse(target, &headers), Ok(("box".to_owned(), 3000)));
    headers.insert("host", HeaderValue::from_static("other.local"));
    assert_eq!(parse(target, &headers), Err(Invalid));
}

#[test]
fn without_any_host_the_header_is_enough() {
    let mut headers = HeaderMap::new();
    assert_eq!(parse("/x", &headers), Err(Missing));
    headers.insert(SID, HeaderValue::from_static("box"));
    assert_eq!(parse("/x", &headers), Ok(("box".to_owned(), 9501)));
}
