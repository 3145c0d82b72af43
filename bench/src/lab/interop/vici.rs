//! The control socket of strongSwan's daemon: its VICI protocol, version 2, as the README of its plugin `vici` describes it.
//!
//! ```text
//! packet:  length u32 │ type u8 │ name: length u8, bytes (only commands and events) │ message, encoded by serde_vici
//! request: ─ EVENT_REGISTER(event) ▶ ◀ EVENT_CONFIRM ─   ─ CMD_REQUEST(command) ▶ ◀ EVENT(event)… CMD_RESPONSE ─
//! ```
//!
//! Blocking, with a limit on every wait, one connection per command: a daemon that has died or hangs is an error at once and never
//! a test that stands still.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::netns::Netns;

const CMD_REQUEST: u8 = 0;
const CMD_RESPONSE: u8 = 1;
const CMD_UNKNOWN: u8 = 2;
const EVENT_REGISTER: u8 = 3;
const EVENT_CONFIRM: u8 = 5;
const EVENT_UNKNOWN: u8 = 6;
const EVENT: u8 = 7;
/// The daemon's own limit of a packet, in bytes.
const PACKET_MAX: u32 = 512 * 1024;
/// How long connecting may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);

trait Stream: Read + Write + Send {
    fn limit(&self, wait: Duration) -> std::io::Result<()>;
}

impl Stream for UnixStream {
    fn limit(&self, wait: Duration) -> std::io::Result<()> {
        self.set_read_timeout(Some(wait))?;
        self.set_write_timeout(Some(wait))
    }
}

impl Stream for TcpStream {
    fn limit(&self, wait: Duration) -> std::io::Result<()> {
        self.set_read_timeout(Some(wait))?;
        self.set_write_timeout(Some(wait))
    }
}

/// A connection to a daemon, for one command.
pub struct Vici {
    stream: Box<dyn Stream>,
    deadline: Instant,
}

struct Packet {
    kind: u8,
    name: String,
    message: Vec<u8>,
}

impl Vici {
    /// Connects to a Unix socket. Everything that follows on the connection has to be done within `limit`.
    pub fn unix(path: &Path, limit: Duration) -> Result<Vici> {
        let stream = UnixStream::connect(path).with_context(|| format!("cannot connect to {}", path.display()))?;
        Ok(Vici { stream: Box::new(stream), deadline: Instant::now() + limit })
    }

    /// Connects over TCP from inside a namespace.
    pub fn tcp(netns: &Netns, address: SocketAddr, limit: Duration) -> Result<Vici> {
        let stream = netns
            .enter(|| TcpStream::connect_timeout(&address, CONNECT_WITHIN))
            .with_context(|| format!("cannot connect to {address} in {}", netns.name()))?;
        Ok(Vici { stream: Box::new(stream), deadline: Instant::now() + limit })
    }

    /// Runs a command and returns its response.
    pub fn request<T: DeserializeOwned>(mut self, command: &str, message: &impl Serialize) -> Result<T> {
        self.send(CMD_REQUEST, command, &serde_vici::to_vec(message)?)?;
        let packet = self.receive().with_context(|| format!("waiting for the response to `{command}`"))?;
        match packet.kind {
            CMD_RESPONSE => serde_vici::from_slice(&packet.message).with_context(|| format!("the response to `{command}`")),
            CMD_UNKNOWN => bail!("the daemon does not know the command `{command}`"),
            kind => bail!("a packet of type {kind} instead of the response to `{command}`"),
        }
    }

    /// Runs a command that answers by events, and returns what they carry.
    pub fn list<T: DeserializeOwned>(mut self, command: &str, event: &str, message: &impl Serialize) -> Result<Vec<T>> {
        self.send(EVENT_REGISTER, event, &[])?;
        let confirmed = self.receive().with_context(|| format!("asking for the event `{event}`"))?.kind;
        ensure!(confirmed != EVENT_UNKNOWN, "the daemon does not know the event `{event}`");
        ensure!(confirmed == EVENT_CONFIRM, "a packet of type {confirmed} instead of the confirmation of `{event}`");
        self.send(CMD_REQUEST, command, &serde_vici::to_vec(message)?)?;
        let mut found = Vec::new();
        loop {
            let packet = self.receive().with_context(|| format!("waiting for the response to `{command}`"))?;
            match packet.kind {
                EVENT if packet.name == event => {
                    found.push(serde_vici::from_slice(&packet.message).with_context(|| format!("the event `{event}`"))?);
                }
                CMD_RESPONSE => return Ok(found),
                CMD_UNKNOWN => bail!("the daemon does not know the command `{command}`"),
                kind => bail!("a packet of type {kind} among the events `{event}`"),
            }
        }
    }

