//! Placement, as a pure function of a request and a view of the nodes.
//!
//! Memory is a limit, not a reservation: a node admits a sandbox while the memory that is
//! available now, minus a reserve, covers the starts under way (design §4). CPU is a quota and
//! overcommitted. Disk is thin; the pool keeps a reserve. GPUs are given out whole, by exact model.

mod pool;
mod prestart;
mod stage;

pub use pool::{PoolPlace, PoolPlan, PoolRule, pool};
pub use prestart::{Demand, MEMORY_OF_ASKS, PrestartRule, pause, prestart};
pub use stage::{StageDemand, StageRule, stages};
use tarn_types::{ByteSize, GpuStock, MilliCpu, NodeId, PendingReason, Resources};

/// The numbers of the admission rule; all are configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionRule {
    /// How many times a node's CPUs may be promised. Default: 16.
    pub cpu_overcommit: u32,
    /// The least memory a node keeps for itself. Default: 1 GiB.
    pub memory_reserve: ByteSize,
    /// The part of its memory a node keeps at least, in percent. Default: 10.
    pub memory_reserve_percent: u64,
    /// What each start under way may still take. Default: 64 MiB.
    pub memory_per_start: ByteSize,
    /// The part of its pool a node keeps free, in percent. Default: 10.
    pub disk_reserve_percent: u64,
}

/// What one node has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// The node.
    pub node: NodeId,
    /// Its CPUs.
    pub cpu: MilliCpu,
    /// CPU quota promised to live sandboxes.
    pub cpu_promised: MilliCpu,
    /// Its memory.
    pub memory: ByteSize,
    /// Memory available now.
    pub memory_available: ByteSize,
    /// Starts under way.
    pub starts_in_flight: u32,
    /// The size of its pool.
    pub disk: ByteSize,
    /// Room in its pool.
    pub disk_available: ByteSize,
    /// Whether it takes new sandboxes.
    pub draining: bool,
    /// Its GPUs, each model once.
    pub gpus: Vec<GpuStock>,
}

/// Why a node was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// It takes no new sandboxes.
    Draining,
    /// The request is larger than the whole node.
    TooLarge,
    /// Its CPUs are promised as often as the rule allows.
    Cpu,
    /// Its available memory does not cover another start above the reserve.
    Memory,
    /// Its pool has no room above the reserve.
    Disk,
    /// It has not so many GPUs of that model, in use or not.
    NoGpu,
    /// Too few of its GPUs of that model can be given out now.
    GpuBusy,
}

/// Where a sandbox goes, or why it waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// It goes to this node.
    On(NodeId),
    /// It waits.
    Wait {
        /// The reason the caller sees.
        reason: PendingReason,
        /// Each node and what spoke against it, for the log.
        obstacles: Vec<(NodeId, Obstacle)>,
    },
}

/// Chooses the node with the most available memory among those that can take the request.
#[must_use]
pub fn place(rule: &AdmissionRule, request: &Resources, rooms: &[Room]) -> Placement {
    let mut obstacles = Vec::new();
    let mut best: Option<&Room> = None;
    for room in rooms {
        match admit(rule, request, room) {
            Err(obstacle) => obstacles.push((room.node.clone(), obstacle)),
            Ok(()) if best.is_none_or(|best| room.memory_available > best.memory_available) => {
                best = Some(room);
            }
            Ok(()) => {}
        }
    }
    if let Some(room) = best {
        return Placement::On(room.node.clone());
    }
    let reason = if obstacles.iter().all(|(_, obstacle)| *obstacle == Obstacle::Draining) {
        PendingReason::NoExecutorsAvailable
    } else {
        PendingReason::NoResourcesAvailable
    };
    Placement::Wait { reason, obstacles }
}

/// Decides whether one node can take a request now.
///
/// # Errors
/// Returns the first thing that speaks against it.
pub fn admit(rule: &AdmissionRule, request: &Resources, room: &Room) -> Result<(), Obstacle> {
    obstacles(rule, request, room).into_iter().next().map_or(Ok(()), Err)
}

