//! What the data plane says about itself as bytes, and the headers of datagrams as words.

use std::fmt;
use std::net::SocketAddr;

use adit_proto::codec::{DecodeError, Reader, Writer};
use adit_proto::control::{InjectHeader, Mac, Mode, PuntHeader};

/// What the data plane says about itself once, at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaneInfo {
    /// Process id of the data plane.
    pub pid: u32,
    /// Its version, for people.
    pub version: String,
    /// What it carries.
    pub mode: Mode,
    /// Name of its interface, a TAP or a TUN.
    pub tap: String,
    /// All zeros for a TUN.
    pub tap_mac: Mac,
    /// The UDP address that it is bound to.
    pub listen: SocketAddr,
    pub workers: u16,
    /// Peer ids are below this number.
    pub max_peers: u16,
    /// Live SAs that each worker can hold.
    pub sa_slots: u32,
    /// Features of the CPU that the ciphers use.
    pub cpu_features: String,
    /// The AEAD library in use.
    pub crypto: String,
    /// How it talks to the kernel: `io_uring` or `poll`.
    pub io: String,
    /// Memory that it holds from its start on, in bytes.
    pub memory_bytes: u64,
    /// Its command line: flags with their values.
    pub arguments: Vec<(String, String)>,
    pub protections: Protections,
}

/// What the process has given up before its first packet, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protections {
    pub in_force: Vec<String>,
    /// What could not be given up, each with its reason.
    pub lacking: Vec<String>,
}

impl Protections {
    /// Notes one that is in force.
    pub fn hold(&mut self, what: impl Into<String>) {
        self.in_force.push(what.into());
    }

    /// Notes one that is not.
    pub fn lack(&mut self, what: &str, why: &str) {
        self.lacking.push(format!("{what} ({why})"));
    }
}

impl fmt::Display for Protections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = self.in_force.is_empty();
        f.write_str(if none { "none" } else { "" })?;
        f.write_str(&self.in_force.join(", "))?;
        if self.lacking.is_empty() { Ok(()) } else { write!(f, "; lacking: {}", self.lacking.join(", ")) }
    }
}

/// Writes how many texts there are, and each.
fn write_list<'a>(writer: &mut Writer<'_>, texts: impl ExactSizeIterator<Item = &'a str>) {
    // A list that is longer than a u16 does not fit anyway.
    writer.u16(texts.len().try_into().unwrap_or(u16::MAX));
    for text in texts {
        writer.text(text);
    }
}

fn read_list(reader: &mut Reader<'_>, field: &'static str) -> Result<Vec<String>, DecodeError> {
    (0..reader.u16()?).map(|_| reader.text(field).map(str::to_owned)).collect()
}

impl PlaneInfo {
    /// Writes the record; `None` when it is longer than `out`.
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = Writer::new(out);
        writer.u32(self.pid).text(&self.version).u8(self.mode as u8).text(&self.tap).bytes(&self.tap_mac).addr(self.listen);
        writer.u16(self.workers).u16(self.max_peers).u32(self.sa_slots);
        writer.text(&self.cpu_features).text(&self.crypto).text(&self.io).u64(self.memory_bytes);
        let (flags, values) = (self.arguments.iter().map(|(flag, _)| flag), self.arguments.iter().map(|(_, value)| value));
        write_list(&mut writer, flags.map(String::as_str));
        write_list(&mut writer, values.map(String::as_str));
        write_list(&mut writer, self.protections.in_force.iter().map(String::as_str));
        write_list(&mut writer, self.protections.lacking.iter().map(String::as_str));
        writer.finish()
    }

    /// Reads the record.
    pub fn decode(bytes: &[u8]) -> Result<PlaneInfo, DecodeError> {
        let mut reader = Reader::new(bytes);
        let info = PlaneInfo {
            pid: reader.u32()?,
            version: reader.text("version")?.to_owned(),
            mode: Mode::from_code(reader.u8()?)?,
            tap: reader.text("tap")?.to_owned(),
            tap_mac: reader.array()?,
            listen: reader.addr()?,
            workers: reader.u16()?,
            max_peers: reader.u16()?,
            sa_slots: reader.u32()?,
            cpu_features: reader.text("cpu features")?.to_owned(),
            crypto: reader.text("crypto")?.to_owned(),
            io: reader.text("io")?.to_owned(),
            memory_bytes: reader.u64()?,
            arguments: read_list(&mut reader, "flag")?.into_iter().zip(read_list(&mut reader, "value")?).collect(),
            protections: Protections {
                in_force: read_list(&mut reader, "protection")?,
                lacking: read_list(&mut reader, "protection")?,
            },
        };
        reader.finish()?;
        Ok(info)
    }
}

/// Words that hold the header of a datagram, punted or injected.
pub const HEADER_WORDS: usize = 7;

const _: () = assert!(PuntHeader::LEN_MAX == HEADER_WORDS * 8 && InjectHeader::LEN_MAX == HEADER_WORDS * 8);

/// A header as the prefix of a record.
pub fn to_words(bytes: &[u8; HEADER_WORDS * 8]) -> [u64; HEADER_WORDS] {
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|i| u64::from_le_bytes(words[i]))
}

/// The prefix of a record as a header.
pub fn to_bytes(words: &[u64; HEADER_WORDS]) -> [u8; HEADER_WORDS * 8] {
    let mut bytes = [0; HEADER_WORDS * 8];
    bytes.as_chunks_mut::<8>().0.iter_mut().zip(words).for_each(|(chunk, word)| *chunk = word.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn info() -> PlaneInfo {
        PlaneInfo {
            pid: 77,
            version: "0.1.0".into(),
            mode: Mode::Ip,
            tap: "adit0".into(),
            tap_mac: [2, 0, 0, 0, 0, 1],
            listen: "[::1]:4500".parse().unwrap(),
            workers: 2,
            max_peers: 64,
            sa_slots: 256,
            cpu_features: "aes vaes".into(),
            crypto: "aws-lc".into(),
            io: "io_uring".into(),
            memory_bytes: 1 << 30,
            arguments: vec![("--workers".into(), "2".into()), ("--io".into(), String::new())],
            protections: Protections { in_force: vec!["seccomp".into()], lacking: vec!["landlock (none)".into(), "x".into()] },
        }
    }

    #[test]
    fn the_info_comes_back() {
        let mut out = [0; 500];
        let len = info().encode(&mut out).unwrap();
        assert_eq!(PlaneInfo::decode(&out[..len]), Ok(info()));
        assert_eq!(PlaneInfo::decode(&out[..len + 1]), Err(DecodeError::Trailing));
        assert_eq!(info().encode(&mut out[..len - 1]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_info_or_an_error(bytes: Vec<u8>, at: prop::sample::Index, value: u8) {
            let _ = PlaneInfo::decode(&bytes);
            let mut out = [0; 500];
            let len = info().encode(&mut out).unwrap();
            out[at.index(len)] = value;
            let _ = PlaneInfo::decode(&out[..len]);
        }

        #[test]
        fn headers_come_back(words: [u64; HEADER_WORDS]) {
            prop_assert_eq!(to_words(&to_bytes(&words)), words);
        }
    }
}
