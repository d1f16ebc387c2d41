//! The rules in the kernel: loads the table, and changes who is in its sets.
//!
//! Blocking. The copy of the sets kept here is what the table is meant to hold; it is what a lost
//! table is made again from.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Stdio},
    sync::Arc,
};

use parking_lot::Mutex;
use serde_json::Value;
use tarn_host::SlotId;
use tarn_task::{Entropy, OsEntropy};
use tarn_types::HostName;
use tokio::time::Instant;

use crate::{
    carry::carried_over,
    config::{SlotLimits, SlotsConfig},
    egress::{Egress, Span},
    error::{Step as _, StepFailure},
    filter::{Filter, Found, Members, Record, changes},
    netlink::{Element, Ends, Key, SetChange, change_sets, has_member, read_counts, table_exists},
    netlog::Counted,
    opened::OpenedNetworks,
    plan::{AddressRange, Block, MOST_SLOTS, Names},
    ruleset::{
        FAMILIES, GUARDED, GUARDED6, INTERNET, LIVE, NEAR, Openings, Ways, compile, limits,
        lists::furnish, notes,
    },
};

/// The number of IPv6 among protocol families (`linux/netfilter.h`).
const NFPROTO_IPV6: u8 = 10;

/// Slots that are closed with one batch: one changes up to some 50 messages of its own, and the
/// socket has room for so many of so many slots with full lists.
const CLOSED_AT_ONCE: usize = 20;

