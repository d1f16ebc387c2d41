use std::{collections::HashMap, net::Ipv4Addr};

use tarn_types::NetworkVerdict;

use super::*;

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

fn block() -> Block {
    Block::from_reservation("tarn_net_198_18_0_0").expect("a block")
}

fn id(number: u8) -> SandboxId {
    SandboxId::from_random([number; 21])
}

fn noted(slot: u16, prefix: &str, number: u32) -> Note {
    let flow = Flow { protocol: 6, to: SERVER, from_port: 1, to_port: 443 };
    // Whichever family it comes by.
    let from = match slot {
        1 => block().address(SlotId(slot)).into(),
        _ => block().address6(SlotId(slot)).into(),
    };
    Note::Packet { from, flow, prefix: prefix.to_owned(), number }
}

fn shown(logs: &NetLogs, sandbox: &SandboxId) -> Option<tarn_types::NetworkLog> {
    let (_, journal) = logs.find(sandbox)?;
    Some(journal.lock().show(&HashMap::new(), Counted::default()))
}

#[test]
fn notes_go_to_whoever_has_the_slot() {
    let (logs, _bells) = NetLogs::new(block());
    drop(logs.begin(SlotId(1), &id(1)));
    logs.take(vec![noted(1, ALLOWED, 0), noted(2, ALLOWED, 1), noted(1, "nonsense", 2)]);
    let log = shown(&logs, &id(1)).expect("it is there");
    let [entry] = &log.entries[..] else { panic!("{log:?}") };
    assert_eq!((entry.verdict, log.lost.is_any()), (NetworkVerdict::Allowed, false));
    logs.end(SlotId(1), Counted::default());
    logs.put_away(SlotId(1));
    drop(logs.begin(SlotId(1), &id(2)));
    logs.take(vec![noted(1, "closed", 3)]);
    assert_eq!(shown(&logs, &id(1)).expect("kept").entries.len(), 1);
    let log = shown(&logs, &id(2)).expect("it is there");
    assert_eq!(log.entries[0].verdict, NetworkVerdict::Denied(DenialReason::Closed));
    assert!(shown(&logs, &id(3)).is_none());
}

#[test]
fn missing_notes_are_counted_by_all_who_may_miss_them() {
    let (logs, _bells) = NetLogs::new(block());
    drop(logs.begin(SlotId(1), &id(1)));
    logs.take(vec![noted(1, ALLOWED, 7), noted(1, ALLOWED, 11), noted(1, ALLOWED, 12)]);
    assert_eq!(shown(&logs, &id(1)).expect("it is there").lost.node, 3);
}

#[test]
fn the_running_log_is_found_before_those_that_ended() {
    let (logs, _bells) = NetLogs::new(block());
    for slot in [1, 2] {
        drop(logs.begin(SlotId(slot), &id(1)));
        if slot == 1 {
            logs.put_away(SlotId(1));
        }
    }
    assert_eq!(logs.find(&id(1)).map(|(slot, _)| slot), Some(Some(SlotId(2))));
    logs.put_away(SlotId(2));
    assert_eq!(logs.find(&id(1)).map(|(slot, _)| slot), Some(None));
}

#[test]
fn what_is_kept_of_the_gone_is_bounded() {
    let (logs, _bells) = NetLogs::new(block());
    for number in 0..=200_u8 {
        let diary = logs.begin(SlotId(1), &id(number));
        for name in 0..200 {
            diary.refused(&format!("{name}.example"), DenialReason::DenyOut);
        }
        logs.put_away(SlotId(1));
    }
    let kept = &logs.shelves.lock().kept;
    assert_eq!(kept.len(), KEPT_ENTRIES / 200);
    assert_eq!(kept.back().map(|kept| kept.sandbox.clone()), Some(id(200)));
}

#[test]
fn whoever_waits_is_not_left_waiting_when_nobody_listens() {
    let (logs, bells) = NetLogs::new(block());
    drop(bells);
    logs.hear_out();
}