/// Returns everything that speaks against a request.
fn obstacles(rule: &AdmissionRule, request: &Resources, room: &Room) -> Vec<Obstacle> {
    let promised = u64::from(room.cpu_promised.milli()) + u64::from(request.cpu.milli());
    let share = ByteSize::from_bytes(percent(room.memory, rule.memory_reserve_percent));
    let reserve = rule.memory_reserve.max(share);
    let starts = u64::from(room.starts_in_flight) + 1;
    let needed = rule.memory_per_start.bytes().saturating_mul(starts);
    let tests = [
        (Obstacle::Draining, room.draining),
        (Obstacle::TooLarge, request.cpu > room.cpu || request.memory > room.memory),
        (Obstacle::Cpu, promised > u64::from(room.cpu.milli()) * u64::from(rule.cpu_overcommit)),
        (Obstacle::Memory, room.memory_available.saturating_sub(reserve).bytes() < needed),
        (
            Obstacle::Disk,
            room.disk_available.bytes() <= percent(room.disk, rule.disk_reserve_percent),
        ),
        (Obstacle::NoGpu, gpus_short(request, room, |stock| stock.total)),
        (Obstacle::GpuBusy, gpus_short(request, room, |stock| stock.free)),
    ];
    tests.into_iter().filter(|(_, holds)| *holds).map(|(obstacle, _)| obstacle).collect()
}

/// Says whether a node has fewer GPUs of the very model that is asked for.
fn gpus_short(request: &Resources, room: &Room, count: impl Fn(&GpuStock) -> u32) -> bool {
    let Some(wanted) = request.gpus else { return false };
    let stock = room.gpus.iter().find(|stock| stock.model == wanted.model);
    stock.map_or(0, count) < wanted.count
}

/// Decides whether the node of a running sandbox can give it `to` instead of `from`. What does not
/// grow needs no room.
///
/// # Errors
/// Returns the first thing that speaks against it.
pub fn admit_growth(
    rule: &AdmissionRule,
    from: &Resources,
    to: &Resources,
    room: &Room,
) -> Result<(), Obstacle> {
    let without = Room { cpu_promised: room.cpu_promised.saturating_sub(from.cpu), ..room.clone() };
    let request = Resources {
        cpu: if to.cpu > from.cpu { to.cpu } else { MilliCpu::default() },
        memory: if to.memory > from.memory { to.memory } else { ByteSize::default() },
        ..*to
    };
    let matters = |obstacle: Obstacle| match obstacle {
        Obstacle::Draining | Obstacle::TooLarge => true,
        Obstacle::Cpu => to.cpu > from.cpu,
        Obstacle::Memory => to.memory > from.memory,
        Obstacle::Disk => to.disk > from.disk,
        // It keeps those that it has.
        Obstacle::NoGpu | Obstacle::GpuBusy => false,
    };
    match obstacles(rule, &request, &without).into_iter().find(|found| matters(*found)) {
        Some(obstacle) => Err(obstacle),
        None => Ok(()),
    }
}

fn percent(of: ByteSize, percent: u64) -> u64 {
    (of.bytes() / 100).saturating_mul(percent)
}

// === impl AdmissionRule ===

