//! The command line.
//!
//! In a sandbox there is none: the arguments of PID 1 are part of every memory snapshot, so they
//! are fixed for ever and everything else comes by `init`. The options are for tests.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use tarn_guest_api::PORT;

use crate::daemon::InternalPeers;

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// Who may call the private routes.
    pub(crate) internal_peers: InternalPeers,
    /// Whether to print the address once listening.
    pub(crate) announce: bool,
}

const USAGE: &str = "usage: tarnd [--listen ADDRESS:PORT] [--allow-internal-from-loopback]";

// === impl Options ===

impl Options {
    /// Parses the arguments, without the program's name.
    pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            listen: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT).into(),
            internal_peers: InternalPeers::Gateway,
            announce: false,
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--listen" => {
                    let address = args.next().and_then(|text| text.parse().ok());
                    options.listen = address.ok_or(USAGE)?;
                    options.announce = true;
                }
                "--allow-internal-from-loopback" => {
                    options.internal_peers = InternalPeers::GatewayAndLoopback;
                }
                _ => return Err(format!("unknown argument '{arg}'; {USAGE}")),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, String> {
        Options::parse(args.iter().map(|arg| (*arg).to_owned()))
    }

    #[test]
    fn in_a_sandbox_there_are_no_arguments() {
        let options = parse(&[]).expect("no arguments");
        assert_eq!(options.listen.to_string(), "0.0.0.0:9501");
        assert_eq!(options.internal_peers, InternalPeers::Gateway);
        assert!(!options.announce);
    }

    #[test]
    fn tests_choose_address_and_peers() {
        let options = parse(&["--listen", "127.0.0.1:0", "--allow-internal-from-loopback"]);
        let options = options.expect("good arguments");
        assert_eq!(options.listen.to_string(), "127.0.0.1:0");
        assert_eq!(options.internal_peers, InternalPeers::GatewayAndLoopback);
        assert!(options.announce);
    }

    #[test]
    fn anything_else_is_refused() {
        for args in [&["--listen"][..], &["--listen", "x"], &["serve"], &["--help"]] {
            assert!(parse(args).is_err(), "{args:?}");
        }
    }
}
