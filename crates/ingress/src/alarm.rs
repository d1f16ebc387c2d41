//! The limits on time of one connection, all with one timer of the runtime.
//!
//! hyper has a limit for each head that it waits for, and takes it back when the head is there. A
//! timer of the runtime made and removed for each request costs more than its memory: one that is
//! due before all others of the runtime has to wake it, with a system call and one more turn, and
//! on a lane with few clients that is each of them. Here the runtime's timer stays as it was set
//! when a limit is taken back; when it goes off, it is set to the limit of that time.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;

/// Makes the limits of one connection; all of them are for the task that serves it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionTimer {
    alarm: Arc<Mutex<Alarm>>,
}

/// The timer of the runtime, once it was needed.
#[derive(Debug, Default)]
struct Alarm {
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
}

/// One limit.
#[derive(Debug)]
struct Limit {
    deadline: tokio::time::Instant,
    alarm: Arc<Mutex<Alarm>>,
}

// === impl ConnectionTimer ===

impl Timer for ConnectionTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Limit { deadline: deadline.into(), alarm: Arc::clone(&self.alarm) })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }
}

// === impl Alarm ===

impl Alarm {
    fn poll_until(&mut self, deadline: tokio::time::Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

// === impl Limit ===

impl Sleep for Limit {}

impl Future for Limit {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.alarm.lock().poll_until(self.deadline, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn until_after(timer: &ConnectionTimer, after: Duration) -> Pin<Box<dyn Sleep>> {
        timer.sleep_until(timer.now() + after)
    }

    /// Polls once.
    async fn is_over(limit: &mut Pin<Box<dyn Sleep>>) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(limit.as_mut().poll(cx).is_ready())).await
    }

    #[tokio::test(start_paused = true)]
    async fn each_limit_ends_at_its_own_time() {
        let timer = ConnectionTimer::default();
        let begun = tokio::time::Instant::now();
        // Each is later than the one that was taken back before it, and one is earlier.
        for (after, secs) in [(0, 10), (3, 10), (4, 30), (5, 6)] {
            let mut taken_back = until_after(&timer, SECOND * secs);
            assert!(!is_over(&mut taken_back).await);
            drop(taken_back);
            tokio::time::advance(SECOND * after).await;
        }
        let passed = begun.elapsed();
        assert_eq!(passed, SECOND * 12);
        until_after(&timer, SECOND * 20).await;
        assert_eq!(begun.elapsed() - passed, SECOND * 20);
        until_after(&timer, SECOND).await;
        assert_eq!(begun.elapsed() - passed, SECOND * 21);
    }

    #[tokio::test(start_paused = true)]
    async fn the_runtime_s_timer_is_set_again_only_when_it_goes_off() {
        let timer = ConnectionTimer::default();
        let set_to = || timer.alarm.lock().sleep.as_ref().expect("it is set").deadline();
        let begun = tokio::time::Instant::now();
        for second in 0..9 {
            assert!(!is_over(&mut until_after(&timer, SECOND * 10)).await);
            assert_eq!(set_to(), begun + SECOND * 10, "after {second} s");
            tokio::time::advance(SECOND).await;
        }
        let mut last = until_after(&timer, SECOND * 10);
        assert!(!is_over(&mut last).await);
        tokio::time::advance(SECOND).await;
        assert!(!is_over(&mut last).await);
        assert_eq!(set_to(), begun + SECOND * 19);
        last.await;
        assert_eq!(begun.elapsed(), SECOND * 19);
    }
}
