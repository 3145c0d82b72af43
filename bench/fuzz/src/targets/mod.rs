//! What must hold for any bytes from outside, above the wire formats: the IKE engine, certificates and names, the configuration,
//! the shared memory, frames and packets, STUN and TURN. The targets for the wire formats are in `proto/fuzz`.
//!
//! cargo-fuzz looks for bytes for which it does not hold; `bench/tests/corpora.rs` runs the same functions over the corpora.

pub mod frames;
pub mod inside;
pub mod memory;
pub mod midway;
pub mod names;
pub mod pair;
pub mod reach;
pub mod snapshot;
pub mod text;

/// A target by its name, which is also that of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const ALL: [Target; 15] = [
    ("engine_midway", midway::engine_midway),
    ("engine_stranger", midway::engine_stranger),
    ("engine_inside", inside::engine_inside),
    ("engine_snapshot", snapshot::engine_snapshot),
    ("identity", names::identity),
    ("certificate", names::certificate),
    ("config", text::config),
    ("settings", text::settings),
    ("channel_ring", memory::channel_ring),
    ("channel_tables", memory::channel_tables),
    ("ip_packet", frames::ip_packet),
    ("split", frames::split),
    ("coalesce", frames::coalesce),
    ("stun_message", reach::stun_message),
    ("turn_server", reach::turn_server),
];

/// Reads an input piece by piece; what is missing is zero.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(data: &'a [u8]) -> Input<'a> {
        Input(data)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn u8(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(std::array::from_fn(|_| self.u8()))
    }

    /// The next `len` bytes, or what there is.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A part that says its own length in two bytes.
    pub fn part(&mut self) -> &'a [u8] {
        let len = usize::from(self.u16());
        self.bytes(len)
    }
}
