//! `struct virtio_net_hdr` of ten bytes (virtio 1.2, section 5.1.6, without `num_buffers`), which stands in front of every
//! frame read from or written to the TAP and says what the kernel left open or may do later.

/// Length in bytes.
pub const LEN: usize = 10;

/// Flag: the checksum from `csum_start` to the end is to be completed; the field holds the pseudo-header sum.
pub const NEEDS_CSUM: u8 = 1;

/// One frame, not a super-frame.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4, to be cut into segments of `gso_size` payload bytes.
pub const GSO_TCPV4: u8 = 1;
/// TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// UDP over IPv4 or IPv6, to be cut into datagrams of `gso_size` payload bytes (Linux 6.2).
pub const GSO_UDP_L4: u8 = 5;
/// Added to a TCP type: the first segment carries CWR.
pub const GSO_ECN: u8 = 0x80;

/// The header's fields, in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// [`NEEDS_CSUM`] or 0; other bits of the kernel are kept.
    pub flags: u8,
    /// One of the `GSO_` constants.
    pub gso_type: u8,
    /// Length of all headers of a super-frame, a hint only.
    pub hdr_len: u16,
    /// Payload bytes of every segment but the last.
    pub gso_size: u16,
    /// Where the transport header begins, counted from the first byte of the Ethernet frame.
    pub csum_start: u16,
    /// Where the checksum field is, counted from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Reads the fields. The kernel writes them in the machine's order unless told otherwise (TUNSETVNETLE).
    #[inline(always)]
    pub fn parse(bytes: &[u8; LEN]) -> VnetHeader {
        let [flags, gso_type, h0, h1, s0, s1, c0, c1, o0, o1] = *bytes;
        VnetHeader {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([h0, h1]),
            gso_size: u16::from_le_bytes([s0, s1]),
            csum_start: u16::from_le_bytes([c0, c1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
        }
    }

    /// Writes the fields.
    #[inline(always)]
    pub fn write(&self, out: &mut [u8; LEN]) {
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [s0, s1] = self.gso_size.to_le_bytes();
        let [c0, c1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        *out = [self.flags, self.gso_type, h0, h1, s0, s1, c0, c1, o0, o1];
    }

    /// How many frames the kernel says a read of `len` bytes is; at least 1.
    pub fn frames(&self, len: usize) -> u64 {
        let payload = len.saturating_sub(self.hdr_len.into());
        if self.gso_type == GSO_NONE { 1 } else { payload.div_ceil(usize::from(self.gso_size).max(1)).max(1) as u64 }
    }

    /// True when the kernel left a checksum open.
    #[inline(always)]
    pub const fn needs_csum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_kernel_puts_them() {
        let bytes = [1, 0x81, 66, 0, 0x78, 5, 34, 0, 16, 0];
        let header = VnetHeader::parse(&bytes);
        let fields = VnetHeader { flags: 1, gso_type: 0x81, hdr_len: 66, gso_size: 1400, csum_start: 34, csum_offset: 16 };
        assert_eq!(header, fields);
        assert!(header.needs_csum());
        let mut out = [0; LEN];
        header.write(&mut out);
        assert_eq!(out, bytes);
    }
}
