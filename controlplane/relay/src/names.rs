//! The names under which clients ask by STUN, with their keys. They have a lock of their own, so that a flood of questions under false names
//! does not hold up the hall.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{PoisonError, RwLock};

use adit_engine::stun::codec::Key;
use adit_engine::stun::server::Name;
use adit_proto::relay::{STUN_KEY_LEN, STUN_NAME_LEN};

use crate::hall::ConnId;

/// One for each client that is connected.
#[derive(Default)]
pub(crate) struct Names(RwLock<HashMap<Name, Entry>>);

struct Entry {
    conn: ConnId,
    key: Key,
    /// Where it was seen last over IPv4 and IPv6: the hall is told of changes only.
    seen: [Option<SocketAddr>; 2],
}

impl Names {
    /// A client has come; its name.
    pub(crate) fn add(&self, conn: ConnId, key: &[u8; STUN_KEY_LEN]) -> Name {
        let (mut name, (shown, secret)) = (Name::default(), key.split_at(STUN_NAME_LEN));
        name.copy_from_slice(shown);
        let entry = Entry { conn, key: Key::new(secret), seen: [None; 2] };
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name, entry);
        name
    }

    pub(crate) fn remove(&self, name: &Name) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    pub(crate) fn key(&self, name: &Name) -> Option<Key> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).map(|entry| entry.key.clone())
    }

    /// Whose name it is, if it was not seen there before.
    pub(crate) fn moved(&self, name: &Name, at: SocketAddr) -> Option<ConnId> {
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let entry = names.get_mut(name)?;
        let seen = entry.seen.get_mut(usize::from(at.is_ipv6()))?;
        (seen.replace(at) != Some(at)).then_some(entry.conn)
    }
}
