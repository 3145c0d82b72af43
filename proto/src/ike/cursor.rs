//! Reading with a place to name in errors, and writing with lengths that are filled in afterwards.

use super::error::{IkeDecodeError, IkeEncodeError, IkeFault};
use super::registry::PayloadType;
use crate::codec::Reader;

/// Reads one payload, or a part of it, and knows where in the message it is.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    reader: Reader<'a>,
    /// Offset of the end of what is read, from the beginning of the message.
    end: usize,
    pub payload: PayloadType,
}

impl<'a> Cursor<'a> {
    /// Reads `bytes`, which begin at `offset` of the message.
    pub fn new(bytes: &'a [u8], offset: usize, payload: PayloadType) -> Cursor<'a> {
        Cursor { reader: Reader::new(bytes), end: offset.saturating_add(bytes.len()), payload }
    }

    /// Offset of the next byte.
    pub fn offset(&self) -> usize {
        self.end - self.reader.rest().len()
    }

    pub fn is_empty(&self) -> bool {
        self.reader.rest().is_empty()
    }

    /// The fault, at the next byte.
    pub fn error(&self, fault: IkeFault) -> IkeDecodeError {
        self.error_at(self.offset(), fault)
    }

    pub fn error_at(&self, offset: usize, fault: IkeFault) -> IkeDecodeError {
        IkeDecodeError { payload: self.payload, offset, fault }
    }

    pub fn bytes(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], IkeDecodeError> {
        self.reader.bytes(len).map_err(|_| self.error(IkeFault::Truncated(field)))
    }

    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], IkeDecodeError> {
        self.reader.array().map_err(|_| self.error(IkeFault::Truncated(field)))
    }

    pub fn u8(&mut self, field: &'static str) -> Result<u8, IkeDecodeError> {
        self.reader.u8().map_err(|_| self.error(IkeFault::Truncated(field)))
    }

    pub fn u16(&mut self, field: &'static str) -> Result<u16, IkeDecodeError> {
        self.reader.u16_be().map_err(|_| self.error(IkeFault::Truncated(field)))
    }

    pub fn u32(&mut self, field: &'static str) -> Result<u32, IkeDecodeError> {
        self.reader.u32_be().map_err(|_| self.error(IkeFault::Truncated(field)))
    }

    pub fn u64(&mut self, field: &'static str) -> Result<u64, IkeDecodeError> {
        self.reader.u64_be().map_err(|_| self.error(IkeFault::Truncated(field)))
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = self.reader.rest();
        self.reader = Reader::new(&[]);
        rest
    }

    /// The next `len` bytes, to be read for themselves.
    pub fn part(&mut self, len: usize, field: &'static str) -> Result<Cursor<'a>, IkeDecodeError> {
        let offset = self.offset();
        Ok(Cursor::new(self.bytes(len, field)?, offset, self.payload))
    }

    /// Ends the reading: every byte must have been used.
    pub fn finish(self) -> Result<(), IkeDecodeError> {
        if self.is_empty() { Ok(()) } else { Err(self.error(IkeFault::Trailing)) }
    }
}

/// A length or count that must fit into its field.
pub(super) fn fit<T: TryFrom<usize>>(payload: PayloadType, value: usize, what: &'static str) -> Result<T, IkeEncodeError> {
    T::try_from(value).map_err(|_| IkeEncodeError { payload, what })
}

/// Where payloads, proposals, transforms and selectors have their length: after two bytes.
const LENGTH_AT: usize = 2;

/// Writes what `body` writes, then its length into the place that `body` left for it.
pub(super) fn with_length(
    out: &mut Vec<u8>,
    payload: PayloadType,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), IkeEncodeError>,
) -> Result<(), IkeEncodeError> {
    let start = out.len();
    body(out)?;
    let len: u16 = fit(payload, out.len() - start, "it is longer than 65535 bytes")?;
    out[start + LENGTH_AT..start + LENGTH_AT + 2].copy_from_slice(&len.to_be_bytes());
    Ok(())
}
