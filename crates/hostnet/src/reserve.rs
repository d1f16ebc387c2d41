//! Takes a block of addresses on the host for one server.
//!
//! A reservation is an nft table named after the block: creating one that exists fails, so two
//! servers that start at the same moment cannot take the same, and a chain in it says whose it is.

use std::net::IpAddr;

use serde_json::Value;

use crate::{
    error::{SlotsStartError, StepFailure},
    netlink::{Route, interfaces, routes},
    plan::{AddressRange, Block, Names},
    rules::{list, nft},
};

use crate::error::Step as _;

/// A reservation as the host has it.
#[derive(Debug, PartialEq, Eq)]
struct Reservation {
    block: Block,
    owner: String,
}

/// Finds the block of an earlier life of this server, or takes a free one. Blocking.
pub(crate) fn reserve(names: &Names, range: AddressRange) -> Result<Block, SlotsStartError> {
    let taken = reservations()?;
    if let Some(own) = taken.iter().find(|entry| entry.owner == names.owner()) {
        return Ok(own.block);
    }
    let foreign = foreign_routes(names)?;
    for block in range.candidates(names.tag()) {
        let used = foreign.iter().any(|route| match route.network {
            IpAddr::V4(network) => block.overlaps(network, route.prefix),
            IpAddr::V6(_) => false,
        });
        if used || taken.iter().any(|entry| entry.block == block) {
            continue;
        }
        if create(names, block)? {
            return Ok(block);
        }
    }
    Err(SlotsStartError::NoAddresses { range: range.to_string() })
}

/// Gives up this server's blocks. Blocking.
pub(crate) fn give_up(names: &Names) -> Result<(), StepFailure> {
    for own in reservations()?.iter().filter(|entry| entry.owner == names.owner()) {
        nft(&["-f", "-"], &format!("delete table inet {}\n", own.block.reservation()))?;
    }
    Ok(())
}

/// Creates a reservation; says no if somebody else just did.
fn create(names: &Names, block: Block) -> Result<bool, StepFailure> {
    let table = block.reservation();
    let script = format!("create table inet {table}\nadd chain inet {table} {}\n", names.owner());
    match nft(&["-f", "-"], &script) {
        Ok(_) => Ok(true),
        Err(_) if reservations()?.iter().any(|entry| entry.block == block) => Ok(false),
        Err(failure) => Err(failure),
    }
}

fn reservations() -> Result<Vec<Reservation>, StepFailure> {
    Ok(read_reservations(&list("chains")?))
}

fn read_reservations(chains: &[Value]) -> Vec<Reservation> {
    chains
        .iter()
        .filter_map(|entry| {
            let chain = entry.get("chain")?;
            let block = Block::from_reservation(chain.get("table")?.as_str()?)?;
            Some(Reservation { block, owner: chain.get("name")?.as_str()?.to_owned() })
        })
        .collect()
}

/// Lists the routes of others. Those wider than /8 say "everything" rather than "this network is
/// in use": a default route, or the two halves of one that VPNs install.
fn foreign_routes(names: &Names) -> Result<Vec<Route>, StepFailure> {
    let interfaces = interfaces().step("list interfaces")?;
    let ours = |index: &u32| {
        interfaces.iter().any(|known| known.index == *index && names.slot(&known.name).is_some())
    };
    let mut routes = routes().step("list routes")?;
    routes.retain(|route| {
        route.prefix >= 8 && (route.interfaces.is_empty() || !route.interfaces.iter().all(ours))
    });
    Ok(routes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_are_read_from_chains_and_others_ignored() {
        let chains = serde_json::json!([
            {"metainfo": {}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD"}},
            {"chain": {"family": "inet", "table": "tarn_net_198_18_8_0", "name": "owner_abc123"}},
        ]);
        let found = read_reservations(chains.as_array().expect("it is an array"));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].owner, "owner_abc123");
        assert_eq!(found[0].block.to_string(), "198.18.8.0/22");
    }
}
