//! Elements of sets, changed in one transaction (`linux/netfilter/nf_tables.h`).

use std::{borrow::Cow, net::IpAddr, time::Duration};

use nix::errno::Errno;

use super::{
    message::{Attributes, Message, NLM_F_ACK, NLM_F_CREATE, octets, read_be_u64},
    socket::{Family, NetlinkError, ask, transact},
};

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFT_MSG_DELSETELEM: u16 = 14;
const NFPROTO_INET: u8 = 1;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_SET_ELEM_EXPR: u16 = 7;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_COUNTER_BYTES: u16 = 1;
const NFTA_COUNTER_PACKETS: u16 = 2;
const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
const NFTA_DATA_VALUE: u16 = 1;
/// Members of one message: an attribute is shorter than 64 KiB, a member than 60 bytes.
const MOST_OF_A_MESSAGE: usize = 1000;
/// The length of a key of type `ifname`.
const IFNAMSIZ: usize = 16;

/// A member of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Key,
    /// After how long the kernel takes it out by itself; only in sets that do so.
    pub(crate) lifetime: Option<Duration>,
    /// What a map says of it: a conntrack zone.
    pub(crate) zone: Option<u16>,
}

/// What a set knows a member by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// The name of an interface.
    Interface(String),
    /// The number of a protocol family.
    Family(u8),
    /// The host-side address of a slot.
    Address(IpAddr),
    /// The host-side address of a slot, and the address at the other end.
    Pair(IpAddr, IpAddr),
    /// The first address of a span.
    First(IpAddr),
    /// The address behind a span; one that reaches to the last address of all has none.
    Behind(IpAddr),
}

/// The name of a set: one that all slots share, or one of a slot's own.
pub(crate) type SetName = Cow<'static, str>;

/// A change of one set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SetChange {
    /// Puts members in; those there already stay.
    Add(SetName, Vec<Element>),
    /// Takes members out, whether they are in or not.
    Remove(SetName, Vec<Element>),
    /// Puts members in with a new lifetime, whether they are in or not.
    Renew(SetName, Vec<Element>),
    /// Has a map say something else of members, which must be in.
    Replace(SetName, Vec<Element>),
    /// Empties the set.
    Clear(SetName),
}

/// Carries out every change or none.
pub(crate) fn change_sets(table: &str, changes: &[SetChange]) -> Result<(), NetlinkError> {
    transact(Family::Netfilter, batch(table, changes))
}

/// What a set with counters has counted for one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Count {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// Reads what sets have counted for a member; nothing where it is not in.
pub(crate) fn read_counts<const N: usize>(
    table: &str,
    sets: [&str; N],
    member: &Element,
) -> Result<[Count; N], NetlinkError> {
    let question = |set: &str| {
        let message = Message::new(kind(NFT_MSG_GETSETELEM), NLM_F_ACK, &head(NFPROTO_INET, 0));
        elements(message, table, set, std::slice::from_ref(member))
    };
    let mut counts = [Count::default(); N];
    ask(Family::Netfilter, sets.map(question).into(), |number, answer| {
        if let (Some(place), Some(count)) = (counts.get_mut(number), read_count(answer)) {
            *place = count;
        }
    })?;
    Ok(counts)
}

/// Says whether a set has a member. No, too, where there is no such table.
pub(crate) fn has_member(table: &str, set: &str, member: &Element) -> Result<bool, NetlinkError> {
    let message = Message::new(kind(NFT_MSG_GETSETELEM), NLM_F_ACK, &head(NFPROTO_INET, 0));
    let question = elements(message, table, set, std::slice::from_ref(member));
    let mut has = false;
    ask(Family::Netfilter, vec![question], |_question, _answer| has = true)?;
    Ok(has)
}

fn read_count(answer: &[u8]) -> Option<Count> {
    let list = Attributes::behind(answer, 4).find(NFTA_SET_ELEM_LIST_ELEMENTS)?;
    let element = Attributes::inside(Attributes::inside(list).find(NFTA_LIST_ELEM)?);
    let expression = Attributes::inside(element.find(NFTA_SET_ELEM_EXPR)?);
    let counter = Attributes::inside(expression.find(NFTA_EXPR_DATA)?);
    Some(Count {
        packets: read_be_u64(counter.find(NFTA_COUNTER_PACKETS)?)?,
        bytes: read_be_u64(counter.find(NFTA_COUNTER_BYTES)?)?,
    })
}

