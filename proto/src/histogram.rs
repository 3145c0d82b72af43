//! Log-linear latency buckets, shared by both planes: 32 per power of two, so a bucket is at most 1/32 (3 %) wide.
//!
//! Values are nanoseconds below 2^36 (69 seconds); higher ones count in the last bucket. Below 64 every value is exact.

const SUB_LOG: u32 = 5;
const SUB: u64 = 1 << SUB_LOG;
const VALUE_LOG: u32 = 36;

/// How many buckets a histogram has.
pub const BUCKETS: usize = (VALUE_LOG - SUB_LOG + 1) as usize * SUB as usize;

/// The highest value that is told apart; higher ones saturate.
pub const VALUE_MAX: u64 = (1 << VALUE_LOG) - 1;

/// Index of the bucket that counts this value, below [`BUCKETS`].
#[inline]
pub const fn bucket_of(ns: u64) -> usize {
    let value = if ns > VALUE_MAX { VALUE_MAX } else { ns };
    // Linear below 64; above, the five bits after the leading one choose the bucket inside the power of two.
    let shift = (value | SUB).ilog2() - SUB_LOG;
    (shift as u64 * SUB + (value >> shift)) as usize
}

/// The lowest value of a bucket.
pub const fn lowest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * SUB { bucket } else { (SUB + bucket % SUB) << (bucket / SUB - 1) }
}

/// The highest value of a bucket (of the last one: the highest value that is told apart).
pub const fn highest(bucket: usize) -> u64 {
    lowest(bucket + 1) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_each_other_without_gap() {
        assert_eq!(BUCKETS, 1024);
        assert_eq!(lowest(0), 0);
        assert_eq!(highest(BUCKETS - 1), VALUE_MAX);
        for bucket in 0..BUCKETS {
            assert_eq!(bucket_of(lowest(bucket)), bucket);
            assert_eq!(bucket_of(highest(bucket)), bucket);
            assert!(highest(bucket) - lowest(bucket) <= lowest(bucket) / 32);
        }
        for value in 0..64 {
            assert_eq!(lowest(bucket_of(value)), highest(bucket_of(value)));
        }
    }

    #[test]
    fn high_values_saturate() {
        assert_eq!(bucket_of(VALUE_MAX), BUCKETS - 1);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_bucket(value: u64, shift in 0u32..64) {
            let value = value >> shift;
            let bucket = bucket_of(value);
            prop_assert!(bucket < BUCKETS);
            prop_assert!(lowest(bucket) <= value.min(VALUE_MAX) && value.min(VALUE_MAX) <= highest(bucket));
        }
    }
}
