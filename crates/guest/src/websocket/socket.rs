//! A connection that speaks WebSocket, driven by whoever owns it: nothing here waits but
//! [`WebSocket::ready`], so an owner can attend to two things at once and stop reading one while
//! the other is full.

use std::{io, time::Duration};

use bytes::Bytes;
use tokio::{io::Interest, net::TcpStream};

use super::{
    close_code,
    frame::{Decoder, HEADER_BYTES, Item, Opcode, Violation, header},
    heartbeat::{Beat, Heartbeat, Verdict},
};

/// Pongs and the like may wait for a client that does not read; beyond this nothing more of it
/// is read either.
const MAX_OUTBOX_BYTES: usize = 64 << 10;

/// A larger buffer is not kept for a quiet connection.
const KEPT_OUTBOX_BYTES: usize = 4 << 10;

/// How long a client may take to read what is left when we close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// A close reason's largest length (RFC 6455 §5.5).
const MAX_REASON_BYTES: usize = 123;

/// A WebSocket after its handshake.
pub(crate) struct WebSocket {
    stream: TcpStream,
    /// Came together with the upgrade request.
    early: Vec<u8>,
    decoder: Decoder,
    outbox: Vec<u8>,
    sent: usize,
    heartbeat: Heartbeat,
    peer_closed: bool,
    close_sent: bool,
}

/// The connection can't go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The peer has gone; there is nobody to tell.
    Gone,
    /// The peer is to be told by this close.
    Refused(u16, &'static str),
}

// === impl WebSocket ===

impl WebSocket {
    /// Takes over a connection whose 101 was sent.
    pub(crate) fn new(stream: TcpStream, early: Bytes) -> Self {
        Self {
            stream,
            early: early.into(),
            decoder: Decoder::default(),
            outbox: Vec::new(),
            sent: 0,
            heartbeat: Heartbeat::default(),
            peer_closed: false,
            close_sent: false,
        }
    }

    /// Returns whether the peer has sent its close.
    pub(crate) fn is_peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Returns whether everything was handed to the kernel.
    pub(crate) fn is_flushed(&self) -> bool {
        self.sent == self.outbox.len()
    }

    /// Returns whether so much waits for the peer that nothing more of it should be read.
    pub(crate) fn is_full(&self) -> bool {
        self.outbox.len() - self.sent >= MAX_OUTBOX_BYTES
    }

    /// Reads once what is there and hands on the binary data in it, each piece with whether its
    /// message ends. Pings are answered. Returns whether anything came.
    pub(crate) fn receive(
        &mut self,
        scratch: &mut [u8],
        mut take: impl FnMut(&[u8], bool),
    ) -> Result<bool, Broken> {
        let mut early = std::mem::take(&mut self.early);
        let mut input = if early.is_empty() {
            match self.stream.try_read(scratch) {
                Ok(0) => return Err(Broken::Gone),
                Ok(count) => scratch.get_mut(..count).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(_) => return Err(Broken::Gone),
            }
        } else {
            early.as_mut_slice()
        };
        // Any byte will do: a large frame may be long under way.
        self.heartbeat.heard();
        while !input.is_empty() {
            let (taken, item) = self.decoder.decode(input)?;
            match item {
                None => break,
                Some(Item::Data { bytes, end }) => take(bytes, end),
                Some(Item::Text) => {
                    let reason = "text frames mean nothing here: send binary ones";
                    return Err(Broken::Refused(close_code::UNSUPPORTED_DATA, reason));
                }
                Some(Item::Ping(bytes)) => {
                    let (head, length) = header(Opcode::Pong, bytes.len());
                    self.outbox.extend_from_slice(head.get(..length).unwrap_or_default());
                    self.outbox.extend_from_slice(bytes);
                }
                Some(Item::Pong) => {}
                Some(Item::Close) => self.peer_closed = true,
            }
            input = input.get_mut(taken..).unwrap_or_default();
        }
        Ok(true)
    }

