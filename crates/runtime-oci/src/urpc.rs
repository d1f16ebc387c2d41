//! Calls to a sentry over its control socket.
//!
//! A request in JSON, descriptors riding on its first byte, one answer in JSON, then the next. The
//! sentry finishes a call that it has read even when the caller is gone.
//!
//! The connection is kept. A sentry that has no memory left for a new one never accepts any again:
//! its server ends at the first failure. Who is connected by then is served.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use parking_lot::Mutex;
use rustix::{
    cmsg_space,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::UnixStream,
};

use crate::command::MOST_DETAIL;

/// The most descriptors that a call of ours takes along.
const MOST_FILES: usize = 3;

/// The longest answer: the stacks of some ten thousand threads. A sentry may be the tenant's.
const MOST_REPLY: usize = 64 << 20;

/// Why a call came to nothing.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    /// The sentry did not answer; it may have done what was asked.
    #[error("the sentry does not answer")]
    Lost(#[source] io::Error),
    /// The sentry answered that it failed.
    #[error("{0}")]
    Refused(String),
}

/// A connection to a sentry, made when it is first wanted and kept.
#[derive(Debug)]
pub(crate) struct Caller {
    socket: PathBuf,
    /// Absent while a call is under way, and after one that was cut short: what is read next
    /// would be its answer.
    idle: Mutex<Option<UnixStream>>,
}

#[derive(Serialize)]
struct Request<'a, A> {
    method: &'a str,
    arg: &'a A,
}

#[derive(Deserialize)]
struct Reply<R> {
    success: bool,
    #[serde(default)]
    err: String,
    result: Option<R>,
}

// === impl Caller ===

impl Caller {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, idle: Mutex::default() }
    }

    /// Connects, unless it is connected. A call does so itself; this is for doing it in time.
    pub(crate) async fn connect(&self) -> io::Result<()> {
        let stream = self.connection().await?;
        *self.idle.lock() = Some(stream);
        Ok(())
    }

    /// Calls a method and returns its result, if it has one. Takes as long as the sentry does.
    pub(crate) async fn call<A: Serialize, R: DeserializeOwned>(
        &self,
        method: &str,
        arg: &A,
        files: &[OwnedFd],
    ) -> Result<Option<R>, CallError> {
        let request = serde_json::to_vec(&Request { method, arg }).map_err(io::Error::from);
        let request = request.map_err(CallError::Lost)?;
        let mut stream = self.connection().await.map_err(CallError::Lost)?;
        let reply = exchange(&mut stream, &request, files).await.map_err(CallError::Lost)?;
        *self.idle.lock() = Some(stream);
        let reply: Reply<R> = serde_json::from_slice(&reply)
            .map_err(|error| CallError::Lost(io::Error::new(io::ErrorKind::InvalidData, error)))?;
        if reply.success { Ok(reply.result) } else { Err(CallError::Refused(brief(&reply.err))) }
    }

    /// Takes the idle connection, or makes another.
    async fn connection(&self) -> io::Result<UnixStream> {
        let idle = self.idle.lock().take();
        match idle {
            Some(stream) => Ok(stream),
            None => UnixStream::connect(&self.socket).await,
        }
    }
}

/// Shortens what a sentry says: what it failed at and why, without what it failed with.
///
/// A checkpoint that finds no room answers with the object that it was writing, which may be the
/// sandbox's memory, byte for byte, and with its stack.
fn brief(said: &str) -> String {
    let line = said.lines().next().unwrap_or_default().trim_end_matches([':', ' ']);
    let line = match (line.find('{'), line.rfind('}')) {
        (Some(from), Some(to)) if from < to => {
            let (before, after) = (line.get(..from), line.get(to..));
            format!("{}{{…{}", before.unwrap_or_default(), after.unwrap_or_default())
        }
        // It goes on in lines that are not shown.
        (Some(from), None) => format!("{}{{…", line.get(..from).unwrap_or_default()),
        (Some(_) | None, Some(_)) | (None, None) => line.to_owned(),
    };
    line.chars().take(MOST_DETAIL).collect()
}

async fn exchange(
    stream: &mut UnixStream,
    request: &[u8],
    files: &[OwnedFd],
) -> io::Result<Vec<u8>> {
    let sent = stream
        .async_io(Interest::WRITABLE, || {
            let descriptors: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_FILES))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty()
                && !control.push(SendAncillaryMessage::ScmRights(&descriptors))
            {
                return Err(io::Error::other("too many descriptors for one call"));
            }
            Ok(sendmsg(&*stream, &[IoSlice::new(request)], &mut control, SendFlags::NOSIGNAL)?)
        })
        .await?;
    stream.write_all(request.get(sent..).unwrap_or_default()).await?;
    let mut reply = Vec::new();
    while !is_whole(&reply) {
        if stream.read_buf(&mut reply).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if reply.len() > MOST_REPLY {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer has no end"));
        }
    }
    Ok(reply)
}

