use proptest::prelude::*;

use super::*;

const SLOT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 3);
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// An IPv4 packet with so many words of options.
fn ip(protocol: u8, options: usize, offset: [u8; 2], rest: &[u8]) -> Vec<u8> {
    let first = 0x45 + u8::try_from(options).expect("few");
    let mut packet = vec![first, 0, 0, 0, 0, 0, offset[0], offset[1], 64, protocol, 0, 0];
    packet.extend(SLOT.octets());
    packet.extend(SERVER.octets());
    packet.resize(20 + options * 4, 1);
    packet.extend(rest);
    packet
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
        tuple.nested(1, |ip| ip.attribute(1, &SLOT.octets()).attribute(2, &SERVER.octets())).nested(
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
        ("of IPv6", vec![0x60; 40], None),
        ("empty", vec![], None),
    ] {
        let read = read_packet(&packet);
        assert_eq!(read, expected.map(|it| (SLOT, it)), "{what}");
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
