//! The driver on paused time, over runs that only pretend.

use std::{cell::Cell, rc::Rc};

use tarn_daemon_api::{
    HealthCheckConfig, HealthCheckType, ManagedConfig, ManagedStatus, RestartConfig, RestartPolicy,
    StartRequest,
};
use tokio::{
    sync::watch,
    task::LocalSet,
    time::{Instant, advance, sleep},
};

use super::*;

/// A world in which a run ends when a test says so.
struct Fake {
    began: Instant,
    starts: Cell<u32>,
    refuses_start: Cell<bool>,
    probes: Cell<u32>,
    probe_takes: Cell<Duration>,
    unwell: Cell<bool>,
    terminated: Cell<u32>,
    /// A run ends as soon as it is asked.
    obedient: Cell<bool>,
    killed: Cell<u32>,
    live: watch::Sender<bool>,
}

struct Guest(Rc<Fake>);

struct Stage {
    managed: Rc<Managed>,
    fake: Rc<Fake>,
    commands: mpsc::Sender<Command>,
}

impl Host for Guest {
    fn start(&self) -> Result<(), String> {
        if self.0.refuses_start.get() {
            return Err("no such thing".to_owned());
        }
        assert!(!self.0.live.send_replace(true), "two live runs");
        self.0.starts.set(self.0.starts.get() + 1);
        Ok(())
    }

    async fn pause(&self, pause: Duration) {
        sleep(pause).await;
    }

    async fn wait_end(&self) -> ManagedExit {
        self.wait_empty().await;
        ManagedExit { exit_code: Some(1), signal: None, oom_killed: false, ended_at: 1 }
    }

    fn terminate(&self) {
        self.0.terminated.set(self.0.terminated.get() + 1);
        if self.0.obedient.get() {
            self.0.live.send_replace(false);
        }
    }

    async fn wait_empty(&self) {
        let mut live = self.0.live.subscribe();
        drop(live.wait_for(|live| !live).await);
    }

    async fn kill(&self) {
        self.0.killed.set(self.0.killed.get() + 1);
        self.0.live.send_replace(false);
    }

    async fn probe(&self) -> Result<(), String> {
        self.0.probes.set(self.0.probes.get() + 1);
        sleep(self.0.probe_takes.get()).await;
        if self.0.unwell.get() { Err("unwell".to_owned()) } else { Ok(()) }
    }

    fn probe_limit(&self) -> Duration {
        Duration::from_millis(500)
    }
}

impl Stage {
    /// Drives a process whose first run has just started.
    fn set(policy: RestartPolicy) -> Self {
        let config = ManagedConfig {
            name: Some("web".to_owned()),
            restart: RestartConfig {
                policy,
                max_restarts: None,
                initial_backoff_ms: 500,
                max_backoff_ms: 30_000,
            },
            health_check: Some(HealthCheckConfig {
                kind: HealthCheckType::Tcp,
                port: 1,
                path: None,
                initial_delay_ms: 5000,
                interval_ms: 1000,
                timeout_ms: 500,
                failure_threshold: 3,
            }),
        };
        let managed = Rc::new(Managed::new("web".to_owned(), config, StartRequest::default()));
        let fake = Rc::new(Fake {
            began: Instant::now(),
            starts: Cell::new(1),
            refuses_start: Cell::new(false),
            probes: Cell::new(0),
            probe_takes: Cell::new(Duration::from_millis(1)),
            unwell: Cell::new(false),
            terminated: Cell::new(0),
            obedient: Cell::new(true),
            killed: Cell::new(0),
            live: watch::Sender::new(true),
        });
        let (commands, receiver) = mpsc::channel(MAX_COMMANDS);
        let (driven, guest) = (Rc::clone(&managed), Guest(Rc::clone(&fake)));
        let effects = managed.step(Event::Started);
        tokio::task::spawn_local(async move { run(&driven, &guest, effects, receiver).await });
        Self { managed, fake, commands }
    }

