//! The table of transitions, and what no sequence of events may bring about.

use proptest::{collection::vec, prelude::*};
use tarn_daemon_api::{HealthCheckConfig, HealthCheckType, RestartConfig, RestartPolicy};

use super::*;

fn config(policy: RestartPolicy, max_restarts: Option<u32>, checked: bool) -> ManagedConfig {
    let (initial_backoff_ms, max_backoff_ms) = (500, 4000);
    ManagedConfig {
        name: None,
        restart: RestartConfig { policy, max_restarts, initial_backoff_ms, max_backoff_ms },
        health_check: checked.then_some(HealthCheckConfig {
            kind: HealthCheckType::Tcp,
            port: 1,
            path: None,
            initial_delay_ms: 5000,
            interval_ms: 1000,
            timeout_ms: 500,
            failure_threshold: 2,
        }),
    }
}

fn at(ms: u64) -> Now {
    Now { elapsed: Duration::from_millis(ms), wall_ms: 1_000_000 + ms }
}

fn exit(code: i32) -> ManagedExit {
    ManagedExit { exit_code: Some(code), signal: None, oom_killed: false, ended_at: 7 }
}

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

const HARD: Effect = Effect::Clear(Manner::Hard);
const GENTLE: Effect = Effect::Clear(Manner::Gentle);

/// One step: when, what happens, what is to be done, what is shown.
type Row = (u64, Event, Vec<Effect>, ManagedStatus);

fn play(machine: &mut Machine, rows: Vec<Row>) {
    for (now, event, effects, status) in rows {
        let case = format!("at {now}: {event:?}");
        assert_eq!(machine.step(event, at(now)), effects, "{case}");
        assert_eq!(machine.phase().status(), status, "{case}");
    }
}

use Event::{
    BackoffOver, Checked, Cleared, Ended, RestartAsked, Retired, StartFailed, Started, StopAsked,
};
use ManagedStatus::{BackingOff, Running, Starting, Stopped};

#[test]
fn a_crash_is_cleaned_up_waited_out_and_restarted() {
    let mut machine = Machine::new(&config(RestartPolicy::OnFailure, Some(2), false));
    assert_eq!(machine.phase().status(), Starting);
    play(
        &mut machine,
        vec![
            (0, Started, vec![], Running),
            (100, Ended(exit(1)), vec![HARD], BackingOff),
            (130, Cleared, vec![Effect::Backoff(ms(470))], BackingOff),
        ],
    );
    assert_eq!(machine.phase().next_restart_at_ms(), Some(1_000_600));
    play(
        &mut machine,
        vec![
            (600, BackoffOver, vec![Effect::Start], Starting),
            (600, Started, vec![], Running),
            (700, Ended(exit(2)), vec![HARD], BackingOff),
            // A tree that takes longer than the pause.
            (5000, Cleared, vec![Effect::Backoff(ms(0))], BackingOff),
            (5000, BackoffOver, vec![Effect::Start], Starting),
            (5000, Started, vec![], Running),
        ],
    );
    assert_eq!((machine.restart_count(), machine.last_exit()), (2, Some(exit(2))));
    play(&mut machine, vec![(9999, Ended(exit(3)), vec![], Stopped)]);
    assert_eq!((machine.restart_count(), machine.last_exit()), (2, Some(exit(3))));
    assert_eq!(machine.phase().next_restart_at_ms(), None);
}

#[test]
fn a_good_end_is_the_end_on_failure_and_none_always() {
    let mut machine = Machine::new(&config(RestartPolicy::OnFailure, None, false));
    play(&mut machine, vec![(0, Started, vec![], Running), (1, Ended(exit(0)), vec![], Stopped)]);
    let mut machine = Machine::new(&config(RestartPolicy::Always, None, false));
    play(
        &mut machine,
        vec![(0, Started, vec![], Running), (1, Ended(exit(0)), vec![HARD], BackingOff)],
    );
}

#[test]
fn a_stop_waits_for_run_and_tree_whatever_comes_first() {
    for order in [[Cleared, Ended(exit(0))], [Ended(exit(0)), Cleared]] {
        let [first, second] = order;
        let mut machine = Machine::new(&config(RestartPolicy::Always, None, false));
        play(
            &mut machine,
            vec![
                (0, Started, vec![], Running),
                (1, StopAsked, vec![GENTLE], Running),
                (2, StopAsked, vec![], Running),
                (3, first, vec![], Running),
                (4, second, vec![], Stopped),
                (5, StopAsked, vec![], Stopped),
            ],
        );
    }
}

