use proptest::prelude::*;

use super::{super::message::octets, *};

const SLOT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 3));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
const SLOT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd74, 0x6172, 0x6e00, 1, 0, 0, 0xc612, 3));
const SERVER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7));

/// An IPv4 packet with so many words of options.
fn ip(protocol: u8, options: usize, offset: [u8; 2], rest: &[u8]) -> Vec<u8> {
    let first = 0x45 + u8::try_from(options).expect("few");
    let mut packet = vec![first, 0, 0, 0, 0, 0, offset[0], offset[1], 64, protocol, 0, 0];
    packet.extend(octets(SLOT));
    packet.extend(octets(SERVER));
    packet.resize(20 + options * 4, 1);
    packet.extend(rest);
    packet
}

/// An IPv6 packet.
fn ip6(protocol: u8, rest: &[u8]) -> Vec<u8> {
    let head = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
    [head, octets(SLOT6), octets(SERVER6), rest.to_vec()].concat()
}

/// A message of conntrack about an IPv6 flow.
fn forgotten6(source: IpAddr) -> Vec<u8> {
    let kind = u16::from_be_bytes([SUBSYSTEM_CONNTRACK, IPCTNL_MSG_CT_DELETE]);
    let message = Message::new(kind, 0, &[10, 0, 0, 0]).nested(1, |tuple| {
        tuple
            .nested(1, |ip| ip.attribute(3, &octets(source)).attribute(4, &octets(SERVER6)))
            .nested(2, |proto| proto.attribute(1, &[58]).attribute(7, &[0x12, 0x34]))
    });
    message.finish(0)
}

fn told(prefix: &[u8], payload: &[u8]) -> Vec<u8> {
    let kind = u16::from_be_bytes([SUBSYSTEM_LOG, NFULNL_MSG_PACKET]);
    Message::new(kind, 0, &[2, 0, 0x40, 1])
        .attribute(1, &[8, 0, 2, 0])
        .attribute(NFULA_PREFIX, prefix)
        .attribute(NFULA_PAYLOAD, payload)
        .attribute(NFULA_SEQ, &7_u32.to_be_bytes())
        .finish(0)
}

fn forgotten(protocol: u8, with_bytes: bool) -> Vec<u8> {
    let kind = u16::from_be_bytes([SUBSYSTEM_CONNTRACK, IPCTNL_MSG_CT_DELETE]);
    let message = Message::new(kind, 0, &[2, 0, 0, 0]).nested(1, |tuple| {
        tuple.nested(1, |ip| ip.attribute(1, &octets(SLOT)).attribute(2, &octets(SERVER))).nested(
            2,
            |proto| {
                proto
                    .attribute(1, &[protocol])
                    .attribute(2, &4000_u16.to_be_bytes())
                    .attribute(3, &443_u16.to_be_bytes())
            },
        )
    });
    let counted = |message: Message, kind, bytes: u64| {
        message.nested(kind, |it| {
            it.attribute(1, &9_u64.to_be_bytes()).attribute(2, &bytes.to_be_bytes())
        })
    };
    let message = if with_bytes { counted(counted(message, 9, 500), 10, 900) } else { message };
    message.finish(0)
}

fn flow(protocol: u8, from_port: u16, to_port: u16) -> Flow {
    Flow { protocol, to: SERVER, from_port, to_port }
}

#[test]
fn packets_are_read_by_what_they_carry() {
    let ports = [0x0f, 0xa0, 0x01, 0xbb, 0, 0, 0, 0];
    let ping = [8, 0, 0, 0, 0x12, 0x34, 0, 1];
    for (what, packet, expected) in [
        ("tcp", ip(6, 0, [0x40, 0], &ports), Some(flow(6, 4000, 443))),
        ("udp behind options", ip(17, 10, [0, 0], &ports), Some(flow(17, 4000, 443))),
        ("a later fragment", ip(17, 0, [0, 5], &ports), Some(flow(17, 0, 0))),
        ("a ping", ip(1, 0, [0, 0], &ping), Some(flow(1, 0x1234, 0))),
        ("another protocol", ip(47, 0, [0, 0], &ports), Some(flow(47, 0, 0))),
        ("without its ports", ip(6, 0, [0, 0], &ports[..3]), None),
        ("with a header too short", vec![0x44; 40], None),
        ("with a header of IPv6 alone", ip6(6, &[]), None),
        ("of no family", vec![0x50; 60], None),
        ("empty", vec![], None),
    ] {
        let read = read_packet(&packet);
        assert_eq!(read, expected.map(|it| (SLOT, it)), "{what}");
    }
    let six = |protocol, from_port, to_port| Flow { protocol, to: SERVER6, from_port, to_port };
    for (what, packet, expected) in [
        ("tcp", ip6(6, &ports), six(6, 4000, 443)),
        ("udp", ip6(17, &ports), six(17, 4000, 443)),
        ("a ping", ip6(58, &ping), six(58, 0x1234, 0)),
        ("another protocol", ip6(47, &ports), six(47, 0, 0)),
    ] {
        assert_eq!(read_packet(&packet), Some((SLOT6, expected)), "{what} of IPv6");
    }
}