    async fn until_ms(&self, ms: u64) {
        tokio::time::sleep_until(self.fake.began + Duration::from_millis(ms)).await;
    }

    fn status(&self) -> ManagedStatus {
        self.managed.info().status
    }

    fn end_run(&self) {
        self.fake.live.send_replace(false);
    }

    async fn ask(&self, command: Command) {
        self.commands.send(command).await.expect("a driver");
        // Its turn comes before any timer's.
        tokio::task::yield_now().await;
    }
}

/// Runs a test on the thread that tasks without `Send` need.
async fn on_stage(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn a_crashing_run_comes_back_after_growing_pauses() {
    on_stage(async {
        let stage = Stage::set(RestartPolicy::OnFailure);
        let pauses = [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000];
        for (expected, pause) in (1..).zip(pauses) {
            sleep(Duration::from_millis(20)).await;
            assert_eq!(stage.fake.starts.get(), expected);
            let ended = Instant::now();
            stage.end_run();
            sleep(Duration::from_millis(1)).await;
            assert_eq!(stage.status(), ManagedStatus::BackingOff);
            let mut live = stage.fake.live.subscribe();
            live.wait_for(|live| *live).await.expect("it comes back");
            let waited = ended.elapsed();
            assert!(waited.as_millis().abs_diff(pause) < 20, "{pause}: {waited:?}");
        }
        assert_eq!(stage.managed.info().restart_count, 8);
        // What it leaves behind is killed before each restart.
        assert_eq!(stage.fake.killed.get(), 8);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn checks_begin_after_the_delay_and_follow_at_the_interval() {
    on_stage(async {
        let stage = Stage::set(RestartPolicy::OnFailure);
        stage.until_ms(4900).await;
        assert_eq!(stage.fake.probes.get(), 0);
        stage.until_ms(9500).await;
        assert_eq!(stage.fake.probes.get(), 5);
        assert_eq!(stage.managed.info().health_status, tarn_daemon_api::HealthStatus::Healthy);
        assert_eq!(stage.fake.starts.get(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_unwell_or_silent_run_is_killed_at_the_threshold() {
    on_stage(async {
        for silent in [false, true] {
            let stage = Stage::set(RestartPolicy::OnFailure);
            stage.fake.unwell.set(!silent);
            if silent {
                stage.fake.probe_takes.set(Duration::from_secs(3600));
            }
            stage.until_ms(6900).await;
            assert_eq!(stage.fake.killed.get(), 0, "{silent}");
            stage.until_ms(8700).await;
            assert_eq!(stage.fake.killed.get(), 1, "{silent}");
            assert_eq!(stage.fake.terminated.get(), 0);
            stage.until_ms(9300).await;
            assert_eq!(stage.fake.starts.get(), 2, "{silent}");
            let info = stage.managed.info();
            assert_eq!((info.restart_count, info.consecutive_health_failures), (1, 0));
            let error = info.last_error.expect("a cause");
            let cause = if silent { "no answer within 500 ms" } else { "unwell" };
            assert_eq!(error, format!("health check failed (3 in a row): {cause}"));
            stage.ask(Command::Stop).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_jump_of_the_clock_brings_no_burst_and_no_failure() {
    on_stage(async {
        let stage = Stage::set(RestartPolicy::OnFailure);
        stage.until_ms(7500).await;
        let before = stage.fake.probes.get();
        // In the middle of an interval.
        advance(Duration::from_secs(600)).await;
        sleep(Duration::from_millis(900)).await;
        assert!(stage.fake.probes.get() <= before + 1, "no more than one at once");
        // In the middle of a check, which then fails.
        stage.fake.unwell.set(true);
        stage.fake.probe_takes.set(Duration::from_millis(400));
        let probes = stage.fake.probes.get();
        while stage.fake.probes.get() == probes {
            sleep(Duration::from_millis(10)).await;
        }
        advance(Duration::from_secs(600)).await;
        sleep(Duration::from_millis(100)).await;
        stage.fake.unwell.set(false);
        let info = stage.managed.info();
        assert_eq!((info.consecutive_health_failures, info.restart_count), (0, 0));
        // In the middle of a check without an answer: it has its whole time again.
        stage.fake.probe_takes.set(Duration::from_millis(450));
        let probes = stage.fake.probes.get();
        while stage.fake.probes.get() == probes {
            sleep(Duration::from_millis(10)).await;
        }
        advance(Duration::from_secs(600)).await;
        sleep(Duration::from_secs(3)).await;
        let info = stage.managed.info();
        assert_eq!((info.consecutive_health_failures, info.restart_count), (0, 0));
        assert_eq!((stage.fake.starts.get(), stage.fake.killed.get()), (1, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_jump_during_the_pause_brings_one_restart() {
    on_stage(async {
        let stage = Stage::set(RestartPolicy::OnFailure);
        sleep(Duration::from_millis(10)).await;
        stage.end_run();
        sleep(Duration::from_millis(100)).await;
        advance(Duration::from_secs(3600)).await;
        sleep(Duration::from_secs(2)).await;
        assert_eq!((stage.fake.starts.get(), stage.status()), (2, ManagedStatus::Running));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_gentle_for_ten_seconds_of_running_time() {
    on_stage(async {
        let stage = Stage::set(RestartPolicy::Always);
        sleep(Duration::from_millis(10)).await;
        stage.fake.obedient.set(false);
        stage.ask(Command::Stop).await;
        sleep(Duration::from_secs(5)).await;
        // A frozen process can't follow: the standstill is not its time.
        advance(Duration::from_secs(600)).await;
        sleep(Duration::from_millis(4500)).await;
        assert_eq!((stage.fake.terminated.get(), stage.fake.killed.get()), (1, 0));
        assert_eq!(stage.status(), ManagedStatus::Running);
        sleep(Duration::from_secs(2)).await;
        assert_eq!((stage.fake.killed.get(), stage.status()), (1, ManagedStatus::Stopped));
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(stage.fake.starts.get(), 1, "it is not started again");
        assert!(stage.commands.is_closed(), "its driver has gone");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn restarts_are_answered_when_they_were_tried() {
    on_stage(async {
        let stage = Stage::set(RestartPolicy::Always);
        let restart = async || {
            let (answer, answered) = oneshot::channel();
            stage.ask(Command::Restart(answer)).await;
            answered.await
        };
        assert_eq!(restart().await, Ok(Ok(())));
        assert_eq!((stage.fake.starts.get(), stage.fake.terminated.get()), (2, 1));
        stage.fake.refuses_start.set(true);
        assert_eq!(restart().await, Ok(Err("no such thing".to_owned())));
        assert_eq!(stage.status(), ManagedStatus::BackingOff);
        assert_eq!(stage.managed.info().last_error.as_deref(), Some("no such thing"));
        stage.fake.refuses_start.set(false);
        assert_eq!(restart().await, Ok(Ok(())));
        // A stop that comes while the old run ends leaves nothing to wait for.
        stage.fake.obedient.set(false);
        let (answer, answered) = oneshot::channel();
        stage.ask(Command::Restart(answer)).await;
        stage.ask(Command::Stop).await;
        assert!(answered.await.is_err());
        assert_eq!(stage.status(), ManagedStatus::Stopped);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_retired_process_is_not_started_again() {
    on_stage(async {
        let stage = Stage::set(RestartPolicy::Always);
        stage.ask(Command::Retire).await;
        assert_eq!(stage.status(), ManagedStatus::Running);
        stage.end_run();
        sleep(Duration::from_secs(60)).await;
        assert_eq!((stage.status(), stage.fake.starts.get()), (ManagedStatus::Stopped, 1));
    })
    .await;
}
