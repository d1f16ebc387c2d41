//! What each policy opens: asked of the compiler (`src/egress_tests.rs`) and, as packets, of the
//! rules on real namespaces (`egress.rs`).

/// A policy and what it makes of destinations and names.
pub(crate) struct Case {
    pub(crate) internet: bool,
    pub(crate) allow: &'static [&'static str],
    pub(crate) deny: &'static [&'static str],
    /// Reached: by TCP, by UDP, and by an echo request.
    pub(crate) open: &'static [&'static str],
    /// Not reached, by none of them.
    pub(crate) shut: &'static [&'static str],
    /// Names that the resolver answers, if it be that there is no such name.
    pub(crate) told: &'static [&'static str],
    /// Names that it refuses.
    pub(crate) untold: &'static [&'static str],
}

/// The addresses that names have.
pub(crate) const NAMES: [(&str, &[&str]); 8] = [
    ("a.example", &["203.0.113.10"]),
    ("b.example", &["203.0.113.11", "203.0.113.12"]),
    // On the same address as another, as behind a content network.
    ("shared.example", &["203.0.113.10"]),
    ("low.a.example", &["203.0.113.13"]),
    ("rebind.example", &["10.9.9.9"]),
    ("six.example", &["2001:db8:7::10"]),
    ("both.example", &["203.0.113.14", "2001:db8:7::14"]),
    ("rebind6.example", &["fd00:9::9"]),
];

/// Never reached, whatever the lists say.
pub(crate) const NEVER: [&str; 24] = [
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
    "::1",
    "::ffff:10.9.9.9",
    "64:ff9b::10.9.9.9",
    "64:ff9b::203.0.113.7",
    "64:ff9b:1::1",
    "2001:0:cb00:7107::1",
    "2002:cb00:7107::1",
    "fd00:9::9",
    "fd74:6172:6e00:77::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "4000::1",
];

const ALL: [&str; 7] = [
    "203.0.113.7",
    "198.51.100.9",
    "203.0.113.10",
    "8.8.4.4",
    "2001:db8:7::7",
    "2001:db8:9::9",
    "2a00:9::9",
];
const ALL4: [&str; 4] = ["203.0.113.7", "198.51.100.9", "203.0.113.10", "8.8.4.4"];
const ALL6: [&str; 3] = ["2001:db8:7::7", "2001:db8:9::9", "2a00:9::9"];