impl Default for AdmissionRule {
    fn default() -> Self {
        Self {
            cpu_overcommit: 16,
            memory_reserve: ByteSize::from_mib(1024),
            memory_reserve_percent: 10,
            memory_per_start: ByteSize::from_mib(64),
            disk_reserve_percent: 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use tarn_types::{GpuModel, Gpus};

    use super::*;

    fn room(change: impl FnOnce(&mut Room)) -> Room {
        let mut room = Room {
            node: NodeId::from_random([1; 16]),
            cpu: MilliCpu::from_milli(2000),
            cpu_promised: MilliCpu::from_milli(0),
            memory: ByteSize::from_mib(8192),
            memory_available: ByteSize::from_mib(4096),
            starts_in_flight: 0,
            disk: ByteSize::from_mib(100_000),
            disk_available: ByteSize::from_mib(50_000),
            draining: false,
            gpus: Vec::new(),
        };
        change(&mut room);
        room
    }

    #[test]
    fn the_admission_table() {
        let mib = ByteSize::from_mib;
        let table: Vec<(&str, Room, Result<(), Obstacle>)> = vec![
            ("idle", room(|_| {}), Ok(())),
            ("draining", room(|r| r.draining = true), Err(Obstacle::Draining)),
            ("small", room(|r| r.memory = mib(512)), Err(Obstacle::TooLarge)),
            ("slow", room(|r| r.cpu = MilliCpu::from_milli(500)), Err(Obstacle::TooLarge)),
            ("31 CPUs of 32", room(|r| r.cpu_promised = MilliCpu::from_milli(31_000)), Ok(())),
            (
                "more than 31 of 32",
                room(|r| r.cpu_promised = MilliCpu::from_milli(31_001)),
                Err(Obstacle::Cpu),
            ),
            ("just the reserve and one start", room(|r| r.memory_available = mib(1088)), Ok(())),
            ("one MiB less", room(|r| r.memory_available = mib(1087)), Err(Obstacle::Memory)),
            (
                "ten percent of a large node",
                room(|r| {
                    r.memory = mib(100_000);
                    r.memory_available = mib(10_000);
                }),
                Err(Obstacle::Memory),
            ),
            (
                "47 starts fit above the reserve, this is the 49th",
                room(|r| r.starts_in_flight = 48),
                Err(Obstacle::Memory),
            ),
            ("pool at its reserve", room(|r| r.disk_available = mib(10_000)), Err(Obstacle::Disk)),
        ];
        for (name, room, expected) in table {
            let decision = admit(&AdmissionRule::default(), &Resources::default(), &room);
            assert_eq!(decision, expected, "{name}");
        }
    }

    #[test]
    fn growth_needs_room_for_what_grows_alone() {
        let mib = ByteSize::from_mib;
        let shape = |milli, memory, disk| Resources {
            cpu: MilliCpu::from_milli(milli),
            memory: mib(memory),
            disk: mib(disk),
            gpus: None,
        };
        let busy = || {
            room(|r| {
                r.cpu_promised = MilliCpu::from_milli(32_000);
                r.memory_available = mib(1000);
                r.disk_available = mib(10_000);
            })
        };
        let from = shape(1000, 1024, 10_240);
        let table: Vec<(&str, Resources, Room, Result<(), Obstacle>)> = vec![
            ("all of it", shape(2000, 2048, 20_480), room(|_| {}), Ok(())),
            ("as it is", from, busy(), Ok(())),
            ("all smaller", shape(500, 512, 10_240), busy(), Ok(())),
            ("more CPU", shape(1001, 512, 10_240), busy(), Err(Obstacle::Cpu)),
            ("more memory", shape(500, 1025, 10_240), busy(), Err(Obstacle::Memory)),
            ("more disk", shape(1000, 1024, 10_241), busy(), Err(Obstacle::Disk)),
            ("too large", shape(2001, 1024, 10_240), room(|_| {}), Err(Obstacle::TooLarge)),
            (
                "its own promise is its own",
                shape(2000, 1024, 10_240),
                room(|r| r.cpu_promised = MilliCpu::from_milli(31_000)),
                Ok(()),
            ),
            ("leaving", from, room(|r| r.draining = true), Err(Obstacle::Draining)),
        ];
        for (name, to, room, expected) in table {
            let decision = admit_growth(&AdmissionRule::default(), &from, &to, &room);
            assert_eq!(decision, expected, "{name}");
        }
    }

    #[test]
    fn the_node_with_most_memory_wins_and_reasons_are_kept() {
        let rule = AdmissionRule::default();
        let request = Resources::default();
        let small = room(|r| r.node = NodeId::from_random([1; 16]));
        let large = room(|r| {
            r.node = NodeId::from_random([2; 16]);
            r.memory_available = ByteSize::from_mib(5000);
        });
        let chosen = place(&rule, &request, &[small, large.clone()]);
        assert_eq!(chosen, Placement::On(large.node));

        let none = place(&rule, &request, &[]);
        let no_nodes = PendingReason::NoExecutorsAvailable;
        assert_eq!(none, Placement::Wait { reason: no_nodes, obstacles: vec![] });

        let full = room(|r| r.disk_available = ByteSize::from_mib(1));
        let waits = place(&rule, &request, std::slice::from_ref(&full));
        let obstacles = vec![(full.node, Obstacle::Disk)];
        let no_room = PendingReason::NoResourcesAvailable;
        assert_eq!(waits, Placement::Wait { reason: no_room, obstacles });
    }
    #[test]
    fn the_table_of_gpus() {
        let model = |name: &str| name.parse::<GpuModel>().expect("a name");
        let stock = |name: &str, total, free| GpuStock { model: model(name), total, free };
        let node = |seed, gpus: Vec<GpuStock>| {
            room(|r| {
                r.node = NodeId::from_random([seed; 16]);
                r.gpus = gpus;
            })
        };
        let one = node(1, vec![stock("H100", 4, 1), stock("A10", 2, 2)]);
        let two = node(2, vec![stock("H100", 2, 2), stock("T4", 1, 0)]);
        let on = |room: &Room| Placement::On(room.node.clone());
        let wait = |obstacles: [Obstacle; 2]| Placement::Wait {
            reason: PendingReason::NoResourcesAvailable,
            obstacles: vec![
                (NodeId::from_random([1; 16]), obstacles[0]),
                (NodeId::from_random([2; 16]), obstacles[1]),
            ],
        };
        let table = [
            ("a model of one node", "A10", 1, on(&one)),
            ("all of it", "A10", 2, on(&one)),
            ("as many as only one node has free", "H100", 2, on(&two)),
            ("either has one: the first", "H100", 1, on(&one)),
            ("busy", "T4", 1, wait([Obstacle::NoGpu, Obstacle::GpuBusy])),
            ("more than are free anywhere", "H100", 4, wait([Obstacle::GpuBusy, Obstacle::NoGpu])),
            ("more than there are", "H100", 5, wait([Obstacle::NoGpu; 2])),
            ("never two nodes together", "H100", 3, wait([Obstacle::GpuBusy, Obstacle::NoGpu])),
            ("a model of nobody", "A100-80GB", 1, wait([Obstacle::NoGpu; 2])),
            ("a like name is another model", "A1", 1, wait([Obstacle::NoGpu; 2])),
            ("so is another case", "h100", 1, wait([Obstacle::NoGpu; 2])),
        ];
        let rooms = [one.clone(), two.clone()];
        for (name, wanted, count, expected) in table {
            let gpus = Some(Gpus { model: model(wanted), count });
            let request = Resources { gpus, ..Resources::default() };
            assert_eq!(place(&AdmissionRule::default(), &request, &rooms), expected, "{name}");
        }
        // Who asks for none is not kept from a node by its GPUs, nor drawn to it.
        let plain = place(&AdmissionRule::default(), &Resources::default(), &rooms);
        assert_eq!(plain, on(&one));
        // A running sandbox keeps its own while it grows, though no other is free.
        let gpus = Some(Gpus { model: model("T4"), count: 1 });
        let had = Resources { gpus, ..Resources::default() };
        let more = Resources { memory: ByteSize::from_mib(2048), ..had };
        assert_eq!(admit_growth(&AdmissionRule::default(), &had, &more, &two), Ok(()));
    }
}
