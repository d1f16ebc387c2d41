//! `tarn ca`: what clients are to trust, and how.

use clap::Args;

use crate::{config::DataDir, tls};

/// What `tarn ca` takes.
#[derive(Debug, Args)]
pub(crate) struct CaArgs {
    /// Print the certificate itself, for a file on another machine.
    #[arg(long)]
    pem: bool,
}

/// Prints the certificate of the local CA, or where it is and how clients come to trust it.
pub(crate) fn run(args: &CaArgs, data: &DataDir) -> anyhow::Result<()> {
    let authority = tls::authority(&data.root)?;
    let text = if args.pem { authority.pem().to_owned() } else { tls::how_to_trust(&authority) };
    Ok(tarn_cli::print(text.as_bytes())?)
}
