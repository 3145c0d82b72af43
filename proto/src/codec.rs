//! Bounded cursors over byte slices; nothing here can panic. Little endian for the records between the planes; the
//! methods that end in `_be` are big endian, for what goes over the network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes end inside a field.
    Truncated,
    /// Bytes follow the last field.
    Trailing,
    /// The named field has a value that means nothing.
    BadValue(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Truncated => f.write_str("the record ends inside a field"),
            DecodeError::Trailing => f.write_str("bytes follow the end of the record"),
            DecodeError::BadValue(field) => write!(f, "the field `{field}` has a value that means nothing"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Takes fields off the front of a slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from their beginning.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes, by value.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn u16_be(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32_be(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64_be(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A flag: 0 or 1, nothing else.
    pub fn flag(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::BadValue(field)),
        }
    }

    /// An address and port, as [`Writer::addr`] writes them.
    pub fn addr(&mut self) -> Result<SocketAddr, DecodeError> {
        match self.u8()? {
            4 => {
                let port = self.u16()?;
                Ok(SocketAddrV4::new(Ipv4Addr::from(self.array::<4>()?), port).into())
            }
            6 => {
                let port = self.u16()?;
                let ip = Ipv6Addr::from(self.array::<16>()?);
                let (flow, scope) = (self.u32()?, self.u32()?);
                Ok(SocketAddrV6::new(ip, port, flow, scope).into())
            }
            _ => Err(DecodeError::BadValue("address family")),
        }
    }

    /// A string of at most 65535 bytes of UTF-8, as [`Writer::text`] writes it.
    pub fn text(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let len = self.u16()?;
        std::str::from_utf8(self.bytes(usize::from(len))?).map_err(|_| DecodeError::BadValue(field))
    }

    /// All that is left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Ends the reading: every byte must have been used.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }
}

/// Puts fields one after the other into a slice. Too much is remembered and told by [`Writer::finish`].
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut [u8],
    /// Bytes written; `None` once something did not fit.
    len: Option<usize>,
}

impl<'a> Writer<'a> {
    /// Writes into `out` from its beginning.
    pub fn new(out: &'a mut [u8]) -> Writer<'a> {
        Writer { out, len: Some(0) }
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.len = self.len.and_then(|len| {
            let end = len.checked_add(bytes.len())?;
            self.out.get_mut(len..end)?.copy_from_slice(bytes);
            Some(end)
        });
        self
    }

    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub fn flag(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    /// Family (4 or 6), port, address; for IPv6 also the flow label and the scope.
    pub fn addr(&mut self, addr: SocketAddr) -> &mut Self {
        match addr.ip() {
            IpAddr::V4(ip) => self.u8(4).u16(addr.port()).bytes(&ip.octets()),
            IpAddr::V6(ip) => {
                let (flow, scope) = match addr {
                    SocketAddr::V6(v6) => (v6.flowinfo(), v6.scope_id()),
                    SocketAddr::V4(_) => (0, 0),
                };
                self.u8(6).u16(addr.port()).bytes(&ip.octets()).u32(flow).u32(scope)
            }
        }
    }

    /// Length in two bytes, then the bytes. Longer than 65535 bytes does not fit.
    pub fn text(&mut self, text: &str) -> &mut Self {
        match u16::try_from(text.len()) {
            Ok(len) => self.u16(len).bytes(text.as_bytes()),
            Err(_) => {
                self.len = None;
                self
            }
        }
    }

    /// How many bytes were written, or `None` when they did not fit.
    pub fn finish(&self) -> Option<usize> {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_writer_says_so_and_stays_so() {
        let mut out = [0; 3];
        assert_eq!(Writer::new(&mut out).u16(1).u16(2).u8(3).finish(), None);
        assert_eq!(Writer::new(&mut out).u16(0x0201).u8(3).finish(), Some(3));
        assert_eq!(out, [1, 2, 3]);
    }

    #[test]
    fn flags_families_and_utf8_are_checked() {
        assert_eq!(Reader::new(&[2]).flag("f"), Err(DecodeError::BadValue("f")));
        assert_eq!(Reader::new(&[5, 0, 0]).addr(), Err(DecodeError::BadValue("address family")));
        assert_eq!(Reader::new(&[1, 0, 0xff]).text("t"), Err(DecodeError::BadValue("t")));
        assert_eq!(Reader::new(&[2, 0, b'a']).text("t"), Err(DecodeError::Truncated));
        assert_eq!(Reader::new(&[0]).finish(), Err(DecodeError::Trailing));
    }

    proptest! {
        #[test]
        fn addresses_come_back(ip: IpAddr, port: u16, flow: u32, scope: u32) {
            let addr = match ip {
                IpAddr::V4(ip) => SocketAddr::from((ip, port)),
                IpAddr::V6(ip) => SocketAddrV6::new(ip, port, flow, scope).into(),
            };
            // Family, port, address of IPv6, flow and scope: no address takes more.
            let mut out = [0; 1 + 2 + 16 + 4 + 4];
            let len = Writer::new(&mut out).addr(addr).finish().unwrap();
            let mut reader = Reader::new(&out[..len]);
            prop_assert_eq!(reader.addr(), Ok(addr));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn any_bytes_give_a_value_or_an_error(bytes: Vec<u8>) {
            let _ = Reader::new(&bytes).addr();
            let _ = Reader::new(&bytes).text("t");
            let _ = Reader::new(&bytes).u64();
        }
    }
}
