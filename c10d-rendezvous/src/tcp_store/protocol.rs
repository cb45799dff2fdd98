//! The wire format of PyTorch's TCPStore, without sockets: an incremental parser of requests, and writers of both
//! directions.
//!
//! A request is a command byte and its fields, without framing; integers are little endian, a byte string is a `u64`
//! length and its bytes.

use super::Limits;

/// The argument of VALIDATE, the handshake with which a client begins.
pub(crate) const MAGIC: u32 = 0x3C85_F7CE;
/// The answer to WAIT and BARRIER when the awaited event has happened.
pub(crate) const STOP_WAITING: u8 = 0;
/// The answer to PING if the server has no descriptor for another client. The server's limit of descriptors follows.
/// Any other answer to PING is the process id from the request.
pub(crate) const NO_DESCRIPTORS: u32 = 0xC10D_0024;
pub(crate) const WAIT_CANCELED: u8 = 1;

macro_rules! commands {
    ($($name:ident)*) => {
        /// The commands, in the order of their codes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Command { $($name),* }
        const COMMANDS: &[Command] = &[$(Command::$name),*];
    };
}

commands! {
    Validate Set CompareSet Get Add Check Wait NumKeys Delete Append MultiGet MultiSet CancelWait Ping
    QueuePush QueuePop QueueLen ListKeys Barrier
}

impl Command {
    /// The number of byte strings in every request of this command. Commands that take a list send a count instead.
    fn strings(self) -> usize {
        match self {
            Command::CompareSet => 3,
            Command::Set | Command::Append | Command::QueuePush => 2,
            Command::Get | Command::Add | Command::Delete | Command::Barrier => 1,
            Command::QueuePop | Command::QueueLen => 1,
            _ => 0,
        }
    }

    /// The number of byte strings per item, for commands that take a list.
    fn list(self) -> Option<usize> {
        match self {
            Command::Check | Command::Wait | Command::MultiGet => Some(1),
            Command::MultiSet => Some(2),
            _ => None,
        }
    }

    /// The number of bytes of the integer at the end of the request.
    fn integer(self) -> usize {
        match self {
            Command::Validate | Command::Ping => 4,
            Command::Add | Command::Barrier => 8,
            _ => 0,
        }
    }

    fn is_key(self, index: usize) -> bool {
        match self.list() {
            Some(per_item) => index.is_multiple_of(per_item),
            None => index == 0,
        }
    }
}

type Bytes = Vec<u8>;

/// One complete request of a client, after its handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Request {
    Set(Bytes, Bytes),
    CompareSet { key: Bytes, expected: Bytes, desired: Bytes },
    Get(Bytes),
    Add(Bytes, i64),
    Check(Vec<Bytes>),
    Wait(Vec<Bytes>),
    NumKeys,
    Delete(Bytes),
    Append(Bytes, Bytes),
    MultiGet(Vec<Bytes>),
    MultiSet(Vec<(Bytes, Bytes)>),
    CancelWait,
    Ping(u32),
    QueuePush(Bytes, Bytes),
    QueuePop(Bytes),
    QueueLen(Bytes),
    ListKeys,
    Barrier(Bytes, i64),
}

impl Request {
    /// Whether the request changes a key or waits for one. Every member of a job makes such requests, because c10d's
    /// and PyTorch's clients wait for a key before they read it.
    pub(crate) fn takes_part(&self) -> bool {
        use Request::{Check, Get, ListKeys, MultiGet, NumKeys, Ping, QueueLen};
        !matches!(
            self,
            Request::CancelWait | Check(_) | Get(_) | ListKeys | MultiGet(_) | NumKeys | Ping(_) | QueueLen(_)
        )
    }
}