/// Says whether a table is there.
pub(crate) fn table_exists(table: &str) -> Result<bool, NetlinkError> {
    let message = Message::new(kind(NFT_MSG_GETTABLE), NLM_F_ACK, &head(NFPROTO_INET, 0))
        .attribute(NFTA_TABLE_NAME, &terminated(table));
    match transact(Family::Netfilter, vec![message]) {
        Ok(()) => Ok(true),
        Err(error) if error.errno == Errno::ENOENT => Ok(false),
        Err(error) => Err(error),
    }
}

fn batch(table: &str, changes: &[SetChange]) -> Vec<Message> {
    let mut messages = vec![Message::new(NFNL_MSG_BATCH_BEGIN, 0, &head(0, SUBSYSTEM))];
    for change in changes {
        match change {
            SetChange::Add(set, members) => add(&mut messages, table, set, members),
            SetChange::Remove(set, members) => {
                // Deleting what is not there fails the batch, so it is put in first; nobody sees
                // the state between.
                add(&mut messages, table, set, members);
                delete(&mut messages, table, set, members);
            }
            SetChange::Renew(set, members) => {
                // Kernels older than 6.12 let a member that is put in again keep its old lifetime.
                add(&mut messages, table, set, members);
                delete(&mut messages, table, set, members);
                add(&mut messages, table, set, members);
            }
            SetChange::Replace(set, members) => {
                // Putting in first, as above, would fail: the kernel refuses to overwrite.
                delete(&mut messages, table, set, members);
                add(&mut messages, table, set, members);
            }
            SetChange::Clear(set) => messages.push(
                Message::new(kind(NFT_MSG_DELSETELEM), NLM_F_ACK, &head(NFPROTO_INET, 0))
                    .attribute(NFTA_SET_ELEM_LIST_TABLE, &terminated(table))
                    .attribute(NFTA_SET_ELEM_LIST_SET, &terminated(set)),
            ),
        }
    }
    messages.push(Message::new(NFNL_MSG_BATCH_END, 0, &head(0, SUBSYSTEM)));
    messages
}

fn add(messages: &mut Vec<Message>, table: &str, set: &str, members: &[Element]) {
    messages.extend(members.chunks(MOST_OF_A_MESSAGE).map(|members| {
        let flags = NLM_F_ACK | NLM_F_CREATE;
        let message = Message::new(kind(NFT_MSG_NEWSETELEM), flags, &head(NFPROTO_INET, 0));
        elements(message, table, set, members)
    }));
}

fn delete(messages: &mut Vec<Message>, table: &str, set: &str, members: &[Element]) {
    messages.extend(members.chunks(MOST_OF_A_MESSAGE).map(|members| {
        let message = Message::new(kind(NFT_MSG_DELSETELEM), NLM_F_ACK, &head(NFPROTO_INET, 0));
        elements(message, table, set, members)
    }));
}

fn elements(message: Message, table: &str, set: &str, members: &[Element]) -> Message {
    message
        .attribute(NFTA_SET_ELEM_LIST_TABLE, &terminated(table))
        .attribute(NFTA_SET_ELEM_LIST_SET, &terminated(set))
        .nested(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
            members.iter().fold(list, |list, member| {
                list.nested(NFTA_LIST_ELEM, |element| member.write(element))
            })
        })
}

// === impl Element ===

impl Element {
    /// Makes a member that stays until it is taken out.
    pub(crate) fn lasting(key: Key) -> Self {
        Self { key, lifetime: None, zone: None }
    }

    /// Makes a member of a map.
    pub(crate) fn mapped(key: Key, zone: u16) -> Self {
        Self { zone: Some(zone), ..Self::lasting(key) }
    }

    fn write(&self, message: Message) -> Message {
        let value = |kind: u16, bytes: &[u8], message: Message| {
            message.nested(kind, |value| value.attribute(NFTA_DATA_VALUE, bytes))
        };
        let message = match &self.key {
            Key::Interface(name) => value(NFTA_SET_ELEM_KEY, &ifname(name), message),
            Key::Family(number) => value(NFTA_SET_ELEM_KEY, &[*number], message),
            Key::Address(address) => value(NFTA_SET_ELEM_KEY, &octets(*address), message),
            Key::Pair(slot, address) => value(NFTA_SET_ELEM_KEY, &pair(*slot, *address), message),
            Key::First(first) => value(NFTA_SET_ELEM_KEY, &octets(*first), message),
            Key::Behind(behind) => value(NFTA_SET_ELEM_KEY, &octets(*behind), message)
                .attribute(NFTA_SET_ELEM_FLAGS, &NFT_SET_ELEM_INTERVAL_END.to_be_bytes()),
        };
        let message = match self.zone {
            // In the host's byte order, as `ct zone` reads it.
            Some(zone) => value(NFTA_SET_ELEM_DATA, &zone.to_ne_bytes(), message),
            None => message,
        };
        let Some(lifetime) = self.lifetime else { return message };
        let millis = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX).max(1);
        message.attribute(NFTA_SET_ELEM_TIMEOUT, &millis.to_be_bytes())
    }
}