#[test]
fn what_the_kernel_tells_is_read() {
    let packet = ip(6, 0, [0, 0], &[0x0f, 0xa0, 0x01, 0xbb]);
    let noted = Note::Packet {
        from: SLOT,
        flow: flow(6, 4000, 443),
        prefix: "closed".to_owned(),
        number: 7,
    };
    let bytes = FlowBytes { sent: 500, received: 900 };
    let ended = Note::Forgotten { from: SLOT, flow: flow(6, 4000, 443), bytes };
    assert_eq!(read(&told(b"closed\0", &packet)), std::slice::from_ref(&noted));
    assert_eq!(read(&forgotten(6, true)), std::slice::from_ref(&ended));
    let both = [told(b"closed\0", &packet), forgotten(6, true)].concat();
    assert_eq!(read(&both), [noted, ended]);
    let uncounted = read(&forgotten(6, false));
    assert!(
        matches!(uncounted[..], [Note::Forgotten { bytes, .. }] if bytes == FlowBytes::default())
    );
    let created = Message::new(0x0100, 0, &[2, 0, 0, 0]).finish(0);
    assert_eq!(read(&created), [], "others are not ours");
}

/// Runs the filter of the socket as the kernel would.
fn lets_in(filter: &[Instruction], message: &[u8]) -> bool {
    let (mut at, mut value) = (0, 0_u32);
    loop {
        let (code, yes, no, k) = filter[at];
        let place = usize::try_from(k).expect("small");
        at += 1;
        match code {
            0x30 => value = message[place].into(),
            0x20 => {
                let Some(word) = message.get(place..place + 4) else { return false };
                value = u32::from_be_bytes(word.try_into().expect("four bytes"));
            }
            0x54 => value &= k,
            0x15 => at += usize::from(if value == k { yes } else { no }),
            0x06 => return k > 0,
            other => panic!("{other:#x}"),
        }
    }
}

#[test]
fn only_connections_of_our_networks_are_heard_of() {
    let v4 = (Ipv4Addr::new(198, 18, 0, 0), 0xffff_fc00);
    let v6 = (Ipv6Addr::new(0xfd74, 0x6172, 0x6e00, 1, 0, 0, 0xc612, 0), 118);
    let filter = only_of(Networks { v4, v6 });
    let six =
        |last: [u16; 3]| IpAddr::from([0xfd74, 0x6172, 0x6e00, 1, 0, last[0], last[1], last[2]]);
    for (message, expected) in [
        (told(b"closed\0", &[0; 60]), true),
        (forgotten(6, false), true),
        (forgotten6(SLOT6), true),
        (forgotten6(six([0, 0xc612, 0x3ff])), true),
        (forgotten6(six([0, 0xc612, 0x400])), false),
        (forgotten6(six([1, 0xc612, 3])), false),
        (forgotten6(SERVER6), false),
    ] {
        assert_eq!(lets_in(&filter, &message), expected, "{message:?}");
    }
    let [others] = [forgotten(6, false)].map(|mut message| {
        message[32..36].copy_from_slice(&[198, 18, 4, 1]);
        message
    });
    assert!(!lets_in(&filter, &others));
    let flow = Flow { protocol: 58, to: SERVER6, from_port: 0x1234, to_port: 0 };
    let bytes = FlowBytes::default();
    let expected = Note::Forgotten { from: SLOT6, flow, bytes };
    assert_eq!(read(&forgotten6(SLOT6)), [expected]);
}

#[test]
fn nothing_cut_or_broken_panics() {
    let packet = ip(6, 3, [0, 0], &[0x0f, 0xa0, 0x01, 0xbb]);
    for whole in [told(b"closed\0", &packet), forgotten(6, true)] {
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut]), [], "cut at {cut}");
        }
        for at in 0..whole.len() {
            for value in [0, 1, 4, 0x45, 0x4f, 0x7f, 0xff] {
                let mut broken = whole.clone();
                broken[at] = value;
                drop(read(&broken));
            }
        }
    }
}

proptest! {
    #[test]
    fn no_datagram_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        subsystem in prop_oneof![Just(1_u8), Just(4)],
        kind in prop_oneof![Just(0_u8), Just(2)],
    ) {
        let message = Message::new(u16::from_be_bytes([subsystem, kind]), 0, &bytes).finish(0);
        drop(read(&message));
        drop(read(&bytes));
        prop_assert!(read_packet(&bytes).is_none() || bytes.len() >= 20);
    }
}