/// Why a connection is closed: the protocol has no other way to report an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the first bytes of the connection are not a TCPStore handshake")]
    NotValidated,
    #[error("the client did the handshake twice")]
    ValidatedTwice,
    #[error("unknown command {0}")]
    UnknownCommand(u8),
    #[error("a key or value of {0} bytes is above the limit")]
    TooLong(u64),
    #[error("a request with {0} keys is above the limit")]
    TooMany(u64),
    #[error("the request is larger than a connection may buffer")]
    RequestTooLarge,
    #[error("the answer is larger than a connection may buffer")]
    ReplyTooLarge,
    #[error("the store, or the share of it that this connection or its address has, is full")]
    Full,
    #[error("the value to which the client adds is not a decimal number, or the sum exceeds 64 bits")]
    BadNumber,
    #[error("a second wait while one is pending")]
    AlreadyWaiting,
}

/// The memory that a byte string takes beyond its bytes.
const OVERHEAD: usize = 32;

/// Turns bytes, which arrive in pieces of any size, into requests.
pub(crate) struct Parser {
    limits: Limits,
    validated: bool,
    command: Option<Command>,
    /// The number of byte strings of the request, once it is known.
    expected: Option<usize>,
    strings: Vec<Bytes>,
    /// The byte string being received, and how long it will be.
    current: Option<(Bytes, usize)>,
    integer: [u8; 8],
    integer_len: usize,
    held: usize,
}

impl Parser {
    pub(crate) fn new(limits: Limits) -> Parser {
        Parser {
            limits,
            validated: false,
            command: None,
            expected: None,
            strings: Vec::new(),
            current: None,
            integer: [0; 8],
            integer_len: 0,
            held: 0,
        }
    }

    pub(crate) fn validated(&self) -> bool {
        self.validated
    }

    pub(crate) fn mid_request(&self) -> bool {
        self.command.is_some()
    }

    /// Returns the memory that the unfinished request takes.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Takes bytes from `input` up to the end of the next request. Returns `None` if all bytes are taken and no request
    /// is complete.
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Request>, Refusal> {
        loop {
            let Some(command) = self.command else {
                let Some((&code, rest)) = input.split_first() else { return Ok(None) };
                *input = rest;
                self.begin(code)?;
                continue;
            };
            let Some(expected) = self.expected else {
                let Some(count) = self.take_integer(8, input) else { return Ok(None) };
                if count > self.limits.list as u64 {
                    return Err(Refusal::TooMany(count));
                }
                self.expected = Some(count as usize * command.list().unwrap_or(1));
                continue;
            };
            if self.strings.len() < expected {
                if !self.take_string(command, input)? {
                    return Ok(None);
                }
                continue;
            }
            let Some(number) = self.take_integer(command.integer(), input) else { return Ok(None) };
            if let Some(request) = self.finish(command, number)? {
                return Ok(Some(request));
            }
        }
    }

    fn begin(&mut self, code: u8) -> Result<(), Refusal> {
        let command = COMMANDS.get(usize::from(code)).copied();
        if !self.validated && command != Some(Command::Validate) {
            return Err(Refusal::NotValidated);
        }
        let command = command.ok_or(Refusal::UnknownCommand(code))?;
        if self.validated && command == Command::Validate {
            return Err(Refusal::ValidatedTwice);
        }
        self.command = Some(command);
        self.expected = if command.list().is_some() { None } else { Some(command.strings()) };
        Ok(())
    }

    /// Takes the next little-endian integer of `width` bytes. Returns `None` until all of it has arrived.
    fn take_integer(&mut self, width: usize, input: &mut &[u8]) -> Option<u64> {
        let n = (width - self.integer_len).min(input.len());
        let (head, rest) = input.split_at(n);
        self.integer[self.integer_len..self.integer_len + n].copy_from_slice(head);
        self.integer_len += n;
        *input = rest;
        if self.integer_len < width {
            return None;
        }
        self.integer_len = 0;
        Some(u64::from_le_bytes(std::mem::take(&mut self.integer)))
    }

