//! Values to bytes and back. What is written is wiped, also where it lay before it grew.

use std::net::SocketAddr;
use std::time::Instant;

use adit_proto::codec::{DecodeError, Reader};
use zeroize::Zeroizing;

use super::clock::BootClock;

use crate::limits::ITEMS_MAX;

pub(super) struct Out(Zeroizing<Vec<u8>>);

impl Out {
    pub(super) fn new() -> Out {
        Out::with_capacity(4096)
    }

    pub(super) fn with_capacity(capacity: usize) -> Out {
        Out(Zeroizing::new(Vec::with_capacity(capacity)))
    }

    pub(super) fn finish(self) -> Zeroizing<Vec<u8>> {
        self.0
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        let needed = self.0.len() + bytes.len();
        if needed > self.0.capacity() {
            // A plain reallocation would leave keys in freed memory.
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two()));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.raw(&[value]);
    }

    pub(super) fn flag(&mut self, value: bool) {
        self.u8(value.into());
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
    }

    /// A number that is far below 2³².
    pub(super) fn u32(&mut self, value: usize) {
        self.raw(&u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    pub(super) fn addr(&mut self, addr: SocketAddr) {
        self.text(&addr.to_string());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len());
        self.raw(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(super) fn time(&mut self, clock: BootClock, at: Instant) {
        self.u64(clock.to_ms(at));
    }

    pub(super) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Out, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(super) fn list<T>(&mut self, items: impl ExactSizeIterator<Item = T>, mut write: impl FnMut(&mut Out, T)) {
        self.u32(items.len());
        items.for_each(|item| write(self, item));
    }
}

pub(super) struct In<'a>(Reader<'a>);

impl<'a> In<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> In<'a> {
        In(Reader::new(bytes))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.rest().is_empty()
    }

    pub(super) fn finish(self) -> Result<(), DecodeError> {
        self.0.finish()
    }

    pub(super) fn raw(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        self.0.bytes(len)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.0.array()
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.0.u8()
    }

    pub(super) fn flag(&mut self) -> Result<bool, DecodeError> {
        self.0.flag("flag")
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.0.u16()
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.0.u32()
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.0.u64()
    }

    pub(super) fn part(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u32()?;
        self.raw(usize::try_from(len).unwrap_or(usize::MAX))
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, DecodeError> {
        self.part().map(<[u8]>::to_vec)
    }

    pub(super) fn text(&mut self) -> Result<String, DecodeError> {
        let bytes = self.part()?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    pub(super) fn addr(&mut self) -> Result<SocketAddr, DecodeError> {
        self.text()?.parse().map_err(|_| DecodeError::BadValue("address"))
    }

    pub(super) fn time(&mut self, clock: BootClock) -> Result<Instant, DecodeError> {
        self.u64().map(|ms| clock.instant(ms))
    }

    pub(super) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut In<'a>) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    pub(super) fn list<T>(&mut self, mut read: impl FnMut(&mut In<'a>) -> Result<T, DecodeError>) -> Result<Vec<T>, DecodeError> {
        let count = self.u32()?;
        if count > ITEMS_MAX {
            return Err(DecodeError::BadValue("count"));
        }
        // Every item takes bytes, so a count that lies ends the reading soon.
        (0..count).map(|_| read(self)).collect()
    }
}
