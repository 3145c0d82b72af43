//! Randomness as an argument, so that the seed of a simulation reproduces its run.

/// A source of random bytes. In the gateway it is the system's generator, which cannot fail once it has been seeded.
///
/// What comes from here: SPIs, nonces, cookie secrets, jitter. The private keys of a key exchange are made by the
/// cryptographic library itself, and nothing that an observer sees of a state machine depends on their values.
pub trait Random {
    /// Fills `out` with bytes that nobody can predict.
    fn fill(&mut self, out: &mut [u8]);

    /// A random number of 32 bits.
    fn u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        u32::from_be_bytes(bytes)
    }

    /// A random number of 64 bits.
    fn u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_be_bytes(bytes)
    }
}

impl<F: FnMut(&mut [u8])> Random for F {
    fn fill(&mut self, out: &mut [u8]) {
        self(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_bytes_in_network_order() {
        let mut next = 0;
        let mut count = |out: &mut [u8]| {
            for byte in out {
                next += 1;
                *byte = next;
            }
        };
        let random: &mut dyn Random = &mut count;
        assert_eq!((random.u32(), random.u64()), (0x0102_0304, 0x0506_0708_090a_0b0c));
    }
}