    fn send(&mut self, kind: u8, name: &str, message: &[u8]) -> Result<()> {
        let name_length = u8::try_from(name.len()).context("a name of at most 255 bytes")?;
        let length = u32::try_from(2 + name.len() + message.len())?;
        let mut packet = length.to_be_bytes().to_vec();
        packet.extend([kind, name_length]);
        packet.extend(name.as_bytes());
        packet.extend(message);
        self.stream.limit(self.left()?)?;
        self.stream.write_all(&packet).context("cannot write to the control socket")
    }

    fn receive(&mut self) -> Result<Packet> {
        let mut length = [0; 4];
        self.fill(&mut length)?;
        let length = u32::from_be_bytes(length);
        ensure!((1..=PACKET_MAX).contains(&length), "a packet of {length} bytes, which is not VICI");
        let mut body = vec![0; length as usize];
        self.fill(&mut body)?;
        let (&kind, rest) = body.split_first().context("an empty packet")?;
        if kind != EVENT {
            return Ok(Packet { kind, name: String::new(), message: rest.to_vec() });
        }
        let (&name_length, rest) = rest.split_first().context("an event without a name")?;
        let (name, message) = rest.split_at_checked(name_length.into()).context("an event whose name is cut short")?;
        Ok(Packet { kind, name: String::from_utf8_lossy(name).into_owned(), message: message.to_vec() })
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            self.stream.limit(self.left()?)?;
            let read = self.stream.read(&mut buffer[filled..]).context("cannot read from the control socket")?;
            ensure!(read > 0, "the daemon closed the control socket");
            filled += read;
        }
        Ok(())
    }

    fn left(&self) -> Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "the daemon did not answer in time");
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    type Fields = BTreeMap<String, String>;

    /// A daemon that answers with these bytes whatever it is asked, and then hangs up.
    fn answering(bytes: Vec<u8>) -> (tempfile::TempDir, Vici, thread::JoinHandle<()>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vici");
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            // The other end may leave in the middle; it only must not find this end gone before it has asked.
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        });
        let vici = Vici::unix(&path, Duration::from_secs(5)).unwrap();
        (dir, vici, daemon)
    }

    fn packet(head: &[u8], message: &[u8]) -> Vec<u8> {
        let length = (head.len() + message.len()) as u32;
        [&length.to_be_bytes(), head, message].concat()
    }

    #[test]
    fn the_events_before_the_response_are_collected() {
        let event = |value: &str| {
            let fields = Fields::from([("key".to_owned(), value.to_owned())]);
            packet(&[EVENT, 3, b'o', b'n', b'e'], &serde_vici::to_vec(&fields).unwrap())
        };
        let bytes = [packet(&[EVENT_CONFIRM], &[]), event("a"), event("b"), packet(&[CMD_RESPONSE], &[])].concat();
        let (_dir, vici, daemon) = answering(bytes);
        let found: Vec<Fields> = vici.list("list-ones", "one", &()).unwrap();
        assert_eq!(found.iter().map(|fields| fields["key"].as_str()).collect::<Vec<_>>(), ["a", "b"]);
        daemon.join().unwrap();
    }

    #[test]
    fn nonsense_and_an_early_end_are_errors() {
        for (bytes, word) in [
            (packet(&[CMD_UNKNOWN], &[]), "does not know"),
            (packet(&[EVENT, 9, b'x'], &[]), "cut short"),
            (vec![0xFF; 8], "not VICI"),
            (vec![0, 0, 0, 9, CMD_RESPONSE], "closed"),
        ] {
            let (_dir, vici, daemon) = answering(bytes);
            let error = format!("{:#}", vici.request::<Fields>("version", &()).unwrap_err());
            assert!(error.contains(word), "{error}");
            daemon.join().unwrap();
        }
    }

    #[test]
    fn a_daemon_that_says_nothing_is_an_error_after_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vici");
        let _listener = UnixListener::bind(&path).unwrap();
        let vici = Vici::unix(&path, Duration::from_millis(50)).unwrap();
        assert!(vici.request::<Fields>("version", &()).is_err());
    }
}
