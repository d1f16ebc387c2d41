//! A key service by a program of the operator's: `PROGRAM wrap KEY` and `PROGRAM unwrap KEY`, bytes
//! as base64 from standard input to standard output.
//!
//! Every KMS has a command line, and every one of those reads or writes base64. What is secret is
//! in pipes alone: arguments can be read by everybody on the machine. A program is run for each
//! answer and nothing is kept of it here; whoever asks keeps what was opened for a while. After a
//! failure the next questions are answered with it at once, for some seconds, so that a service
//! that hangs holds up one question and not each of them in turn.

mod command;

pub use command::KeyCommand;
