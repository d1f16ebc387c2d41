//! The rules in the kernel: loads the table, and changes who is in its sets.
//!
//! Blocking. The copy of the sets kept here is what the table is meant to hold; it is what a lost
//! table is made again from.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Stdio},
};

use parking_lot::Mutex;
use serde_json::Value;
use tarn_host::SlotId;
use tarn_types::EgressPolicy;

use crate::{
    error::{Step as _, StepFailure},
    netlink::{SetChange, change_sets, table_exists},
    plan::{AddressRange, Block, Names},
    ruleset::{GUARDED, INTERNET, LIVE, Openings, compile},
};

/// The table of one server.
#[derive(Debug)]
pub(crate) struct Rules {
    names: Names,
    range: AddressRange,
    block: Block,
    openings: Mutex<Openings>,
}

/// Runs `nft` with a script, and returns what it printed.
pub(crate) fn nft(arguments: &[&str], script: &str) -> Result<String, StepFailure> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .step("start nft (package nftables)")?;
    let mut stdin = child.stdin.take().expect("stdin was asked for");
    // An nft that dies early says why on stderr; that is better than the broken pipe.
    drop(stdin.write_all(script.as_bytes()));
    drop(stdin);
    let output = child.wait_with_output().step("wait for nft")?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(StepFailure { step: "load rules with nft", detail: said.chars().take(400).collect() })
}

/// Lists one kind of object as `nft -j` shows it.
pub(crate) fn list(what: &str) -> Result<Vec<Value>, StepFailure> {
    let text = nft(&["-j", "list", what], "")?;
    let mut value: Value = serde_json::from_str(&text).step("read the answer of nft")?;
    match value.get_mut("nftables").map(Value::take) {
        Some(Value::Array(list)) => Ok(list),
        _ => Err(StepFailure { step: "read the answer of nft", detail: text }),
    }
}

// === impl Rules ===

impl Rules {
    /// Loads the rules, with the sets of an earlier life of this server carried over.
    ///
    /// One transaction: there is no moment without rules, nor one in which a sandbox that lived on
    /// is cut off.
    pub(crate) fn load(
        names: Names,
        range: AddressRange,
        block: Block,
    ) -> Result<Self, StepFailure> {
        let openings = carried_over(&names)?;
        let rules = Self { names, range, block, openings: Mutex::new(openings) };
        rules.install(&rules.openings.lock())?;
        Ok(rules)
    }

    /// Opens a slot as far as its policy says.
    pub(crate) fn open(&self, slot: SlotId, policy: &EgressPolicy) -> Result<(), StepFailure> {
        let name = || vec![self.names.interface(slot)];
        let mut openings = self.openings.lock();
        let mut changes = vec![SetChange::Add(LIVE, name())];
        if policy.allow_internet_access {
            changes.push(SetChange::Add(INTERNET, name()));
        } else if openings.internet.contains(&slot) {
            // Only then: a deletion so soon after another can wait 10 ms in the kernel.
            changes.push(SetChange::Remove(INTERNET, name()));
        }
        change_sets(&self.names.table(), &changes).step("install policy")?;
        openings.live.insert(slot);
        if policy.allow_internet_access {
            openings.internet.insert(slot);
        } else {
            openings.internet.remove(&slot);
        }
        Ok(())
    }

    /// Closes slots in both directions.
    pub(crate) fn close(&self, slots: &BTreeSet<SlotId>) -> Result<(), StepFailure> {
        if slots.is_empty() {
            return Ok(());
        }
        let mut openings = self.openings.lock();
        // Closed in our copy even if the kernel refuses: a table made again must not open it.
        openings.live.retain(|slot| !slots.contains(slot));
        openings.internet.retain(|slot| !slots.contains(slot));
        let names: Vec<_> = slots.iter().map(|slot| self.names.interface(*slot)).collect();
        let changes = [SetChange::Remove(LIVE, names.clone()), SetChange::Remove(INTERNET, names)];
        change_sets(&self.names.table(), &changes).step("close")
    }

    /// Returns the slots that are open.
    pub(crate) fn live(&self) -> BTreeSet<SlotId> {
        self.openings.lock().live.clone()
    }

    /// Returns the interfaces on which we switched forwarding on.
    pub(crate) fn guarded(&self) -> BTreeSet<String> {
        self.openings.lock().guarded.clone()
    }

    /// Says on which interfaces we switched forwarding on.
    pub(crate) fn guard(&self, interfaces: BTreeSet<String>) -> Result<(), StepFailure> {
        let mut openings = self.openings.lock();
        if openings.guarded == interfaces {
            return Ok(());
        }
        let mut changes = vec![SetChange::Clear(GUARDED)];
        if !interfaces.is_empty() {
            changes.push(SetChange::Add(GUARDED, interfaces.iter().cloned().collect()));
        }
        change_sets(&self.names.table(), &changes).step("guard interfaces")?;
        openings.guarded = interfaces;
        Ok(())
    }

    /// Loads the table again if somebody removed it. Returns whether it was gone.
    pub(crate) fn heal(&self) -> Result<bool, StepFailure> {
        let openings = self.openings.lock();
        if table_exists(&self.names.table()).step("look for our table")? {
            return Ok(false);
        }
        self.install(&openings)?;
        Ok(true)
    }

    fn install(&self, openings: &Openings) -> Result<(), StepFailure> {
        let script = compile(&self.names, self.range, self.block, openings);
        nft(&["-f", "-"], &script).map(drop)
    }
}

/// Reads the sets of a table that an earlier life of this server left.
pub(crate) fn carried_over(names: &Names) -> Result<Openings, StepFailure> {
    let table = names.table();
    if !table_exists(&table).step("look for our table")? {
        return Ok(Openings::default());
    }
    let mut openings = Openings::default();
    for set in [LIVE, INTERNET, GUARDED] {
        let Ok(text) = nft(&["-j", "list", "set", "inet", &table, set], "") else { continue };
        let value: Value = serde_json::from_str(&text).step("read the answer of nft")?;
        let members = members(&value);
        let slots = members.iter().filter_map(|name| names.slot(name)).collect();
        match set {
            LIVE => openings.live = slots,
            INTERNET => openings.internet = slots,
            _ => openings.guarded = members.into_iter().collect(),
        }
    }
    Ok(openings)
}

/// Removes the table. Blocking.
pub(crate) fn remove(names: &Names) -> Result<(), StepFailure> {
    let table = names.table();
    nft(&["-f", "-"], &format!("add table inet {table}\ndelete table inet {table}\n")).map(drop)
}

/// Says whether other servers have rules on this host.
pub(crate) fn others(names: &Names) -> Result<bool, StepFailure> {
    let own = names.table();
    Ok(list("tables")?.iter().any(|entry| {
        let name = entry.get("table").and_then(|table| table.get("name")).and_then(Value::as_str);
        name.is_some_and(|name| {
            name.starts_with("tarn_") && !name.starts_with("tarn_net_") && name != own
        })
    }))
}

fn members(listing: &Value) -> Vec<String> {
    let sets = listing.get("nftables").and_then(Value::as_array).into_iter().flatten();
    sets.filter_map(|entry| entry.get("set")?.get("elem")?.as_array())
        .flatten()
        .filter_map(|element| element.as_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_a_listed_set() {
        let listing = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"set": {"name": "live", "elem": ["tabc123001", "tabc123002"]}},
        ]});
        assert_eq!(members(&listing), ["tabc123001", "tabc123002"]);
        assert!(members(&serde_json::json!({"nftables": [{"set": {"name": "live"}}]})).is_empty());
    }
}