#[test]
fn a_restart_by_request_works_from_everywhere() {
    let mut machine = Machine::new(&config(RestartPolicy::Never, None, false));
    play(
        &mut machine,
        vec![
            (0, Started, vec![], Running),
            (1, RestartAsked, vec![GENTLE], Running),
            (2, Ended(exit(0)), vec![], Starting),
            (3, Cleared, vec![Effect::Start], Starting),
            (3, Started, vec![], Running),
            (4, Ended(exit(0)), vec![], Stopped),
            // What it left behind could hold the port.
            (5, RestartAsked, vec![HARD], Starting),
            (5, Cleared, vec![Effect::Start], Starting),
            (5, StartFailed("no".to_owned()), vec![], Stopped),
        ],
    );
    assert_eq!((machine.restart_count(), machine.last_error()), (2, Some("no")));
    let mut machine = Machine::new(&config(RestartPolicy::Always, Some(1), false));
    play(
        &mut machine,
        vec![
            (0, Started, vec![], Running),
            (1, Ended(exit(0)), vec![HARD], BackingOff),
            (1, RestartAsked, vec![], Starting),
            (1, Cleared, vec![Effect::Start], Starting),
            (1, Started, vec![], Running),
            (2, Ended(exit(0)), vec![HARD], BackingOff),
            (2, Cleared, vec![Effect::Backoff(ms(500))], BackingOff),
            (3, RestartAsked, vec![Effect::Start], Starting),
            (3, StartFailed("no".to_owned()), vec![Effect::Backoff(ms(500))], BackingOff),
            (503, BackoffOver, vec![Effect::Start], Starting),
            (503, StartFailed("no".to_owned()), vec![], Stopped),
        ],
    );
}

#[test]
fn the_last_request_wins() {
    let mut machine = Machine::new(&config(RestartPolicy::Always, None, false));
    play(
        &mut machine,
        vec![
            (0, Started, vec![], Running),
            (1, RestartAsked, vec![GENTLE], Running),
            (2, StopAsked, vec![], Running),
            (3, Ended(exit(0)), vec![], Running),
            (4, RestartAsked, vec![], Starting),
            (5, Cleared, vec![Effect::Start], Starting),
            (5, Started, vec![], Running),
            (6, Ended(exit(1)), vec![HARD], BackingOff),
            (7, StopAsked, vec![], Running),
            (8, Cleared, vec![], Stopped),
        ],
    );
}

#[test]
fn an_unwell_run_is_killed_and_counted_as_a_failure() {
    let failed = || Checked(Check::Failed("refused".to_owned()));
    let mut machine = Machine::new(&config(RestartPolicy::OnFailure, Some(1), true));
    let next = || vec![Effect::Check(ms(1000))];
    play(
        &mut machine,
        vec![
            (0, Started, vec![Effect::Check(ms(5000))], Running),
            (5000, failed(), next(), Running),
            (6000, Checked(Check::Passed), next(), Running),
            (7000, failed(), next(), Running),
            // Says nothing: neither a second failure nor the end of the first.
            (8000, Checked(Check::Void), next(), Running),
        ],
    );
    assert_eq!((machine.health_status(), machine.health_failures()), (HealthStatus::Unhealthy, 1));
    play(
        &mut machine,
        vec![
            (9000, failed(), vec![HARD], Running),
            (9001, Cleared, vec![], Running),
            (9002, Ended(exit(137)), vec![Effect::Backoff(ms(498))], BackingOff),
            (9500, BackoffOver, vec![Effect::Start], Starting),
            (9500, Started, vec![Effect::Check(ms(5000))], Running),
        ],
    );
    assert_eq!(machine.last_error(), Some("health check failed (2 in a row): refused"));
    assert_eq!((machine.health_status(), machine.health_failures()), (HealthStatus::Starting, 0));
    play(
        &mut machine,
        vec![
            (14_500, failed(), next(), Running),
            (15_500, failed(), vec![HARD], Running),
            (15_501, Ended(exit(137)), vec![], Running),
            (15_502, Cleared, vec![], Stopped),
        ],
    );
    assert_eq!((machine.restart_count(), machine.health_status()), (1, HealthStatus::Unhealthy));
}

#[test]
fn the_sandbox_ends_without_restarts() {
    let mut machine = Machine::new(&config(RestartPolicy::Always, None, false));
    play(
        &mut machine,
        vec![
            (0, Started, vec![], Running),
            (1, Retired, vec![], Running),
            (2, Ended(exit(143)), vec![], Stopped),
        ],
    );
    let mut machine = Machine::new(&config(RestartPolicy::Always, None, false));
    play(
        &mut machine,
        vec![
            (0, Started, vec![], Running),
            (1, Ended(exit(1)), vec![HARD], BackingOff),
            (2, Cleared, vec![Effect::Backoff(ms(499))], BackingOff),
            (3, Retired, vec![], Stopped),
        ],
    );
}