/// The table.
pub(crate) const CASES: &[Case] = &[
    case(true, &[], &[], &ALL, &NEVER).names(&["a.example", "low.a.example", "none.example"], &[]),
    case(false, &[], &[], &[], &ALL).names(&[], &["a.example", "none.example"]),
    case(false, &[], &[], &[], &NEVER),
    case(false, &[], &["198.51.100.9"], &[], &ALL).names(&[], &["a.example"]),
    // Deny alone, by address of IPv4.
    case(true, &[], &["203.0.113.7"], &["203.0.113.6", "203.0.113.8"], &["203.0.113.7"]),
    case(true, &[], &["203.0.113.7:443"], &["203.0.113.8"], &["203.0.113.7"]),
    case(true, &[], &["203.0.113.7:80", "203.0.113.7:443"], &["203.0.113.8"], &["203.0.113.7"]),
    case(true, &[], &["203.0.113.7/32"], &["203.0.113.6", "203.0.113.8"], &["203.0.113.7"]),
    case(true, &[], &["203.0.113.0/29"], &["203.0.113.8"], &["203.0.113.1", "203.0.113.7"]),
    case(true, &[], &["203.0.113.0/29:443"], &["203.0.113.8"], &["203.0.113.7"]),
    // Bits behind the prefix do not count.
    case(true, &[], &["203.0.113.5/29"], &["203.0.113.8"], &["203.0.113.1"]),
    case(true, &[], &["203.0.113.7/31"], &["203.0.113.8"], &["203.0.113.6", "203.0.113.7"]),
    // One in the other, in either order; side by side; across; twice.
    case(true, &[], &["203.0.113.0/28", "203.0.113.7"], &["203.0.113.16"], &["203.0.113.8"]),
    case(true, &[], &["203.0.113.7", "203.0.113.0/28"], &["203.0.113.16"], &["203.0.113.8"]),
    case(
        true,
        &[],
        &["203.0.113.7", "203.0.113.8/30"],
        &["203.0.113.6", "203.0.113.12"],
        &["203.0.113.7", "203.0.113.11"],
    ),
    case(
        true,
        &[],
        &["203.0.113.4/30", "203.0.113.0/29", "203.0.113.6/31", "203.0.113.12/31"],
        &["203.0.113.8", "203.0.113.11", "203.0.113.14"],
        &["203.0.113.1", "203.0.113.7", "203.0.113.12"],
    ),
    case(
        true,
        &[],
        &["203.0.113.7", "203.0.113.7/32", "203.0.113.7", "203.0.113.7:1"],
        &["203.0.113.8"],
        &["203.0.113.7"],
    ),
    // The ends of the range, and its halves, of which one has the resolver.
    case(true, &[], &["0.0.0.0", "255.255.255.255"], &ALL, &[]).names(&["a.example"], &[]),
    case(true, &[], &["0.0.0.0/1"], &["203.0.113.7", "198.51.100.9"], &["8.8.4.4"])
        .names(&["a.example"], &[]),
    case(true, &[], &["128.0.0.0/1"], &["8.8.4.4"], &["203.0.113.7", "198.51.100.9"])
        .names(&[], &["a.example"]),
    case(true, &[], &["0.0.0.0/0"], &ALL6, &ALL4).names(&[], &["a.example"]),
    case(true, &[], &["203.0.113.7/0"], &ALL6, &ALL4).names(&[], &["a.example"]),
    // What is never reached can be denied, too. The resolver is off with its address alone.
    case(true, &[], &["10.0.0.0/8"], &["203.0.113.7"], &["10.9.9.9"]).names(&["a.example"], &[]),
    case(true, &[], &["224.0.0.0/4", "ff00::/8"], &ALL, &["224.0.0.1", "ff02::1"]),
    case(true, &[], &["169.254.169.254"], &["203.0.113.7"], &["169.254.169.254"])
        .names(&["a.example"], &[]),
    case(true, &[], &["169.254.0.0/16"], &["203.0.113.7"], &["169.254.169.254"])
        .names(&[], &["a.example"]),
    case(true, &[], &["169.254.77.1"], &ALL, &["169.254.77.1"])
        .names(&[], &["a.example", "none.example"]),
    case(true, &[], &["169.254.77.0/31"], &["203.0.113.7"], &[]).names(&[], &["a.example"]),
    case(true, &[], &["169.254.77.2"], &["203.0.113.7"], &[]).names(&["a.example"], &[]),
    case(true, &[], &["fd74:6172:6e00:77::1"], &["2001:db8:7::7"], &["fd74:6172:6e00:77::1"])
        .names(&["a.example"], &[]),
    // Addresses of IPv4 in those of IPv6.
    case(
        true,
        &[],
        &["::ffff:203.0.113.7"],
        &["203.0.113.8"],
        &["203.0.113.7", "::ffff:203.0.113.7"],
    ),
    case(true, &[], &["[::ffff:203.0.113.7]:443"], &["203.0.113.8"], &["203.0.113.7"]),
    case(true, &[], &["::ffff:203.0.113.0/125"], &["203.0.113.8"], &["203.0.113.7"]),
    case(true, &[], &["::ffff:0:0/96"], &ALL6, &ALL4).names(&[], &["a.example"]),
    case(true, &[], &["64:ff9b::203.0.113.7", "2002:cb00:7107::/48"], &ALL, &[]),
    // By address of IPv6.
    case(true, &[], &["2001:db8::/32", "::/0"], &ALL4, &ALL6).names(&["a.example"], &[]),
    case(true, &[], &["::/0", "0.0.0.0/0"], &[], &ALL).names(&[], &["a.example"]),
    case(true, &[], &["2001:db8:7::7"], &["2001:db8:7::8", "203.0.113.7"], &["2001:db8:7::7"]),
    case(true, &[], &["2001:db8:7::7/128"], &["2001:db8:7::6"], &["2001:db8:7::7"]),
    case(true, &[], &["2001:DB8:0007:0:0:0:0:7"], &["2001:db8:7::8"], &["2001:db8:7::7"]),
    case(true, &[], &["[2001:db8:7::7]:443"], &["2001:db8:7::8"], &["2001:db8:7::7"]),
    case(true, &[], &["[2001:db8:7::]/64:443"], &["2001:db8:9::9"], &["2001:db8:7::7"]),
    case(true, &[], &["2001:db8:7::/64"], &["2001:db8:9::9"], &["2001:db8:7::7", "2001:db8:7::8"]),
    case(true, &[], &["2001:db8:7::9/125"], &["2001:db8:7::7"], &["2001:db8:7::8"]),
    case(true, &[], &["2001:db8:7::7/127"], &["2001:db8:7::8"], &["2001:db8:7::6"]),
    case(
        true,
        &[],
        &["2001:db8:7::7", "2001:db8:7::/64", "2001:db8:7::/125", "2001:db8:7::7"],
        &["2001:db8:9::9"],
        &["2001:db8:7::7", "2001:db8:7::8"],
    ),
    case(true, &[], &["2000::/4"], &["203.0.113.7"], &ALL6),
    case(true, &[], &["::/1"], &ALL4, &ALL6),
    case(true, &[], &["8000::/1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"], &ALL, &[]),
    // By name.
    case(true, &[], &["a.example"], &["203.0.113.11", "203.0.113.13"], &["203.0.113.10"])
        .names(&["b.example", "low.a.example"], &["a.example", "A.Example"]),
    case(true, &[], &["low.a.example"], &["203.0.113.10"], &["203.0.113.13"])
        .names(&["a.example"], &["low.a.example"]),
    case(true, &[], &["example"], &ALL, &[]).names(&["a.example"], &["example"]),
    case(true, &[], &["a.example:443"], &["203.0.113.11"], &["203.0.113.10"])
        .names(&["b.example"], &["a.example"]),
    case(
        true,
        &[],
        &["B.EXAMPLE.", "b.example"],
        &["203.0.113.10"],
        &["203.0.113.11", "203.0.113.12"],
    )
    .names(&["a.example"], &["b.example"]),
    case(true, &[], &["shared.example"], &["203.0.113.11"], &["203.0.113.10"])
        .names(&["a.example"], &["shared.example"]),
    case(true, &[], &["none.example", "_dmarc.none.example"], &ALL, &[])
        .names(&["a.example"], &["none.example", "_dmarc.none.example"]),
    case(true, &[], &["six.example"], &["2001:db8:7::7"], &["2001:db8:7::10"]),
    case(true, &[], &["both.example"], &["2001:db8:7::10"], &["2001:db8:7::14", "203.0.113.14"]),
    case(true, &[], &["rebind.example"], &["203.0.113.7"], &["10.9.9.9"]),
    case(true, &[], &["rebind6.example"], &["2001:db8:7::7"], &["fd00:9::9"]),
    case(
        true,
        &[],
        &["a.example", "203.0.113.13", "six.example", "2001:db8:9::/64"],
        &["203.0.113.11", "2001:db8:7::7"],
        &["203.0.113.10", "203.0.113.13", "2001:db8:7::10", "2001:db8:9::9"],
    )
    .names(&["low.a.example"], &["a.example", "six.example"]),
    // Allow alone, by address: everything else is denied, with the internet on and off.
    case(
        true,
        &["203.0.113.7"],
        &[],
        &["203.0.113.7"],
        &["203.0.113.6", "203.0.113.8", "198.51.100.9", "8.8.4.4", "2001:db8:7::7"],
    )
    .names(&[], &["a.example", "none.example"]),
    case(false, &["203.0.113.7:8443"], &[], &["203.0.113.7"], &["203.0.113.8", "198.51.100.9"])
        .names(&[], &["a.example"]),
    case(true, &["203.0.113.7/32"], &[], &["203.0.113.7"], &["203.0.113.6", "203.0.113.8"]),
    case(
        false,
        &["203.0.113.0/28"],
        &[],
        &["203.0.113.7", "203.0.113.10"],
        &["203.0.113.16", "8.8.4.4"],
    ),
    case(
        true,
        &["203.0.113.9/30"],
        &[],
        &["203.0.113.8", "203.0.113.11"],
        &["203.0.113.7", "203.0.113.12"],
    ),
    case(
        true,
        &["203.0.113.7", "203.0.113.0/28", "203.0.113.7"],
        &[],
        &["203.0.113.7", "203.0.113.8"],
        &["203.0.113.16"],
    ),
    case(
        false,
        &["203.0.113.8/31", "203.0.113.6/31"],
        &[],
        &["203.0.113.6", "203.0.113.7", "203.0.113.8"],
        &["203.0.113.1", "203.0.113.10"],
    ),
    case(true, &["::ffff:203.0.113.7"], &[], &["203.0.113.7"], &["203.0.113.8"]),
    case(true, &["0.0.0.0/0"], &[], &ALL4, &ALL6).names(&[], &["a.example"]),
    case(true, &["::/0"], &[], &ALL6, &ALL4),
    case(true, &["::/0", "0.0.0.0/0"], &[], &ALL, &NEVER),
    case(true, &["128.0.0.0/1", "0.0.0.0/1"], &[], &ALL4, &ALL6),
    case(true, &["128.0.0.0/1"], &[], &["203.0.113.7", "198.51.100.9"], &["8.8.4.4"]),
    case(true, &["0.0.0.0", "255.255.255.255", "::"], &[], &[], &ALL),
    case(
        true,
        &["10.0.0.0/8", "169.254.0.0/16", "fd00::/8", "198.18.0.0/15", "fe80::/10"],
        &[],
        &[],
        &NEVER,
    ),
    case(
        false,
        &[
            "127.0.0.0/8",
            "::1",
            "224.0.0.0/4",
            "ff00::/8",
            "64:ff9b::/96",
            "2002::/16",
            "2001::/32",
        ],
        &[],
        &[],
        &NEVER,
    ),
    case(
        true,
        &["2001:db8::/32"],
        &[],
        &["2001:db8:7::7", "2001:db8:9::9"],
        &["203.0.113.7", "2a00:9::9"],
    ),
    case(false, &["2001:db8:7::7"], &[], &["2001:db8:7::7"], &["2001:db8:7::8", "203.0.113.7"]),
    case(
        true,
        &["2001:DB8:7::7/127"],
        &[],
        &["2001:db8:7::6", "2001:db8:7::7"],
        &["2001:db8:7::8"],
    ),
    case(
        true,
        &["[2001:db8:7::8]/125:443", "2001:db8:7::7"],
        &[],
        &["2001:db8:7::7", "2001:db8:7::8"],
        &["2001:db8:7::6", "2001:db8:7::10"],
    ),
    case(true, &["8000::/1", "::/1"], &[], &ALL6, &ALL4),
    case(true, &["2000::/3"], &[], &ALL6, &NEVER),
    // The resolver's own address lets names be told, and nothing be reached.
    case(false, &["169.254.77.1"], &[], &[], &ALL).names(&[], &["a.example"]),
    case(
        false,
        &["a.example", "169.254.0.0/16"],
        &[],
        &["203.0.113.10"],
        &["203.0.113.11", "169.254.77.1", "169.254.169.254"],
    )
    .names(&["a.example"], &["b.example"]),
    case(false, &["a.example", "0.0.0.0/0"], &[], &ALL4, &ALL6)
        .names(&["a.example"], &["b.example"]),
    // Allow alone, by name.
    case(
        true,
        &["a.example"],
        &[],
        &["203.0.113.10"],
        &["203.0.113.11", "203.0.113.13", "8.8.4.4"],
    )
    .names(
        &["a.example", "A.EXAMPLE"],
        &["b.example", "low.a.example", "example", "shared.example", "none.example"],
    ),
    case(false, &["a.example"], &[], &["203.0.113.10"], &["203.0.113.11"])
        .names(&[], &["a.example"]),
    case(true, &["LOW.A.example.:443"], &[], &["203.0.113.13"], &["203.0.113.10"])
        .names(&["low.a.example"], &["a.example"]),
    case(true, &["example"], &[], &[], &["203.0.113.10", "2001:db8:7::10"])
        .names(&["example"], &["a.example"]),
    case(true, &["none.example"], &[], &[], &ALL).names(&["none.example"], &["a.example"]),
    case(true, &["shared.example"], &[], &["203.0.113.10"], &["203.0.113.11"])
        .names(&["shared.example"], &["a.example"]),
    case(
        true,
        &["six.example"],
        &[],
        &["2001:db8:7::10"],
        &["2001:db8:7::14", "2001:db8:7::7", "203.0.113.10"],
    ),
    case(
        false,
        &["both.example"],
        &[],
        &["203.0.113.14", "2001:db8:7::14"],
        &["2001:db8:7::10", "203.0.113.10"],
    ),
    case(
        false,
        &["b.example", "198.51.100.9"],
        &[],
        &["203.0.113.11", "203.0.113.12", "198.51.100.9"],
        &["203.0.113.10"],
    ),
    case(
        true,
        &["a.example", "six.example", "A.example.", "203.0.113.12/31"],
        &[],
        &["203.0.113.10", "2001:db8:7::10", "203.0.113.12", "203.0.113.13"],
        &["203.0.113.11", "2001:db8:7::14"],
    )
    .names(&["a.example", "six.example"], &["b.example", "low.a.example"]),
    case(true, &["rebind.example"], &[], &[], &["10.9.9.9", "203.0.113.7"]),
    case(true, &["rebind.example", "10.9.9.9"], &[], &[], &["10.9.9.9", "203.0.113.7"]),
    case(true, &["rebind6.example"], &[], &[], &["fd00:9::9", "2001:db8:7::7"]),
    // Both: deny wins.
    case(
        true,
        &["203.0.113.0/28"],
        &["203.0.113.7"],
        &["203.0.113.6", "203.0.113.8"],
        &["203.0.113.7", "203.0.113.16"],
    ),
    case(
        false,
        &["203.0.113.0/28"],
        &["203.0.113.8/29"],
        &["203.0.113.7"],
        &["203.0.113.8", "203.0.113.11", "203.0.113.16"],
    ),
    case(
        true,
        &["203.0.113.9/29"],
        &["203.0.113.14/30"],
        &["203.0.113.8", "203.0.113.11"],
        &["203.0.113.7", "203.0.113.12", "203.0.113.14"],
    ),
    case(true, &["203.0.113.7"], &["203.0.113.0/24"], &[], &["203.0.113.7", "198.51.100.9"]),
    case(true, &["203.0.113.7"], &["203.0.113.7"], &[], &["203.0.113.7", "203.0.113.8"]),
    case(true, &["203.0.113.7:443"], &["203.0.113.7:80"], &[], &["203.0.113.7"]),
    case(true, &["::ffff:203.0.113.7"], &["203.0.113.7"], &[], &["203.0.113.7"]),
    case(true, &["203.0.113.6/31"], &["::ffff:203.0.113.7"], &["203.0.113.6"], &["203.0.113.7"]),
    case(true, &["203.0.113.7"], &["10.0.0.0/8"], &["203.0.113.7"], &["10.9.9.9", "8.8.4.4"]),
    case(
        true,
        &["0.0.0.0/0"],
        &["203.0.113.0/24"],
        &["198.51.100.9", "8.8.4.4"],
        &["203.0.113.7", "2001:db8:7::7"],
    ),
    case(true, &["0.0.0.0/0", "::/0"], &["::/0", "0.0.0.0/0"], &[], &ALL)
        .names(&[], &["a.example"]),
    case(true, &["::/0", "0.0.0.0/0"], &["::/0"], &ALL4, &ALL6),
    case(
        true,
        &["203.0.113.7", "2001:db8:7::7"],
        &["0.0.0.0/0"],
        &["2001:db8:7::7"],
        &["203.0.113.7"],
    ),
    case(
        true,
        &["::/0"],
        &["2001:db8:7::7/64"],
        &["2001:db8:9::9", "2a00:9::9"],
        &["2001:db8:7::7", "2001:db8:7::8", "203.0.113.7"],
    ),
    case(
        true,
        &["2001:db8:7::/124"],
        &["2001:db8:7::7"],
        &["2001:db8:7::8"],
        &["2001:db8:7::7", "2001:db8:7::10", "203.0.113.7"],
    ),
    // Both, by name.
    case(true, &["a.example"], &["A.Example."], &[], &["203.0.113.10", "203.0.113.11"])
        .names(&[], &["a.example", "b.example"]),
    case(true, &["a.example"], &["203.0.113.10"], &[], &["203.0.113.10", "203.0.113.11"])
        .names(&["a.example"], &[]),
    case(true, &["203.0.113.0/28"], &["a.example"], &["203.0.113.11"], &["203.0.113.10"])
        .names(&[], &["a.example", "b.example"]),
    case(
        true,
        &["a.example", "b.example"],
        &["low.a.example", "203.0.113.12"],
        &["203.0.113.10", "203.0.113.11"],
        &["203.0.113.12", "203.0.113.13"],
    )
    .names(&["a.example", "b.example"], &["low.a.example"]),
    case(true, &["both.example"], &["2001:db8::/32"], &["203.0.113.14"], &["2001:db8:7::14"]),
    case(true, &["both.example"], &["203.0.113.0/24"], &["2001:db8:7::14"], &["203.0.113.14"]),
    case(true, &["2001:db8:7::/64"], &["six.example"], &["2001:db8:7::7"], &["2001:db8:7::10"]),
    case(
        true,
        &["shared.example", "203.0.113.7"],
        &["a.example"],
        &["203.0.113.7"],
        &["203.0.113.10", "8.8.4.4"],
    )
    .names(&["shared.example"], &["a.example"]),
    case(
        false,
        &["a.example", "169.254.77.1"],
        &["169.254.77.1"],
        &["203.0.113.10"],
        &["203.0.113.11"],
    )
    .names(&[], &["a.example"]),
];

const fn case(
    internet: bool,
    allow: &'static [&'static str],
    deny: &'static [&'static str],
    open: &'static [&'static str],
    shut: &'static [&'static str],
) -> Case {
    Case { internet, allow, deny, open, shut, told: &[], untold: &[] }
}

// === impl Case ===

impl Case {
    /// Says what the resolver makes of names.
    const fn names(self, told: &'static [&'static str], untold: &'static [&'static str]) -> Self {
        Self { told, untold, ..self }
    }
}