    /// Sends `buffer[HEADER_BYTES..]` as one binary message; the header is put before it.
    pub(crate) fn send_in_place(&mut self, buffer: &mut [u8]) -> Result<(), Broken> {
        let (head, length) = header(Opcode::Binary, buffer.len().saturating_sub(HEADER_BYTES));
        let start = HEADER_BYTES - length;
        if let (Some(place), Some(head)) = (buffer.get_mut(start..HEADER_BYTES), head.get(..length))
        {
            place.copy_from_slice(head);
        }
        self.write(buffer.get(start..).unwrap_or_default())
    }

    /// Sends a small frame.
    pub(crate) fn send(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Broken> {
        let (head, length) = header(opcode, payload.len());
        self.write(&[head.get(..length).unwrap_or_default(), payload].concat())
    }

    /// Says that nothing more comes, and why; once.
    pub(crate) fn send_close(&mut self, code: u16, reason: &str) -> Result<(), Broken> {
        if self.close_sent {
            return Ok(());
        }
        self.close_sent = true;
        let end = reason.floor_char_boundary(MAX_REASON_BYTES);
        let reason = reason.get(..end).unwrap_or_default();
        self.send(Opcode::Close, &[&code.to_be_bytes()[..], reason.as_bytes()].concat())
    }

    /// Hands the kernel what waits; returns whether it took any.
    pub(crate) fn flush(&mut self) -> Result<bool, Broken> {
        let before = self.sent;
        while let Some(rest) = self.outbox.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match try_write(&self.stream, rest)? {
                0 => break,
                count => self.sent += count,
            }
        }
        let moved = self.sent > before;
        if moved {
            // The kernel has room again as the peer has taken something.
            self.heartbeat.heard();
        }
        if self.is_flushed() {
            self.sent = 0;
            self.outbox.clear();
            if self.outbox.capacity() > KEPT_OUTBOX_BYTES {
                self.outbox = Vec::new();
            }
        }
        Ok(moved)
    }

    /// Waits until something waits to be read, if that is wanted, or what waits can be sent. With
    /// neither it waits for ever.
    pub(crate) async fn ready(&self, to_read: bool) {
        let interest = match (to_read, self.is_flushed()) {
            (true, _) if !self.early.is_empty() => return,
            (true, true) => Interest::READABLE,
            (true, false) => Interest::READABLE | Interest::WRITABLE,
            (false, false) => Interest::WRITABLE,
            (false, true) => return std::future::pending().await,
        };
        // A failure shows at the next read or write.
        drop(self.stream.ready(interest).await);
    }

    /// Pings, or gives the peer up; called at the end of every interval.
    pub(crate) fn beat(&mut self, interval: Duration, beat: Beat) -> Result<(), Broken> {
        if !self.is_flushed() {
            // A ping would only queue up behind what waits for a peer that does not read. It is
            // not needed, either: the kernel asks such a peer by itself, and gives it up in time.
            return Ok(());
        }
        match self.heartbeat.tick(interval, beat) {
            Verdict::Ping => self.send(Opcode::Ping, b""),
            Verdict::GiveUp => Err(Broken::Gone),
        }
    }

    /// Closes: what waits is sent first, what comes meanwhile is thrown away. Returns the
    /// connection, to be ended by the server.
    pub(crate) async fn close(mut self, code: u16, reason: &str) -> TcpStream {
        if self.send_close(code, reason).is_ok() {
            let flush = async {
                let mut waste = vec![0; 4 << 10];
                while self.flush().is_ok() && !self.is_flushed() {
                    self.ready(true).await;
                    if self.receive(&mut waste, |_, _| {}) == Err(Broken::Gone) {
                        return;
                    }
                }
            };
            // One that does not read within this time will not.
            drop(tokio::time::timeout(CLOSE_PATIENCE, flush).await);
        }
        self.stream
    }

    /// Returns the connection as it is.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let mut rest = bytes;
        while self.is_flushed() && !rest.is_empty() {
            match try_write(&self.stream, rest)? {
                0 => break,
                count => rest = rest.get(count..).unwrap_or_default(),
            }
        }
        self.outbox.extend_from_slice(rest);
        Ok(())
    }
}