/// Each part of a key fills registers of four bytes.
fn pair(slot: IpAddr, address: IpAddr) -> Vec<u8> {
    [octets(slot), octets(address)].concat()
}

fn ifname(name: &str) -> [u8; IFNAMSIZ] {
    let mut key = [0; IFNAMSIZ];
    let size = name.len().min(IFNAMSIZ - 1);
    key[..size].copy_from_slice(&name.as_bytes()[..size]);
    key
}

fn kind(message: u16) -> u16 {
    (SUBSYSTEM << 8) | message
}

/// struct nfgenmsg: family, version, resource in network order.
fn head(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::HEADER;

    fn kinds(change: SetChange) -> Vec<u16> {
        let messages = batch("tarn_abc123", &[change]).into_iter();
        messages
            .map(|message| {
                let bytes = message.finish(1);
                u16::from_ne_bytes([bytes[4], bytes[5]])
            })
            .collect()
    }

    #[test]
    fn a_change_is_whole_whether_the_member_is_in_or_not() {
        let member = || vec![Element::lasting(Key::Interface("t1".into()))];
        assert_eq!(kinds(SetChange::Remove("live".into(), member())), [0x10, 0x0a0c, 0x0a0e, 0x11]);
        let renewed = [0x10, 0x0a0c, 0x0a0e, 0x0a0c, 0x11];
        assert_eq!(kinds(SetChange::Renew("live".into(), member())), renewed);
        let replaced = [0x10, 0x0a0e, 0x0a0c, 0x11];
        assert_eq!(kinds(SetChange::Replace("tenancy".into(), member())), replaced);
    }

    #[test]
    fn a_member_of_a_map_has_a_zone_in_the_order_of_the_host() {
        let slot = Key::Address(IpAddr::from([198, 18, 0, 4]));
        let bytes = Element::mapped(slot, 300).write(Message::new(0, 0, &[])).finish(1);
        let element = Attributes::behind(&bytes[HEADER..], 0);
        let value = |kind| Attributes::inside(element.find(kind)?).find(NFTA_DATA_VALUE);
        assert_eq!(value(NFTA_SET_ELEM_KEY), Some([198, 18, 0, 4].as_slice()));
        assert_eq!(value(NFTA_SET_ELEM_DATA), Some(300_u16.to_ne_bytes().as_slice()));
        // As nft 1.0.6 sends `add element ... { 198.18.0.4 : 300 }` on a little-endian host.
        #[cfg(target_endian = "little")]
        assert_eq!(
            bytes[HEADER..],
            *b"\x0c\x00\x01\x80\x08\x00\x01\x00\xc6\x12\x00\x04\
               \x0c\x00\x02\x80\x06\x00\x01\x00\x2c\x01\x00\x00"
        );
    }

    #[test]
    fn many_members_go_in_several_messages() {
        let slot = IpAddr::from([0xfd74, 0x6172, 0x6e00, 1, 0, 0, 0, 1]);
        let members: Vec<_> = (0..2500)
            .map(|number| Key::Pair(slot, IpAddr::from([0x2001, 0, 0, 0, 0, 0, 0, number])))
            .map(|key| Element { lifetime: Some(Duration::from_secs(60)), ..Element::lasting(key) })
            .collect();
        let messages = batch("tarn_abc123", &[SetChange::Add("fresh6".into(), members)]);
        assert_eq!(messages.len(), 2 + 3);
        for message in messages {
            assert!(message.finish(1).len() < usize::from(u16::MAX), "an attribute holds it");
        }
    }

    #[test]
    fn a_key_is_a_whole_field_and_always_ends() {
        assert_eq!(&ifname("eth0")[..6], b"eth0\0\0");
        assert_eq!(ifname("a-name-far-too-long-for-it")[15], 0);
    }
}