    /// Takes bytes of the next key or value. Returns whether it is complete.
    fn take_string(&mut self, command: Command, input: &mut &[u8]) -> Result<bool, Refusal> {
        if self.current.is_none() {
            let Some(len) = self.take_integer(8, input) else { return Ok(false) };
            let limit = if command.is_key(self.strings.len()) { self.limits.key } else { self.limits.value };
            if len > limit as u64 {
                return Err(Refusal::TooLong(len));
            }
            self.current = Some((Bytes::new(), len as usize));
            self.held += OVERHEAD;
        }
        let Some((bytes, len)) = &mut self.current else { return Ok(false) };
        let n = (*len - bytes.len()).min(input.len());
        if bytes.capacity() < bytes.len() + n {
            // The buffer never exceeds twice the received bytes.
            bytes.reserve_exact((bytes.len() + n).max((2 * bytes.len()).min(*len)) - bytes.len());
        }
        let (head, rest) = input.split_at(n);
        bytes.extend_from_slice(head);
        *input = rest;
        self.held += n;
        if self.held > self.limits.request {
            return Err(Refusal::RequestTooLarge);
        }
        if bytes.len() < *len {
            return Ok(false);
        }
        self.strings.push(std::mem::take(bytes));
        self.current = None;
        Ok(true)
    }

    /// Returns the complete request, or `None` for the handshake.
    fn finish(&mut self, command: Command, number: u64) -> Result<Option<Request>, Refusal> {
        let strings = std::mem::take(&mut self.strings);
        self.command = None;
        self.expected = None;
        self.held = 0;
        let mut rest = strings.into_iter();
        let mut next = || rest.next().unwrap_or_default();
        Ok(Some(match command {
            Command::Validate if number == u64::from(MAGIC) => {
                self.validated = true;
                return Ok(None);
            }
            Command::Validate => return Err(Refusal::NotValidated),
            Command::Set => Request::Set(next(), next()),
            Command::CompareSet => Request::CompareSet { key: next(), expected: next(), desired: next() },
            Command::Get => Request::Get(next()),
            Command::Add => Request::Add(next(), number as i64),
            Command::Check => Request::Check(rest.collect()),
            Command::Wait => Request::Wait(rest.collect()),
            Command::NumKeys => Request::NumKeys,
            Command::Delete => Request::Delete(next()),
            Command::Append => Request::Append(next(), next()),
            Command::MultiGet => Request::MultiGet(rest.collect()),
            Command::MultiSet => {
                let mut pairs = Vec::with_capacity(rest.len() / 2);
                while let (Some(key), Some(value)) = (rest.next(), rest.next()) {
                    pairs.push((key, value));
                }
                Request::MultiSet(pairs)
            }
            Command::CancelWait => Request::CancelWait,
            Command::Ping => Request::Ping(number as u32),
            Command::QueuePush => Request::QueuePush(next(), next()),
            Command::QueuePop => Request::QueuePop(next()),
            Command::QueueLen => Request::QueueLen(next()),
            Command::ListKeys => Request::ListKeys,
            Command::Barrier => Request::Barrier(next(), number as i64),
        }))
    }
}

/// Writes the fields of requests and answers.
pub(crate) trait Write {
    fn command(&mut self, command: Command);
    fn integer(&mut self, value: i64);
    fn string(&mut self, bytes: &[u8]);
    /// Writes VALIDATE and PING. PyTorch's server requires that a client sends them first, in one write.
    fn hello(&mut self, nonce: u32);
    fn ping(&mut self, nonce: u32);
}

impl Write for Vec<u8> {
    fn command(&mut self, command: Command) {
        self.push(command as u8);
    }

    fn integer(&mut self, value: i64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn string(&mut self, bytes: &[u8]) {
        self.integer(bytes.len() as i64);
        self.extend_from_slice(bytes);
    }

    fn hello(&mut self, nonce: u32) {
        self.command(Command::Validate);
        self.extend_from_slice(&MAGIC.to_le_bytes());
        self.ping(nonce);
    }

    fn ping(&mut self, nonce: u32) {
        self.command(Command::Ping);
        self.extend_from_slice(&nonce.to_le_bytes());
    }
}
