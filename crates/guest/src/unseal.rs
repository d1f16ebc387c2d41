//! `unseal`: a daemon learns who goes on with its memory.
//!
//! Nothing is changed until everything was found usable, so a refused `unseal` leaves it sealed,
//! and a better one may follow.
//!
//! What the sandbox and another one made from its memory must not share is dealt with here, as far
//! as the daemon has it: the token, open connections, randomness, and lines of output that the
//! first one has yet to hand over. It remembers no time of day but stamps of what was, so there is
//! no clock to set. The marks by which processes are known (`TARN_PROCESS_ID`, see
//! [`crate::process::census`]) stay as they are: running processes carry them.

use tarn_guest_api::{Continues, PROTOCOL, UnsealRequest, UnsealResponse, code};

use crate::{
    daemon::{Daemon, Opened, VERSION},
    http::{ApiError, Connection},
    init::{check_env, check_protocol, check_token, decode_entropy},
};

/// Opens a sealed daemon again, for a request that came with the token.
pub(crate) fn unseal(
    daemon: &Daemon,
    opened: &Opened,
    connection: &Connection,
    request: UnsealRequest,
) -> Result<UnsealResponse, ApiError> {
    check_protocol(request.protocol)?;
    check_token(&request.token)?;
    let entropy = decode_entropy(&request.entropy)?;
    if let Some(env) = &request.env {
        check_env(env)?;
    }
    let response = UnsealResponse { protocol: PROTOCOL, version: VERSION.to_owned() };
    if !daemon.seal.is_closed() {
        // A repetition; whoever means to install another token must not believe that it was.
        if *opened.token.borrow() == request.token {
            return Ok(response);
        }
        let text = "this daemon is not sealed, and its token is another: seal it first";
        return Err(ApiError::conflict(code::NOT_SEALED, text));
    }
    daemon.mix_in(&entropy).map_err(|error| {
        ApiError::internal(format!("cannot mix randomness into the sandbox's: {error}"))
    })?;
    if request.continues == Continues::Copy {
        daemon.begin_logs_anew()?;
    }
    opened.token.replace(request.token);
    if let Some(env) = request.env {
        opened.env.replace(env.0);
    }
    match request.continues {
        Continues::Itself => daemon.seal.open(),
        Continues::Suspended | Continues::Copy => daemon.seal.open_for(&connection.era),
    }
    Ok(response)
}
