//! `tarnd copy-in` and `tarnd copy-out`: files of an image build into a sandbox and out of it.
//!
//! Ordinary processes of the sandbox, with the rights of whoever starts them: nothing on the host
//! opens a path of a tenant. What they copy comes and goes over one connection to a port that they
//! print, as a line of JSON ([`CopyHead`]) and a tar archive; the two ends of a copy between
//! sandboxes can be joined byte for byte.

mod read;
mod write;

use std::{
    io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::ExitCode,
    time::Duration,
};

use tarn_guest_api::{COPY_ANNOUNCEMENT, CopyHead, CopyIn, CopyOut};

/// How long the other end may be silent.
const SILENCE: Duration = Duration::from_secs(120);

/// The longest first line.
const MAX_HEAD_BYTES: u64 = 4096;

/// A copy that a command line asks for.
pub(crate) enum CopyCommand {
    In(CopyIn),
    Out(CopyOut),
}

// === impl CopyCommand ===

impl CopyCommand {
    /// Reads a command line; `None` means that it asks for no copy.
    pub(crate) fn parse(args: &[String]) -> Option<Result<Self, String>> {
        let [command, ask] = args else { return None };
        let bad = |error: serde_json::Error| format!("{command}: {error}");
        match command.as_str() {
            "copy-in" => Some(serde_json::from_str(ask).map(Self::In).map_err(bad)),
            "copy-out" => Some(serde_json::from_str(ask).map(Self::Out).map_err(bad)),
            _ => None,
        }
    }

    /// Copies; what goes wrong is the last line of standard error.
    pub(crate) fn run(&self) -> ExitCode {
        match self.copy() {
            Ok(()) => ExitCode::SUCCESS,
            Err(said) => {
                drop(writeln!(io::stderr(), "{said}"));
                ExitCode::FAILURE
            }
        }
    }

    fn copy(&self) -> Result<(), String> {
        match self {
            Self::In(ask) => {
                let target = write::Target::new(ask)?;
                let peer = announce().map_err(|error| format!("no connection: {error}"))?;
                let mut peer = BufReader::with_capacity(256 << 10, peer);
                let head = read_head(&mut peer).map_err(|error| format!("no head: {error}"))?;
                target.unpack(&head, peer)
            }
            Self::Out(ask) => {
                let selection = read::Selection::new(&ask.sources)?;
                let peer = announce().map_err(|error| format!("no connection: {error}"))?;
                let mut peer = BufWriter::with_capacity(256 << 10, peer);
                let head = CopyHead { is_one_file: selection.is_one_file };
                write_head(&mut peer, &head).map_err(|error| format!("connection: {error}"))?;
                selection.pack(&mut peer)?;
                peer.flush().map_err(|error| format!("connection: {error}"))
            }
        }
    }
}

/// Prints a port, and takes the one connection to it.
pub(crate) fn announce() -> io::Result<TcpStream> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = listener.local_addr()?.port();
    let mut stdout = io::stdout();
    writeln!(stdout, "{COPY_ANNOUNCEMENT}{port}")?;
    stdout.flush()?;
    // Whoever started this connects at once, or ends it.
    let (peer, _) = listener.accept()?;
    peer.set_read_timeout(Some(SILENCE))?;
    peer.set_write_timeout(Some(SILENCE))?;
    Ok(peer)
}

fn read_head(peer: &mut BufReader<TcpStream>) -> io::Result<CopyHead> {
    let mut line = String::new();
    peer.by_ref().take(MAX_HEAD_BYTES).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

fn write_head(peer: &mut impl Write, head: &CopyHead) -> io::Result<()> {
    serde_json::to_writer(&mut *peer, head)?;
    peer.write_all(b"\n")
}
