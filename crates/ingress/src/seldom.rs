//! What a busy task waits for beside its work: the end of the server, a limit on time, a sandbox
//! that stops.
//!
//! A `select!` asks all its branches whenever one of them wakes the task. For a connection that is
//! several times a request, and each question takes a lock that all connections share.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;

/// A future that is polled only after it was woken itself.
#[derive(Debug)]
pub(crate) struct Seldom<F> {
    inner: F,
    bell: Arc<Bell>,
    waker: Waker,
}

/// Notes that the future was woken, and wakes the task.
#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

// === impl Seldom ===

impl<F: Future + Unpin> Seldom<F> {
    pub(crate) fn new(inner: F) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        let waker = Waker::from(Arc::clone(&bell));
        Self { inner, bell, waker }
    }
}

impl<F: Future + Unpin> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // First the task: who rings after the look below finds it.
        self.bell.task.register(cx.waker());
        if !self.bell.rung.swap(false, SeqCst) {
            return Poll::Pending;
        }
        let Self { inner, waker, .. } = &mut *self;
        Pin::new(inner).poll(&mut Context::from_waker(waker))
    }
}

// === impl Bell ===

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, SeqCst);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tarn_task::Tasks;
    use tokio::sync::{Notify, oneshot};

    use super::*;

    #[tokio::test]
    async fn it_is_asked_at_first_and_when_it_was_woken() {
        let (tell, mut told) = oneshot::channel::<()>();
        let mut asked = 0;
        let inner = poll_fn(|cx| {
            asked += 1;
            Pin::new(&mut told).poll(cx)
        });
        let mut seldom = Seldom::new(inner);
        let busy = Notify::new();
        for _ in 0..100 {
            busy.notify_one();
            tokio::select! {
                biased;
                _ = &mut seldom => panic!("nobody told"),
                () = busy.notified() => {}
            }
        }
        tell.send(()).expect("it listens");
        seldom.await.expect("told");
        assert_eq!(asked, 2);
    }

    #[tokio::test]
    async fn who_waits_for_it_is_woken_from_elsewhere() {
        let (tell, told) = oneshot::channel();
        let waits = Tasks::new().spawn("waits", Seldom::new(told));
        tokio::task::yield_now().await;
        tell.send(7).expect("it listens");
        let got = tokio::time::timeout(Duration::from_secs(20), waits).await;
        assert_eq!(got.expect("in time").expect("no panic"), Ok(7));
    }
}