#[derive(Clone, Debug)]
enum Happening {
    Ends(i32),
    Clears,
    PauseOver,
    Checks(Check),
    Stop,
    Restart,
    Retire,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (0..2).prop_map(Happening::Ends),
        6 => Just(Happening::Clears),
        6 => Just(Happening::PauseOver),
        2 => Just(Happening::Checks(Check::Passed)),
        4 => Just(Happening::Checks(Check::Failed("x".to_owned()))),
        1 => Just(Happening::Checks(Check::Void)),
        1 => Just(Happening::Stop),
        1 => Just(Happening::Restart),
        1 => Just(Happening::Retire),
    ]
}

/// The world around a machine, as the driver lets it act: only what is armed can happen.
#[derive(Default)]
struct World {
    live: bool,
    clearing: bool,
    pausing: bool,
    checking: bool,
    asked: u32,
    last_pause: Duration,
}

impl World {
    fn perform(&mut self, machine: &mut Machine, event: Event, now: Now, starts: bool) {
        let before = std::mem::discriminant(&machine.phase());
        let effects = machine.step(event, now);
        if before != std::mem::discriminant(&machine.phase()) {
            (self.clearing, self.pausing, self.checking) = (false, false, false);
        }
        for effect in effects {
            match effect {
                Effect::Start => {
                    assert!(!self.live, "two live runs");
                    self.live = starts;
                    let answer = if starts { Started } else { StartFailed("x".to_owned()) };
                    self.perform(machine, answer, now, starts);
                }
                Effect::Check(_) => self.checking = true,
                Effect::Clear(_) => self.clearing = true,
                Effect::Backoff(pause) => {
                    assert!(!self.live, "a pause beside a live run");
                    assert!(pause <= ms(4000));
                    (self.pausing, self.last_pause) = (true, pause);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn no_sequence_breaks_the_promises(
        happenings in vec((happening(), 0_u64..9000, any::<bool>()), 0..80),
        policy in prop_oneof![
            Just(RestartPolicy::Never), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Always)
        ],
        max in proptest::option::of(0_u32..4),
    ) {
        let mut machine = Machine::new(&config(policy, max, true));
        let mut world = World { live: true, ..World::default() };
        let mut now = at(0);
        let mut automatic = 0;
        world.perform(&mut machine, Started, now, true);
        for (happening, later, starts) in happenings {
            now = at(now.wall_ms - 1_000_000 + later);
            let before = machine.restart_count();
            let event = match happening {
                Happening::Ends(code) if world.live => {
                    world.live = false;
                    Ended(exit(code))
                }
                Happening::Clears if world.clearing => {
                    world.clearing = false;
                    Cleared
                }
                Happening::PauseOver if world.pausing => BackoffOver,
                Happening::Checks(check) if world.checking => Checked(check),
                Happening::Stop => StopAsked,
                Happening::Restart => RestartAsked,
                Happening::Retire => Retired,
                Happening::Ends(_) | Happening::Clears | Happening::PauseOver
                    | Happening::Checks(_) => continue,
            };
            if event == RestartAsked {
                (world.asked, automatic) = (world.asked + 1, 0);
            } else if event == BackoffOver {
                automatic += machine.restart_count() + 1 - before;
            }
            world.perform(&mut machine, event, now, starts);
            prop_assert!(max.is_none_or(|max| automatic <= max), "more restarts than allowed");
            match machine.phase() {
                Phase::Running { .. } => prop_assert!(world.live),
                Phase::Ending { ended, cleared, .. } => {
                    prop_assert_eq!(ended, !world.live);
                    prop_assert!(world.clearing || cleared, "nothing would ever happen");
                }
                Phase::BackingOff(_) => prop_assert!(world.pausing && !world.live),
                Phase::Stopped => prop_assert!(!world.live, "a live run that nobody watches"),
                Phase::Starting => prop_assert!(false, "a start is answered at once"),
            }
        }
    }

    #[test]
    fn the_pause_only_grows_while_runs_are_short(ran in vec(0_u64..4000, 1..40)) {
        let mut machine = Machine::new(&config(RestartPolicy::Always, None, false));
        let mut world = World { live: true, ..World::default() };
        let (mut ms_now, mut last) = (0, Duration::ZERO);
        world.perform(&mut machine, Started, at(0), true);
        for ran in ran {
            ms_now += ran;
            world.live = false;
            world.perform(&mut machine, Ended(exit(1)), at(ms_now), true);
            world.perform(&mut machine, Cleared, at(ms_now), true);
            prop_assert!(world.last_pause >= last && world.last_pause <= ms(4000));
            last = world.last_pause;
            world.perform(&mut machine, BackoffOver, at(ms_now), true);
        }
    }
}
