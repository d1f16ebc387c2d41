//! What each policy opens: asked of the compiler (`src/egress_tests.rs`) and, as packets, of the
//! rules on real namespaces (`egress.rs`).

/// A policy and what it makes of destinations.
pub(crate) struct Case {
    pub(crate) internet: bool,
    pub(crate) allow: &'static [&'static str],
    pub(crate) deny: &'static [&'static str],
    /// Reached.
    pub(crate) open: &'static [&'static str],
    /// Not reached.
    pub(crate) shut: &'static [&'static str],
}

/// The addresses that names have.
pub(crate) const NAMES: [(&str, &[&str]); 5] = [
    ("a.example", &["203.0.113.10"]),
    ("b.example", &["203.0.113.11", "203.0.113.12"]),
    // On the same address as another, as behind a content network.
    ("shared.example", &["203.0.113.10"]),
    ("low.a.example", &["203.0.113.13"]),
    ("rebind.example", &["10.9.9.9"]),
];

/// Never reached, whatever the lists say.
pub(crate) const NEVER: [&str; 13] = [
    "0.0.0.1",
    "10.9.9.9",
    "100.64.9.9",
    "127.0.0.1",
    "169.254.169.254",
    "169.254.77.1",
    "172.16.9.9",
    "192.168.9.9",
    "198.18.255.9",
    "224.0.0.1",
    "255.255.255.255",
    "fd00:1::2",
    "fe80::1",
];

const ALL: [&str; 4] = ["203.0.113.7", "198.51.100.9", "203.0.113.10", "8.8.4.4"];

/// The table.
pub(crate) const CASES: [Case; 29] = [
    Case { internet: true, allow: &[], deny: &[], open: &ALL, shut: &NEVER },
    Case { internet: false, allow: &[], deny: &[], open: &[], shut: &ALL },
    Case { internet: false, allow: &[], deny: &[], open: &[], shut: &NEVER },
    // Deny alone.
    case(true, &[], &["203.0.113.7"], &["203.0.113.8", "198.51.100.9"], &["203.0.113.7"]),
    case(true, &[], &["203.0.113.7:443"], &["203.0.113.8"], &["203.0.113.7"]),
    case(true, &[], &["203.0.113.0/29"], &["203.0.113.8"], &["203.0.113.1", "203.0.113.7"]),
    case(true, &[], &["203.0.113.5/29"], &["203.0.113.8"], &["203.0.113.1"]),
    case(true, &[], &["0.0.0.0/1"], &["203.0.113.7", "198.51.100.9"], &["8.8.4.4"]),
    case(true, &[], &["0.0.0.0/0"], &[], &ALL),
    case(true, &[], &["10.0.0.0/8"], &["203.0.113.7"], &["10.9.9.9"]),
    case(true, &[], &["169.254.0.0/16"], &["203.0.113.7"], &["169.254.169.254"]),
    case(
        true,
        &[],
        &["203.0.113.7", "203.0.113.8/30"],
        &["203.0.113.12"],
        &["203.0.113.7", "203.0.113.11"],
    ),
    case(true, &[], &["::ffff:203.0.113.7"], &["203.0.113.8"], &["203.0.113.7"]),
    case(true, &[], &["2001:db8::/32", "::/0"], &["203.0.113.7"], &["2001:db8::1"]),
    case(true, &[], &["a.example"], &["203.0.113.11"], &["203.0.113.10"]),
    case(true, &[], &["B.EXAMPLE."], &["203.0.113.10"], &["203.0.113.11", "203.0.113.12"]),
    case(true, &[], &["rebind.example"], &["203.0.113.7"], &["10.9.9.9"]),
    // Allow alone: everything else is denied, with the internet on and off.
    case(
        true,
        &["203.0.113.7"],
        &[],
        &["203.0.113.7"],
        &["203.0.113.8", "198.51.100.9", "8.8.4.4"],
    ),
    case(false, &["203.0.113.7:8443"], &[], &["203.0.113.7"], &["203.0.113.8", "198.51.100.9"]),
    case(
        false,
        &["203.0.113.0/28"],
        &[],
        &["203.0.113.7", "203.0.113.10"],
        &["203.0.113.16", "8.8.4.4"],
    ),
    case(true, &["0.0.0.0/0"], &[], &ALL, &NEVER),
    case(true, &["10.0.0.0/8", "169.254.0.0/16", "fd00::/8", "198.18.0.0/15"], &[], &[], &NEVER),
    case(true, &["2001:db8::/32"], &[], &[], &["203.0.113.7", "2001:db8::1"]),
    case(
        true,
        &["a.example"],
        &[],
        &["203.0.113.10"],
        &["203.0.113.11", "203.0.113.13", "8.8.4.4"],
    ),
    case(
        false,
        &["b.example", "198.51.100.9"],
        &[],
        &["203.0.113.11", "203.0.113.12", "198.51.100.9"],
        &["203.0.113.10"],
    ),
    case(true, &["rebind.example"], &[], &[], &["10.9.9.9", "203.0.113.7"]),
    // Both: deny wins.
    case(
        true,
        &["203.0.113.0/28"],
        &["203.0.113.7"],
        &["203.0.113.8"],
        &["203.0.113.7", "203.0.113.16"],
    ),
    case(true, &["203.0.113.7"], &["203.0.113.0/24"], &[], &["203.0.113.7", "198.51.100.9"]),
    case(
        true,
        &["shared.example", "203.0.113.7"],
        &["a.example"],
        &["203.0.113.7"],
        &["203.0.113.10", "8.8.4.4"],
    ),
];

const fn case(
    internet: bool,
    allow: &'static [&'static str],
    deny: &'static [&'static str],
    open: &'static [&'static str],
    shut: &'static [&'static str],
) -> Case {
    Case { internet, allow, deny, open, shut }
}
