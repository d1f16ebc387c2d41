use std::collections::BTreeSet;

use super::*;

fn names(tag: &str) -> Names {
    Names::new(tag.parse().expect("the test writes good tags"))
}

#[test]
fn a_range_is_an_aligned_network_that_holds_a_block() {
    for good in ["198.18.0.0/16", "10.0.0.0/8", "100.64.4.0/22"] {
        assert_eq!(good.parse::<AddressRange>().expect(good).to_string(), good);
    }
    for bad in
        ["", "198.18.0.0", "198.18.0.0/7", "198.18.0.0/23", "198.18.1.0/16", "x/16", "1.2.3.4/ "]
    {
        assert!(bad.parse::<AddressRange>().is_err(), "{bad} was taken");
    }
}

#[test]
fn each_tag_tries_every_block_once_and_starts_elsewhere() {
    let order = |tag: &str| -> Vec<String> {
        let tag = tag.parse().expect("the test writes good tags");
        AddressRange::DEFAULT.candidates(&tag).map(|block| block.to_string()).collect()
    };
    let first = order("abc123");
    assert_eq!(first.len(), 64);
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 64);
    assert!(first.contains(&"198.18.252.0/22".to_owned()));
    assert_ne!(first[0], order("abc124")[0]);
    assert_eq!(first, order("abc123"));
}

#[test]
fn addresses_and_names_of_a_slot() {
    let block = Block(Ipv4Addr::new(198, 18, 4, 0));
    assert_eq!(block.address(SlotId(1)).to_string(), "198.18.4.1");
    assert_eq!(block.address(SlotId(MOST_SLOTS)).to_string(), "198.18.7.232");
    let names = names("abc123");
    assert_eq!(names.interface(SlotId(MOST_SLOTS)), "tabc1233e8");
    assert_eq!(names.slot("tabc1233e8"), Some(SlotId(1000)));
    for other in
        ["tabc123", "tabc123000", "tabc1233e9", "tabc12301", "tabc124001", "eth0", "tabc123zzz"]
    {
        assert_eq!(names.slot(other), None, "{other}");
    }
}

#[test]
fn a_reservation_reads_back() {
    let block = Block(Ipv4Addr::new(198, 18, 252, 0));
    assert_eq!(block.reservation(), "tarn_net_198_18_252_0");
    assert_eq!(Block::from_reservation(&block.reservation()), Some(block));
    for other in ["tarn_abc123", "tarn_net_198_18_253_0", "tarn_net_1_2_3", "filter"] {
        assert_eq!(Block::from_reservation(other), None, "{other}");
    }
}

#[test]
fn overlap_counts_networks_around_and_within() {
    let block = Block(Ipv4Addr::new(198, 18, 4, 0));
    for (network, prefix, expected) in [
        ([198, 18, 0, 0], 15, true),
        ([198, 18, 4, 7], 32, true),
        ([198, 18, 7, 0], 24, true),
        ([198, 18, 8, 0], 24, false),
        ([198, 18, 3, 255], 32, false),
        ([0, 0, 0, 0], 0, true),
        ([10, 0, 0, 0], 8, false),
    ] {
        assert_eq!(block.overlaps(network.into(), prefix), expected, "{network:?}/{prefix}");
    }
}
