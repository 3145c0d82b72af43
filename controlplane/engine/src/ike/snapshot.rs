//! What a successor process needs to go on with the same IKE SAs: [`Endpoint::snapshot`] for the vault, [`Endpoint::restore`].
//!
//! Kept are the established IKE SAs with keys, message ids, the request under way and the last answer as they were sent, and
//! their Child SAs (the keys of those are in the data plane). Handshakes are not kept: the peers begin them again. A request
//! whose private key died with the process is sent on until it is answered, for the message ids must stay in step; what the
//! peer made of it is deleted again.
//!
//! `record` says what is written, `bytes` how. Times are milliseconds since boot, so they mean the same in both processes.

mod bytes;
mod record;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use adit_proto::codec::DecodeError;
use adit_proto::control::Spi;
use zeroize::Zeroizing;

use super::config::{Now, PeerId};
use super::connection::ConnectionState;
use super::context::Ctx;
use super::endpoint::Endpoint;
use super::event::Event;
use super::sa::{IkeSa, SaId};
use bytes::{In, Out};

/// The first bytes, and the version of what follows.
const MAGIC: &[u8; 8] = b"ADITIKE\x02";

/// The monotonic clock, as a number that outlives the process.
#[derive(Clone, Copy, Debug)]
pub struct BootClock {
    now: Instant,
    boot_ms: u64,
}

/// Bytes of the vault that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error("the vault holds no IKE state of this version")]
    OtherVersion,
    #[error("the IKE state in the vault is damaged: {0}")]
    Damaged(#[from] DecodeError),
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// IKE SAs that go on.
    pub ike_sas: usize,
    /// IKE SAs of peers that are not configured any more, or whose record makes no sense. They are forgotten; the peers find
    /// out by themselves.
    pub forgotten: usize,
    /// The inbound SPIs that have an owner. Every other SA in the data plane is to be removed by the shell.
    pub inbound: Vec<Spi>,
    /// The outbound SPIs, by peer, that are in use.
    pub outbound: Vec<(PeerId, Spi)>,
}

impl BootClock {
    /// `boot_ms` is the time since boot, in milliseconds, at `now`.
    pub fn new(now: Instant, boot_ms: u64) -> BootClock {
        BootClock { now, boot_ms }
    }

    fn to_ms(self, at: Instant) -> u64 {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        match at.checked_duration_since(self.now) {
            Some(ahead) => self.boot_ms.saturating_add(millis(ahead)),
            None => self.boot_ms.saturating_sub(millis(self.now.saturating_duration_since(at))),
        }
    }

    /// An instant before this process began may not exist; then it is as early as can be.
    fn instant(self, ms: u64) -> Instant {
        match ms.checked_sub(self.boot_ms) {
            Some(ahead) => self.now.checked_add(Duration::from_millis(ahead)).unwrap_or(self.now),
            None => self.now.checked_sub(Duration::from_millis(self.boot_ms - ms)).unwrap_or(self.now),
        }
    }
}

impl Endpoint {
    /// Everything that a successor needs, to be kept secret. To be written whenever [`Endpoint::take_changed`] says so, before
    /// the next datagram is sent.
    pub fn snapshot(&self, clock: BootClock) -> Zeroizing<Vec<u8>> {
        let mut out = Out::new();
        out.raw(MAGIC);
        out.u32(self.shared.peers.values().filter(|peer| peer.connection.wanted).count());
        for (id, _) in self.shared.peers.iter().filter(|(_, peer)| peer.connection.wanted) {
            out.u16(id.0);
        }
        let kept: Vec<&IkeSa> = self.sas.values().filter(|sa| sa.session().is_some() && sa.peer.is_some()).collect();
        out.u32(kept.len());
        for sa in kept {
            out.part(|out| record::write(out, clock, sa));
        }
        out.finish()
    }

    /// Goes on where the process before this one was. To be called once, after all peers have been set and before anything
    /// else; nothing is sent before the next call of `handle_timeout`.
    ///
    /// # Errors
    /// The bytes are no snapshot. Then nothing has changed, and the peers have to be connected anew.
    pub fn restore(&mut self, now: Now, clock: BootClock, bytes: &[u8]) -> Result<Restored, RestoreError> {
        let mut input = In::new(bytes);
        if input.raw(MAGIC.len()).ok() != Some(MAGIC.as_slice()) {
            return Err(RestoreError::OtherVersion);
        }
        let wanted: Vec<PeerId> = input.list(|input| input.u16().map(PeerId))?;
        let records: Vec<&[u8]> = input.list(In::part)?;
        input.finish()?;
        for id in wanted {
            if let Some(peer) = self.shared.peers.get_mut(&id) {
                peer.connection.wanted = true;
            }
        }
        let mut restored = Restored::default();
        for bytes in records {
            let mut ctx = Ctx::new(now, &mut *self.random, &mut self.shared);
            match record::read(&mut ctx, clock, bytes) {
                Some(sa) => {
                    restored.ike_sas += 1;
                    self.adopt(now, sa);
                }
                None => restored.forgotten += 1,
            }
        }
        self.forget_lost_predecessors();
        self.choose_current(now);
        let spis: BTreeMap<Spi, SaId> = self.shared.spis.iter().collect();
        restored.inbound = spis.into_keys().collect();
        let sending = self.sas.values().filter_map(IkeSa::session).flat_map(|session| {
            session.children.iter().filter(|child| child.outbound_key.is_none()).map(|child| (session.peer, child.outbound))
        });
        restored.outbound = sending.collect();
        Ok(restored)
    }

    fn adopt(&mut self, now: Now, sa: IkeSa) {
        if let Some(peer) = sa.peer.and_then(|peer| self.shared.peers.get_mut(&peer)) {
            peer.sas.push(sa.id);
        }
        let id = sa.id;
        self.put_back(now, sa);
        self.run(now, id, |sa, _| sa.confirm_path());
    }

    /// Who was to inherit from an IKE SA that is not there any more has nothing to wait for.
    fn forget_lost_predecessors(&mut self) {
        let there: Vec<SaId> = self.sas.keys().copied().collect();
        for session in self.sas.values_mut().filter_map(IkeSa::session_mut) {
            session.predecessor = session.predecessor.filter(|id| there.binary_search(id).is_ok());
        }
    }

    /// Every peer with an IKE SA is established.
    fn choose_current(&mut self, now: Now) {
        let rank = |id: &SaId| {
            let session = self.sas.get(id)?.session().filter(|one| one.heir.is_none() && one.redundant_since.is_none())?;
            Some((session.predecessor.is_none(), session.children.len(), session.established))
        };
        for (id, peer) in &mut self.shared.peers {
            peer.current = peer.sas.iter().filter(|id| rank(id).is_some()).max_by_key(|id| rank(id)).copied();
            if peer.current.is_some() {
                let (state, cause) = (ConnectionState::Established, None);
                peer.connection.enter(now.instant, state, None);
                self.shared.events.push_back(Event::State { peer: *id, state, cause });
            }
        }
    }
}
