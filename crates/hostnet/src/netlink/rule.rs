//! Elements of sets, changed in one transaction (`linux/netfilter/nf_tables.h`).

use nix::errno::Errno;

use super::{
    message::{Message, NLM_F_ACK, NLM_F_CREATE},
    socket::{Family, NetlinkError, transact},
};

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_DELSETELEM: u16 = 14;
const NFPROTO_INET: u8 = 1;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_DATA_VALUE: u16 = 1;
/// The length of a key of type `ifname`.
const IFNAMSIZ: usize = 16;

/// A change of one set of interface names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SetChange {
    /// Puts names in; those there already stay.
    Add(&'static str, Vec<String>),
    /// Takes names out, whether they are in or not.
    Remove(&'static str, Vec<String>),
    /// Empties the set.
    Clear(&'static str),
}

/// Carries out every change or none.
pub(crate) fn change_sets(table: &str, changes: &[SetChange]) -> Result<(), NetlinkError> {
    transact(Family::Netfilter, batch(table, changes))
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
            SetChange::Add(set, names) => messages.push(add(table, set, names)),
            SetChange::Remove(set, names) => {
                // Deleting what is not there fails the batch, so it is put in first; nobody sees
                // the state between.
                messages.push(add(table, set, names));
                messages.push(elements(
                    Message::new(kind(NFT_MSG_DELSETELEM), NLM_F_ACK, &head(NFPROTO_INET, 0)),
                    table,
                    set,
                    names,
                ));
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

fn add(table: &str, set: &str, names: &[String]) -> Message {
    let message =
        Message::new(kind(NFT_MSG_NEWSETELEM), NLM_F_ACK | NLM_F_CREATE, &head(NFPROTO_INET, 0));
    elements(message, table, set, names)
}

fn elements(message: Message, table: &str, set: &str, names: &[String]) -> Message {
    message
        .attribute(NFTA_SET_ELEM_LIST_TABLE, &terminated(table))
        .attribute(NFTA_SET_ELEM_LIST_SET, &terminated(set))
        .nested(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
            names.iter().fold(list, |list, name| {
                list.nested(NFTA_LIST_ELEM, |element| {
                    element.nested(NFTA_SET_ELEM_KEY, |key| {
                        key.attribute(NFTA_DATA_VALUE, &ifname(name))
                    })
                })
            })
        })
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

    #[test]
    fn a_removal_is_whole_whether_the_name_is_in_or_not() {
        let messages = batch("tarn_abc123", &[SetChange::Remove("live", vec!["t1".into()])]);
        let kinds: Vec<u16> = messages
            .into_iter()
            .map(|message| {
                let bytes = message.finish(1);
                u16::from_ne_bytes([bytes[4], bytes[5]])
            })
            .collect();
        assert_eq!(kinds, [0x10, 0x0a0c, 0x0a0e, 0x11]);
    }

    #[test]
    fn a_key_is_a_whole_field_and_always_ends() {
        assert_eq!(&ifname("eth0")[..6], b"eth0\0\0");
        assert_eq!(ifname("a-name-far-too-long-for-it")[15], 0);
    }
}
