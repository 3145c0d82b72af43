//! The Configuration payload (RFC 7296 §3.15): what a client asks of a gateway, and what it is given.

use super::cursor::{Cursor, fit};
use super::error::{IkeDecodeError, IkeEncodeError, IkeFault};
use super::registry::{CfgAttributeType, CfgType, PayloadType};
use crate::limits::ATTRIBUTES_OF_CP_MAX;

const RESERVED_BIT: u16 = 0x8000;

/// The body of a Configuration payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub kind: CfgType,
    pub attributes: Vec<CfgAttribute>,
}

/// An attribute; in a request an empty value asks for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CfgAttribute {
    /// Below 0x8000.
    pub kind: CfgAttributeType,
    pub value: Vec<u8>,
}

impl Config {
    pub(super) fn decode(mut cursor: Cursor) -> Result<Config, IkeDecodeError> {
        let kind = CfgType(cursor.u8("configuration type")?);
        cursor.array::<3>("reserved bytes")?;
        let mut attributes = Vec::new();
        while !cursor.is_empty() {
            if attributes.len() == ATTRIBUTES_OF_CP_MAX {
                return Err(cursor.error(IkeFault::TooMany { what: "attributes", limit: ATTRIBUTES_OF_CP_MAX }));
            }
            let kind = CfgAttributeType(cursor.u16("attribute type")? & !RESERVED_BIT);
            let len = usize::from(cursor.u16("attribute length")?);
            attributes.push(CfgAttribute { kind, value: cursor.bytes(len, "attribute value")?.to_vec() });
        }
        Ok(Config { kind, attributes })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), IkeEncodeError> {
        let error = |what| Err(IkeEncodeError { payload: PayloadType::CP, what });
        if self.attributes.len() > ATTRIBUTES_OF_CP_MAX {
            return error("it has too many attributes");
        }
        out.extend([self.kind.0, 0, 0, 0]);
        for CfgAttribute { kind, value } in &self.attributes {
            if kind.0 & RESERVED_BIT != 0 {
                return error("an attribute's type has more than 15 bits");
            }
            let len: u16 = fit(PayloadType::CP, value.len(), "an attribute is longer than 65535 bytes")?;
            out.extend(kind.0.to_be_bytes());
            out.extend(len.to_be_bytes());
            out.extend_from_slice(value);
        }
        Ok(())
    }
}
