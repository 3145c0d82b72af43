//! What a successor process needs to go on with the same IKE SAs, as bytes: a snapshot for the vault, and changes to be put behind it.
//! `endpoint/restore` makes them, and takes them back.
//!
//! Kept are the established IKE SAs with keys, message ids, the request under way and the last answer as they were sent, and
//! their Child SAs (the keys of those are in the data plane). Handshakes are not kept: the peers begin them again. A request
//! whose private key died with the process is sent on until it is answered, for the message ids must stay in step; what the
//! peer made of it is deleted again.
//!
//! An outbound key is never kept, though one may still wait for its turn: a snapshot may be read again when the key has been
//! used, and an SA begins at sequence number 1. Such a Child SA is rekeyed after a restart instead.
//!
//! Of peers with static keys the size that is proven on their path is kept: the next process begins there.
//!
//! `contents` and `record` say what is written, `bytes` how. Times are milliseconds since boot, so they mean the same in both processes.
//! Records are kept as they were written: after one change only one is written anew.

mod bytes;
mod clock;
pub(super) mod contents;
pub(super) mod kept;
pub(super) mod record;

pub use clock::BootClock;
pub use contents::RestoreError;
