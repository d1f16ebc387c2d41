//! Hears what the kernel tells.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::sleep};

use super::{Bell, NetLogs};
use crate::netlink::{Heard, NetlinkError, NoteSocket};

/// What is heard in one go; others get their turn then.
const TURN: usize = 64;
/// What is heard before a pause: a flood of notes takes no more than a part of one CPU. What does
/// not fit into the socket meanwhile is lost and counted.
const ROUND: usize = 1024;
const PAUSE: Duration = Duration::from_millis(5);
/// More than the socket holds: whoever asked before this much was heard has been served.
const MOST_WAITING: usize = 16_384;

/// How far a round came.
enum Round {
    /// Everything is heard.
    Through,
    /// So much is heard, and there is more.
    Heard(usize),
}

/// Hears until shutdown, or until the socket fails.
pub(crate) async fn listen(
    mut socket: NoteSocket,
    logs: Arc<NetLogs>,
    mut bells: mpsc::Receiver<Bell>,
    stopping: impl Future<Output = ()>,
) {
    let mut stopping = std::pin::pin!(stopping);
    let failed = |error: &dyn std::fmt::Display| {
        tracing::error!(%error, "the kernel is no longer heard: network logs stay as they are");
    };
    let (mut waiting, mut heard) = (Vec::new(), 0);
    loop {
        tokio::select! {
            () = &mut stopping => return,
            bell = bells.recv() => match bell {
                Some(bell) => waiting.push((bell, heard)),
                None => return,
            },
            told = socket.told() => if let Err(error) = told { return failed(&error) },
        }
        loop {
            while let Ok(bell) = bells.try_recv() {
                waiting.push((bell, heard));
            }
            let through = match round(&mut socket, &logs).await {
                Ok(Round::Through) => true,
                Ok(Round::Heard(count)) => {
                    heard += count;
                    false
                }
                Err(error) => return failed(&error),
            };
            for (bell, _) in waiting.extract_if(.., |(_, at)| through || heard - *at > MOST_WAITING)
            {
                // Who asked may have gone.
                bell.send(()).ok();
            }
            if through {
                break;
            }
            sleep(PAUSE).await;
        }
    }
}

async fn round(socket: &mut NoteSocket, logs: &NetLogs) -> Result<Round, NetlinkError> {
    for _ in 0..ROUND / TURN {
        for _ in 0..TURN {
            match socket.hear()? {
                Heard::Notes(notes) => logs.take(notes),
                // How much is known by the number of the next note.
                Heard::Lost => {}
                Heard::Nothing => return Ok(Round::Through),
            }
        }
        tokio::task::yield_now().await;
    }
    Ok(Round::Heard(ROUND))
}
