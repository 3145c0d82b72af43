//! What a snapshot consists of, and what may be put behind it: changes, of which the last word on something holds.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use adit_proto::codec::DecodeError;
use adit_proto::control::PeerId;
use adit_proto::ike::IkeSpi;

use super::bytes::{In, Out};
use crate::ike::context::Peer;
use crate::ike::facts::SaId;

/// The first bytes, and the version of what follows.
pub(super) const MAGIC: &[u8; 8] = b"ADITIKE\x0b";

/// Bytes of the vault that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error("the vault holds no IKE state of this version")]
    OtherVersion,
    #[error("the IKE state in the vault is damaged: {0}")]
    Damaged(#[from] DecodeError),
}

/// One thing that a successor needs to know.
pub(super) enum Change<'a> {
    Written(SaId, &'a [u8]),
    Gone(SaId),
    Peer(PeerMark),
    /// What is proven on the way to a peer with a static key.
    Size(PeerId, IpAddr, u16),
    /// Nothing is proven on it any more.
    SizeGone(PeerId),
}

/// Whose connection is to be there, and whose is not.
pub(in crate::ike) struct PeerMark {
    /// Who it is, in the words of its trust.
    pub name: [u8; 32],
    pub wanted: bool,
    pub held: bool,
}

impl PeerMark {
    pub fn of(peer: &Peer) -> PeerMark {
        PeerMark { name: peer.trust.name, wanted: peer.connection.wanted, held: peer.connection.held }
    }

    fn write(&self, out: &mut Out) {
        out.raw(&self.name);
        out.flag(self.wanted);
        out.flag(self.held);
    }

    fn read(input: &mut In) -> Result<PeerMark, DecodeError> {
        Ok(PeerMark { name: input.array()?, wanted: input.flag()?, held: input.flag()? })
    }
}

impl<'a> Change<'a> {
    pub fn write(&self, out: &mut Out) {
        match self {
            Change::Written(id, record) => {
                out.u8(0);
                out.u64(id.0.0);
                out.bytes(record);
            }
            Change::Gone(id) => {
                out.u8(1);
                out.u64(id.0.0);
            }
            Change::Peer(mark) => {
                out.u8(2);
                mark.write(out);
            }
            Change::Size(peer, remote, size) => {
                out.u8(3);
                out.u16(peer.0);
                out.addr(SocketAddr::new(*remote, 0));
                out.u16(*size);
            }
            Change::SizeGone(peer) => {
                out.u8(4);
                out.u16(peer.0);
            }
        }
    }

    fn read(input: &mut In<'a>) -> Result<Change<'a>, DecodeError> {
        Ok(match input.u8()? {
            0 => Change::Written(SaId(IkeSpi(input.u64()?)), input.part()?),
            1 => Change::Gone(SaId(IkeSpi(input.u64()?))),
            2 => Change::Peer(PeerMark::read(input)?),
            3 => Change::Size(PeerId(input.u16()?), input.addr()?.ip(), input.u16()?),
            4 => Change::SizeGone(PeerId(input.u16()?)),
            _ => return Err(DecodeError::BadValue("kind of change")),
        })
    }
}

/// A snapshot and the changes behind it, as they were left.
pub(in crate::ike) struct Contents<'a> {
    /// When the times in the records begin.
    pub epoch: u64,
    pub peers: BTreeMap<[u8; 32], PeerMark>,
    pub records: BTreeMap<SaId, &'a [u8]>,
    pub sizes: BTreeMap<PeerId, (IpAddr, u16)>,
}

impl<'a> Contents<'a> {
    pub fn read(bytes: &'a [u8]) -> Result<Contents<'a>, RestoreError> {
        let mut input = In::new(bytes);
        if input.raw(MAGIC.len()).ok() != Some(MAGIC.as_slice()) {
            return Err(RestoreError::OtherVersion);
        }
        let epoch = input.u64()?;
        let mut contents = Contents { epoch, peers: BTreeMap::new(), records: BTreeMap::new(), sizes: BTreeMap::new() };
        while !input.is_empty() {
            match Change::read(&mut input)? {
                Change::Written(id, record) => drop(contents.records.insert(id, record)),
                Change::Gone(id) => drop(contents.records.remove(&id)),
                Change::Peer(mark) => drop(contents.peers.insert(mark.name, mark)),
                Change::Size(peer, remote, size) => drop(contents.sizes.insert(peer, (remote, size))),
                Change::SizeGone(peer) => drop(contents.sizes.remove(&peer)),
            }
        }
        Ok(contents)
    }
}