// === impl Broken ===

impl From<Violation> for Broken {
    fn from(Violation(reason): Violation) -> Self {
        Self::Refused(close_code::PROTOCOL_ERROR, reason)
    }
}

/// Returns how much the kernel took; 0 when it takes nothing now.
fn try_write(stream: &TcpStream, bytes: &[u8]) -> Result<usize, Broken> {
    match stream.try_write(bytes) {
        Ok(count) => Ok(count),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(_) => Err(Broken::Gone),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    /// A WebSocket that can be written to, and the client's end of its connection.
    async fn pair() -> (WebSocket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).await.expect("connected");
        let (stream, _peer) = listener.accept().await.expect("accepted");
        stream.writable().await.expect("writable");
        (WebSocket::new(stream, Bytes::new()), client)
    }

    /// Reads once something has come.
    async fn receive(socket: &mut WebSocket) {
        let mut buffer = vec![0; 100];
        while !socket.receive(&mut buffer, |_, _| {}).expect("good frames") {
            socket.ready(true).await;
        }
    }

    #[tokio::test]
    async fn whatever_a_client_sends_is_a_sign_of_life() {
        let table: &[(&str, &[u8])] = &[
            ("a pong", &[0x8a, 0x80, 0, 0, 0, 0]),
            ("a ping", &[0x89, 0x80, 0, 0, 0, 0]),
            ("data", &[0x82, 0x81, 0, 0, 0, 0, b'x']),
            ("a piece of data", &[0x82, 0xfe, 1, 0, 0, 0, 0, 0, b'x']),
            ("a piece of a head", &[0x82]),
        ];
        for (what, bytes) in table {
            let (mut socket, mut client) = pair().await;
            assert_eq!(socket.beat(INTERVAL, Beat::Regular), Ok(()));
            client.write_all(bytes).await.expect("sent");
            receive(&mut socket).await;
            socket.flush().expect("open");
            assert_eq!(socket.beat(INTERVAL, Beat::Regular), Ok(()), "{what}");
            assert_eq!(socket.beat(INTERVAL, Beat::Regular), Err(Broken::Gone), "{what}");
        }
    }

    #[tokio::test]
    async fn a_client_that_reads_slowly_is_not_given_up() {
        let (mut socket, mut client) = pair().await;
        let message = vec![0; 64 << 10];
        assert_eq!(socket.beat(INTERVAL, Beat::Regular), Ok(()));
        let mut sent = 2;
        while socket.is_flushed() {
            socket.send(Opcode::Binary, &message).expect("open");
            sent += HEADER_BYTES + message.len();
        }
        let waits = socket.outbox.len();
        for _ in 0..5 {
            assert_eq!(socket.beat(INTERVAL, Beat::Regular), Ok(()));
        }
        assert_eq!(socket.outbox.len(), waits, "nothing queues up");
        let (mut buffer, mut taken) = (vec![0; 1 << 20], 0);
        while !socket.is_flushed() {
            tokio::select! {
                read = client.read(&mut buffer) => taken += read.expect("read"),
                () = socket.ready(false) => {}
            }
            socket.flush().expect("open");
        }
        while taken < sent {
            taken += client.read(&mut buffer).await.expect("read");
        }
        assert_eq!(socket.beat(INTERVAL, Beat::Regular), Ok(()), "it has taken something");
        assert_eq!(socket.beat(INTERVAL, Beat::Regular), Err(Broken::Gone));
    }

    #[tokio::test]
    async fn one_that_has_gone_is_noticed_though_it_is_not_read() {
        let (mut socket, client) = pair().await;
        drop(client);
        // The first ping is answered by a reset, the second fails.
        let mut beats = 0;
        while socket.beat(INTERVAL, Beat::Excused).is_ok() {
            beats += 1;
            assert!(beats < 100_000, "never noticed");
            tokio::task::yield_now().await;
        }
    }
}
