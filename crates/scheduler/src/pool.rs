//! How many containers a pool has, as a pure function of what it has and what it should have.
//!
//! Claims come first: a claim that waits gets the next container, and a container that waits to be
//! claimed is started only when no claim does. Whatever is not claimed yet can be ended.

/// What a pool should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolRule {
    /// How many containers wait to be claimed.
    pub warm: u32,
    /// How many containers there may be; `None` = any number.
    pub max: Option<u32>,
    /// How many that wait to be claimed are started at once, so that filling a pool leaves room
    /// for what somebody waits for.
    pub starts: u32,
}

/// One of a pool's: a container, or a claim that has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolPlace {
    /// It was started with another definition than the pool's, and nobody has claimed it.
    Outdated,
    /// It is being started, and nobody has claimed it.
    Starting,
    /// It waits to be claimed.
    Idle,
    /// It is claimed, and has a container.
    Claimed,
    /// It is claimed, and has none: it waits for one.
    Waiting,
    /// It is claimed and suspended, and so has none.
    Suspended,
}

/// What is to be done about a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolPlan<T> {
    /// These containers go.
    pub end: Vec<T>,
    /// These claims get a container, in this order.
    pub place: Vec<T>,
    /// These claims wait until the pool has fewer containers.
    pub hold: Vec<T>,
    /// So many containers more are started, unless a claim that may have one finds no room.
    pub start: u32,
}

/// Says what is to be done about a pool whose members are these, oldest first.
#[must_use]
pub fn pool<T: Clone>(rule: &PoolRule, members: &[(T, PoolPlace)]) -> PoolPlan<T> {
    let all = |wanted: PoolPlace| {
        members.iter().filter(move |(_, place)| *place == wanted).map(|(one, _)| one.clone())
    };
    let max = rule.max.map_or(usize::MAX, |max| max as usize);
    let mut end: Vec<T> = all(PoolPlace::Outdated).collect();
    let mut place: Vec<T> = all(PoolPlace::Waiting).collect();
    let claimed = all(PoolPlace::Claimed).count();
    let hold = place.split_off(place.len().min(max.saturating_sub(claimed)));
    // What the claims leave, and no more than is wanted.
    let warm = (rule.warm as usize).min(max.saturating_sub(claimed + place.len()));
    // The best are kept: idle ones, the older first.
    let unclaimed: Vec<T> = all(PoolPlace::Idle).chain(all(PoolPlace::Starting)).collect();
    end.extend(unclaimed.iter().skip(warm).cloned());
    let missing = warm.saturating_sub(unclaimed.len());
    let may_start = (rule.starts as usize).saturating_sub(all(PoolPlace::Starting).count());
    let start = if hold.is_empty() { missing.min(may_start) } else { 0 };
    PoolPlan { end, place, hold, start: u32::try_from(start).unwrap_or(u32::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads members from letters, and writes a plan as words with their places.
    fn check(warm: u32, max: Option<u32>, members: &str, expected: &str) {
        let place = |letter| match letter {
            'o' => PoolPlace::Outdated,
            's' => PoolPlace::Starting,
            'i' => PoolPlace::Idle,
            'C' => PoolPlace::Claimed,
            'W' => PoolPlace::Waiting,
            'Z' => PoolPlace::Suspended,
            other => unreachable!("{other}"),
        };
        let numbered: Vec<_> = members.chars().map(place).enumerate().collect();
        let rule = PoolRule { warm, max, starts: 4 };
        let plan = pool(&rule, &numbered);
        let list = |word: &str, places: &[usize]| {
            let places: Vec<_> = places.iter().map(ToString::to_string).collect();
            if places.is_empty() { String::new() } else { format!("{word} {} ", places.join(",")) }
        };
        let text = [
            list("end", &plan.end),
            list("place", &plan.place),
            list("hold", &plan.hold),
            if plan.start == 0 { String::new() } else { format!("start {}", plan.start) },
        ];
        assert_eq!(text.concat().trim_end(), expected, "warm {warm}, max {max:?}, `{members}`");
        // Nothing is ended that somebody has claimed, and what is planned is allowed.
        assert!(plan.end.iter().all(|at| "osi".contains(&members[*at..=*at])));
        let claimed = members.matches('C').count();
        let stays = members.matches(['s', 'i', 'o']).count() - plan.end.len();
        let then = claimed + stays + plan.place.len() + plan.start as usize;
        assert!(max.is_none_or(|max| then <= claimed.max(max as usize)), "{plan:?}");
    }

    #[test]
    fn the_pool_table() {
        let table: &[(u32, Option<u32>, &str, &str)] = &[
            // Filling, at most four at once.
            (0, None, "", ""),
            (2, None, "", "start 2"),
            (9, None, "", "start 4"),
            (9, None, "ssss", ""),
            (9, None, "iisss", "start 1"),
            (3, None, "iii", ""),
            // A claim is replaced until the maximum is reached.
            (2, None, "CCCi", "start 1"),
            (2, Some(3), "Ci", "start 1"),
            (2, Some(3), "CCi", ""),
            (2, Some(3), "CCC", ""),
            // The end of a claimed one makes room again; a suspended one takes none.
            (2, Some(2), "CZi", ""),
            (2, Some(2), "ZZZ", "start 2"),
            // Lower numbers shrink what nobody has claimed, the youngest first; starting ones
            // before idle ones.
            (1, None, "iii", "end 1,2"),
            (1, None, "sis", "end 0,2"),
            (0, None, "iCi", "end 0,2"),
            (3, Some(3), "CCiii", "end 3,4"),
            (3, Some(1), "CCi", "end 2"),
            // Another definition replaces them.
            (2, None, "oo", "end 0,1 start 2"),
            (2, Some(2), "oCo", "end 0,2 start 1"),
            (2, None, "oi", "end 0 start 1"),
            // Claims that wait come first, and wait at the maximum.
            (0, None, "W", "place 0"),
            (1, None, "CW", "place 1 start 1"),
            (1, Some(2), "CCW", "hold 2"),
            (1, Some(2), "CWW", "place 1 hold 2"),
            (2, Some(3), "CWs", "place 1"),
            (2, Some(2), "CWi", "end 2 place 1"),
            (1, Some(3), "CZWWW", "place 2,3 hold 4"),
            (1, Some(1), "CCW", "hold 2"),
        ];
        for (warm, max, members, expected) in table {
            check(*warm, *max, members, expected);
        }
    }
}