/// The table of one server.
#[derive(Debug)]
pub(crate) struct Rules {
    names: Names,
    range: AddressRange,
    opened: OpenedNetworks,
    block: Block,
    limits: SlotLimits,
    openings: Mutex<Openings>,
    /// Slots that may have begun flows before the table was made, and are not in its sets for that.
    /// Locked within `openings` alone.
    doubtful: Mutex<BTreeSet<SlotId>>,
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
        block: Block,
        config: &SlotsConfig,
    ) -> Result<Self, StepFailure> {
        let SlotsConfig { range, limits, opened, .. } = config.clone();
        let mut openings = carried_over(&names, Some(block))?;
        let zones = openings.zones.take().unwrap_or_default();
        openings.zones = Some(zones.begin(any_number(), &openings.live));
        let doubtful = Mutex::new(openings.live.clone());
        let openings = Mutex::new(openings);
        let rules = Self { names, range, opened, block, limits, openings, doubtful };
        rules.install_first(&mut rules.openings.lock())?;
        Ok(rules)
    }

    /// Opens a slot as far as its policy says, in one transaction. A slot's first lists take one
    /// more before it. `found` is what is known of its names beforehand.
    pub(crate) fn open(
        &self,
        slot: SlotId,
        egress: &Arc<Egress>,
        found: &[Found],
    ) -> Result<(), StepFailure> {
        let name = || vec![Element::lasting(Key::Interface(self.names.interface(slot)))];
        let now = Instant::now();
        let mut openings = self.openings.lock();
        let filter = match openings.filters.get(&slot) {
            Some(filter) => filter.under(egress, found, now),
            None => Filter::default().under(egress, found, now),
        };
        if egress.has_lists() && !openings.furnished.contains(&slot) {
            // What is added here lets nothing through and stops nothing.
            nft(&["-f", "-"], &furnish(&self.names, slot))?;
            openings.furnished.insert(slot);
        }
        let mut changes = self.filter_changes(&openings, slot, &filter.members, now);
        changes.push(SetChange::Add(LIVE.into(), name()));
        if egress.forwards {
            changes.push(SetChange::Add(INTERNET.into(), name()));
        } else if openings.internet.contains(&slot) {
            // Only then: a deletion so soon after another can wait 10 ms in the kernel.
            changes.push(SetChange::Remove(INTERNET.into(), name()));
        }
        // Its flows must not be in the zone of whoever was not closed.
        let moves = openings.zones.as_mut().filter(|zones| zones.is_unsure(slot));
        let moves = moves.map(|zones| zones.move_on(&[slot], self.block));
        let has_moved = moves.is_some();
        changes.extend(moves);
        change_sets(&self.names.table(), &changes).step("install policy")?;
        if let Some(zones) = openings.zones.as_mut().filter(|_| has_moved) {
            zones.moved_on(&[slot]);
        }
        openings.live.insert(slot);
        if egress.forwards {
            openings.internet.insert(slot);
        } else {
            openings.internet.remove(&slot);
        }
        if egress.has_lists() {
            openings.filters.insert(slot, filter);
        } else {
            openings.filters.remove(&slot);
        }
        Ok(())
    }

    /// Adds addresses of a name to a slot's sets. Says no if the slot's policy is another by now.
    pub(crate) fn learn(
        &self,
        slot: SlotId,
        egress: &Arc<Egress>,
        name: &HostName,
        records: &[Record],
    ) -> Result<bool, StepFailure> {
        let now = Instant::now();
        let mut openings = self.openings.lock();
        let filter = openings.filters.get(&slot);
        let filter = filter.filter(|filter| {
            filter.egress.as_ref().is_some_and(|current| Arc::ptr_eq(current, egress))
        });
        let Some(filter) = filter else { return Ok(false) };
        let Some(next) = filter.learned(name, records, now) else { return Ok(true) };
        let changes = self.filter_changes(&openings, slot, &next.members, now);
        // Another name may have brought it.
        if !changes.is_empty() {
            change_sets(&self.names.table(), &changes).step("let an address in")?;
        }
        openings.filters.insert(slot, next);
        Ok(true)
    }

    /// Closes slots in both directions; after a failure the others all the same.
    pub(crate) fn close(&self, slots: &BTreeSet<SlotId>) -> Result<(), StepFailure> {
        let slots: Vec<SlotId> = slots.iter().copied().collect();
        let mut outcome = Ok(());
        for some in slots.chunks(CLOSED_AT_ONCE) {
            outcome = outcome.and(self.close_at_once(some));
        }
        outcome
    }

    fn close_at_once(&self, slots: &[SlotId]) -> Result<(), StepFailure> {
        let now = Instant::now();
        let mut openings = self.openings.lock();
        let interfaces: Vec<_> = slots.iter().map(|slot| self.names.interface(*slot)).collect();
        let names: Vec<_> =
            interfaces.iter().cloned().map(Key::Interface).map(Element::lasting).collect();
        let mut changes = vec![
            SetChange::Remove(LIVE.into(), names.clone()),
            SetChange::Remove(INTERNET.into(), names),
        ];
        for slot in slots {
            changes.extend(self.filter_changes(&openings, *slot, &Members::default(), now));
        }
        changes.extend(limits::forget(&interfaces));
        changes.extend(notes::forget(&interfaces));
        changes.extend(openings.zones.as_mut().map(|zones| zones.move_on(slots, self.block)));
        // Closed in our copy even if the kernel refuses: a table made again must not open it. The
        // rest stays until then, so that the next change of the slot takes it out.
        openings.live.retain(|slot| !slots.contains(slot));
        change_sets(&self.names.table(), &changes).step("close")?;
        if let Some(zones) = &mut openings.zones {
            zones.moved_on(slots);
        }
        openings.internet.retain(|slot| !slots.contains(slot));
        openings.filters.retain(|slot, _| !slots.contains(slot));
        Ok(())
    }

    /// Says whether whoever had a closed slot may have begun flows. It is in the kernel's hands:
    /// no packet that came before the slot was closed is under way any more.
    pub(crate) fn may_have_begun(&self, slot: SlotId) -> Result<bool, StepFailure> {
        let table = self.names.table();
        let member = Element::lasting(Key::Interface(self.names.interface(slot)));
        // Nobody makes the table again meanwhile.
        let _openings = self.openings.lock();
        let begun = has_member(&table, limits::STARTS, &member).step("look for flows")?;
        // After that: a table that is gone has no members.
        let is_there = table_exists(&table).step("look for our table")?;
        Ok(begun || !is_there || self.doubtful.lock().contains(&slot))
    }

    /// Notes that no flow is left of whoever had a closed slot.
    pub(crate) fn none_begun(&self, slot: SlotId) -> Result<(), StepFailure> {
        let change = limits::forget_starts(self.names.interface(slot));
        let _openings = self.openings.lock();
        change_sets(&self.names.table(), &[change]).step("forget that flows began")?;
        self.doubtful.lock().remove(&slot);
        Ok(())
    }

    /// Says whether the host and whoever has a slot next have no flows with each other but new
    /// ones, whatever is left of those with whoever had it, once it is closed.
    pub(crate) fn tells_tenancies(&self) -> bool {
        self.openings.lock().zones.is_some()
    }

    /// Says whether a flow, as the kernel has just shown it, is one of the host's with a sandbox
    /// that is gone.
    pub(crate) fn is_past(&self, ends: Ends) -> bool {
        let Some(slot) = self.block.slot(ends.to) else { return false };
        self.openings.lock().zones.as_ref().is_some_and(|zones| zones.is_past(slot, ends.zone))
    }

    /// Returns what the kernel has counted of a slot.
    pub(crate) fn counted(&self, slot: SlotId) -> Result<Counted, StepFailure> {
        let sets = [notes::SENT, notes::RECEIVED, notes::BEGUN, notes::DENIED, notes::UNNOTED];
        let member = Element::lasting(Key::Interface(self.names.interface(slot)));
        let [sent, received, begun, denied, unnoted] =
            read_counts(&self.names.table(), sets, &member).step("read counters")?;
        Ok(Counted {
            sent_packets: sent.packets,
            sent_bytes: sent.bytes,
            received_packets: received.packets,
            received_bytes: received.bytes,
            connections: begun.packets,
            denied_packets: denied.packets,
            unnoted: unnoted.packets,
        })
    }

    /// Lists what brings a slot's sets from what they hold to what they are to hold.
    fn filter_changes(
        &self,
        openings: &Openings,
        slot: SlotId,
        new: &Members,
        now: Instant,
    ) -> Vec<SetChange> {
        let nothing = Members::default();
        let old = openings.filters.get(&slot).map_or(&nothing, |filter| &filter.members);
        changes(&self.names.face(self.block, slot), old, new, now)
    }

    /// Returns the slots that are open.
    pub(crate) fn live(&self) -> BTreeSet<SlotId> {
        self.openings.lock().live.clone()
    }

    /// Returns what the rules know of the ways out.
    pub(crate) fn ways(&self) -> Ways {
        self.openings.lock().ways.clone()
    }

    /// Says what the ways out are now.
    pub(crate) fn lead(&self, ways: Ways) -> Result<(), StepFailure> {
        let mut openings = self.openings.lock();
        if openings.ways == ways {
            return Ok(());
        }
        let interfaces = |set: &BTreeSet<String>| -> Vec<Key> {
            set.iter().cloned().map(Key::Interface).collect()
        };
        let mut changes = Vec::new();
        for (set, members) in [
            (GUARDED, interfaces(&ways.guarded)),
            (GUARDED6, interfaces(&ways.guarded6)),
            (NEAR, ways.near6.iter().flat_map(Span::ends).collect()),
            (FAMILIES, ways.has_ipv6.then_some(Key::Family(NFPROTO_IPV6)).into_iter().collect()),
        ] {
            changes.push(SetChange::Clear(set.into()));
            let members: Vec<_> = members.into_iter().map(Element::lasting).collect();
            if !members.is_empty() {
                changes.push(SetChange::Add(set.into(), members));
            }
        }
        change_sets(&self.names.table(), &changes).step("say what the ways out are")?;
        openings.ways = ways;
        Ok(())
    }

    /// Loads the table again if somebody removed it. Returns whether it was gone.
    pub(crate) fn heal(&self) -> Result<bool, StepFailure> {
        let openings = self.openings.lock();
        if table_exists(&self.names.table()).step("look for our table")? {
            return Ok(false);
        }
        // Whoever has no slot now may have had one when it was removed.
        self.doubtful.lock().extend((1..=MOST_SLOTS).map(SlotId));
        self.install(&openings)?;
        Ok(true)
    }

    /// Does without zones where the kernel has none (`CONFIG_NF_CONNTRACK_ZONES`), or `nft` knows
    /// none: what the host has begun is looked for with each release then.
    fn install_first(&self, openings: &mut Openings) -> Result<(), StepFailure> {
        let Err(StepFailure { step, detail }) = self.install(openings) else { return Ok(()) };
        openings.zones = None;
        self.install(openings)?;
        tracing::warn!(step, detail, "no conntrack zones: a release takes longer");
        Ok(())
    }

    fn install(&self, openings: &Openings) -> Result<(), StepFailure> {
        let Self { names, range, opened, block, limits, .. } = self;
        let script = compile(names, (*range, opened), *block, limits, openings, Instant::now());
        nft(&["-f", "-"], &script).map(drop)
    }
}

/// Returns a number that is another in each life of a server.
fn any_number() -> u16 {
    let bytes: [u8; 2] = (&OsEntropy as &dyn Entropy).bytes();
    u16::from_ne_bytes(bytes)
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