/// Says whether an answer is all there. What follows it is a call's that was not made.
fn is_whole(reply: &[u8]) -> bool {
    // Not read through each time that a part of it comes.
    reply.trim_ascii_end().ends_with(b"}") && serde_json::from_slice::<IgnoredAny>(reply).is_ok()
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read as _};

    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    use serde_json::{Value, json};
    use tokio::net::UnixListener;

    use super::*;

    /// Answers one call, and returns what was asked and the content of the files that came along.
    async fn serve(listener: UnixListener, answer: &'static [u8]) -> (Value, Vec<String>) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut first = [0; 1];
        let mut files = Vec::new();
        stream
            .async_io(Interest::READABLE, || {
                let mut space = nix::cmsg_space!([i32; MOST_FILES]);
                let mut buffers = [io::IoSliceMut::new(&mut first)];
                let fd = std::os::fd::AsRawFd::as_raw_fd(&stream);
                let got = recvmsg::<()>(fd, &mut buffers, Some(&mut space), MsgFlags::empty())?;
                for message in got.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(fds) = message {
                        files.extend(fds);
                    }
                }
                Ok(())
            })
            .await
            .unwrap();
        let mut rest = first.to_vec();
        while !is_whole(&rest) {
            assert_ne!(stream.read_buf(&mut rest).await.unwrap(), 0, "{rest:?}");
        }
        // It comes in parts.
        for part in answer.chunks(9) {
            stream.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        let read = |fd| {
            let mut text = String::new();
            File::open(format!("/proc/self/fd/{fd}")).unwrap().read_to_string(&mut text).unwrap();
            text
        };
        (serde_json::from_slice(&rest).unwrap(), files.into_iter().map(read).collect())
    }

    async fn ask(
        answer: &'static [u8],
        files: &[OwnedFd],
    ) -> (Result<Option<u32>, CallError>, Value, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let (caller, arg) = (Caller::new(socket), json!({ "a": 1 }));
        let (got, (asked, came)) =
            tokio::join!(caller.call("m.Do", &arg, files), serve(listener, answer));
        (got, asked, came)
    }

    #[tokio::test]
    async fn a_call_carries_its_argument_and_files_and_brings_the_result() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, name).unwrap();
            OwnedFd::from(File::open(path).unwrap())
        };
        let files = [file("x"), file("y"), file("z")];
        let (got, asked, came) = ask(br#"{"success":true,"err":"","result":7}"#, &files).await;
        assert_eq!(got.unwrap(), Some(7));
        assert_eq!(asked, json!({ "method": "m.Do", "arg": { "a": 1 } }));
        assert_eq!(came, ["x", "y", "z"]);
    }

    #[test]
    fn what_a_sentry_says_is_made_short() {
        let long = "x".repeat(MOST_DETAIL + 1);
        for (said, expected) in [
            ("", ""),
            ("no such container", "no such container"),
            ("a } before a {", "a } before a {"),
            ("cannot write {0xcf\n0x3d}: no space", "cannot write {…"),
            (
                "error serializing object &wire.Array{Contents:[]wire.Object{0xcf, 0x3d}}: no \
                 space left on device:\ngoroutine 79 [running]:\nmain.save({0x7f})\n",
                "error serializing object &wire.Array{…}: no space left on device",
            ),
            (long.as_str(), &long[1..]),
        ] {
            assert_eq!(brief(said), expected, "{said}");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_told_from_silence() {
        let (got, _, came) = ask(br#"{"success":false,"err":"no","result":null}"#, &[]).await;
        assert!(matches!(got, Err(CallError::Refused(text)) if text == "no"));
        assert!(came.is_empty());
        for broken in [&b""[..], b"{\"succ"] {
            assert!(matches!(ask(broken, &[]).await.0, Err(CallError::Lost(_))));
        }
        let caller = Caller::new("/no/socket".into());
        let nobody: Result<Option<u32>, _> = caller.call("m", &(), &[]).await;
        assert!(matches!(nobody, Err(CallError::Lost(_))));
    }

    #[tokio::test]
    async fn a_connection_is_kept_but_not_past_a_call_that_was_cut_short() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let caller = Caller::new(socket);
        caller.connect().await.unwrap();
        caller.connect().await.unwrap();
        let (mut served, _) = listener.accept().await.unwrap();
        let mut asked = vec![0; 1024];
        for number in [1, 2] {
            let answer = async {
                let length = served.read(&mut asked).await.unwrap();
                assert!(is_whole(&asked[..length]));
                let reply = format!(r#"{{"success":true,"result":{number}}}"#);
                served.write_all(reply.as_bytes()).await.unwrap();
            };
            let (got, ()) = tokio::join!(caller.call::<_, u32>("m", &(), &[]), answer);
            assert_eq!(got.unwrap(), Some(number));
        }
        tokio::select! {
            biased;
            got = caller.call::<_, u32>("m", &(), &[]) => panic!("nobody answered {got:?}"),
            length = served.read(&mut asked) => assert_ne!(length.unwrap(), 0),
        }
        // Had it been kept, this would be taken for the answer to the next.
        drop(served.write_all(br#"{"success":true,"result":3}"#).await);
        let answer = async {
            let (mut served, _) = listener.accept().await.unwrap();
            served.write_all(br#"{"success":true,"result":4}"#).await.unwrap();
            served
        };
        let (got, _served) = tokio::join!(caller.call::<_, u32>("m", &(), &[]), answer);
        assert_eq!(got.unwrap(), Some(4));
    }
}
