//! Rates of the packet path: what goes to all peers, and what goes up to the control plane, is limited. Plain integers; whoever calls says
//! what time it is.

/// A bucket of one second's worth, one per worker: plain integers.
pub struct RateLimit {
    per_second: i64,
    /// In millionths of a frame. Below zero after a super-frame of more frames than there were tokens.
    tokens: i64,
    filled_us: u64,
}

/// A token, in millionths.
const TOKEN: i64 = 1_000_000;

impl RateLimit {
    pub fn new(per_second: u32) -> RateLimit {
        let per_second = i64::from(per_second.max(1));
        RateLimit { per_second, tokens: per_second * TOKEN, filled_us: 0 }
    }

    /// Another rate from now on. What was saved up is kept as far as that allows.
    pub fn set_rate(&mut self, per_second: u32) {
        self.per_second = i64::from(per_second.max(1));
        self.tokens = self.tokens.min(self.per_second * TOKEN);
    }

    /// Whether a read that is so many frames may go. A super-frame goes whole, and what it took too much is paid back before
    /// the next one goes.
    pub fn take(&mut self, frames: u64, now_us: u64) -> bool {
        self.fill(now_us);
        let allowed = self.tokens >= TOKEN;
        if allowed {
            self.tokens -= frames as i64 * TOKEN;
        }
        allowed
    }

    fn fill(&mut self, now_us: u64) {
        let passed_us = i64::try_from(now_us.saturating_sub(self.filled_us)).unwrap_or(i64::MAX);
        self.filled_us = now_us;
        let more = passed_us.saturating_mul(self.per_second);
        self.tokens = self.tokens.saturating_add(more).min(self.per_second * TOKEN);
    }
}

/// A bucket of one second's worth that nobody can keep empty for others.
///
/// Out of a plain bucket an even flood takes each token as soon as it is there: of whoever sends now and then, less comes through
/// than of the flood, or nothing at all. Here a message comes through as likely as the bucket is full, from its half down. So where
/// more come than may, it settles where as much goes out as comes in, and each message has the same chance, whoever sent it: the
/// rate by what comes.
pub struct Lot {
    bucket: RateLimit,
    /// SplitMix64 (Steele, Lea and Flood, 2014). Who can foretell it gains a message.
    dice: u64,
}

impl Lot {
    pub fn new(per_second: u32, seed: u64) -> Lot {
        Lot { bucket: RateLimit::new(per_second), dice: seed }
    }

    /// Whether a message may go.
    pub fn take(&mut self, now_us: u64) -> bool {
        self.bucket.fill(now_us);
        let (tokens, half) = (self.bucket.tokens, self.bucket.per_second * (TOKEN / 2));
        let allowed = tokens >= TOKEN && (tokens >= half || self.below(half) < tokens);
        if allowed {
            self.bucket.tokens -= TOKEN;
        }
        allowed
    }

    /// A number from 0 on, less than this one.
    fn below(&mut self, limit: i64) -> i64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.dice ^ self.dice >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(mixed ^ mixed >> 31) * limit.max(0) as u128) >> 64) as i64
    }
}

/// A share of one of very many, in one number: until when it is used up (the generic cell rate algorithm). A second's worth may come at
/// once. All zeros is a share of which nothing is used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share(u64);

impl Share {
    /// Takes one of so many in a second, if there is one left.
    #[inline]
    pub fn take(&mut self, per_second: u32, now_us: u64) -> bool {
        let until = self.after_one(per_second, now_us);
        let allowed = until <= now_us.saturating_add(1_000_000);
        if allowed {
            self.0 = until;
        }
        allowed
    }

    /// Whether there is one left.
    #[inline]
    pub fn has_one(&self, per_second: u32, now_us: u64) -> bool {
        self.after_one(per_second, now_us) <= now_us.saturating_add(1_000_000)
    }

    fn after_one(self, per_second: u32, now_us: u64) -> u64 {
        let cost = 1_000_000 / u64::from(per_second.max(1));
        self.0.max(now_us).saturating_add(cost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_seconds_worth_and_then_its_rate() {
        let mut share = Share::default();
        let mut taken = |per_second, now_us| (0..10_000).filter(|_| share.take(per_second, now_us)).count();
        assert_eq!(taken(100, 5_000_000), 100);
        assert_eq!((taken(100, 5_000_000), taken(100, 5_500_000), taken(100, 9_000_000)), (0, 50, 100));
        assert_eq!(taken(0, 20_000_000), 1, "none is one");
    }

    #[test]
    fn the_limit_lets_a_seconds_worth_through_and_then_its_rate() {
        let mut limit = RateLimit::new(100);
        assert_eq!((0..150).filter(|_| limit.take(1, 5_000_000)).count(), 100);
        assert_eq!((0..150).filter(|_| limit.take(1, 5_500_000)).count(), 50);
        assert_eq!((0..150).filter(|_| limit.take(1, 9_000_000)).count(), 100);
    }

    #[test]
    fn an_even_flood_leaves_others_their_part_by_lot() {
        // Every phase of one that asks now and then, beside floods whose pace meets that of the bucket exactly, or does not.
        for (flood_per_s, rate) in
            [(60_000u64, 30_000u32), (60_000, 20_000), (1_000_000, 30_000), (47_123, 30_000), (29_000, 30_000)]
        {
            let mut lot = Lot::new(rate, 7);
            let (mut passed, mut own, mut tried) = (0u64, 0u32, 0u32);
            let mut next_own = 2_000_000;
            for n in 0..5 * flood_per_s {
                let now_us = 1_000_000 + n * 1_000_000 / flood_per_s;
                if now_us >= next_own {
                    tried += 1;
                    own += u32::from(lot.take(now_us));
                    next_own += 2003;
                }
                passed += u64::from(lot.take(now_us));
            }
            let chance = (f64::from(rate) / flood_per_s as f64).min(1.0);
            let came = f64::from(own) / f64::from(tried);
            assert!((came - chance).abs() < 0.25 * chance, "{own} of {tried} beside {flood_per_s} a second");
            assert!(passed <= 6 * u64::from(rate), "{passed} in five seconds");
        }
    }

    #[test]
    fn a_lot_lets_half_a_seconds_worth_through_at_once_for_sure() {
        let mut lot = Lot::new(100, 7);
        assert!((0..50).all(|_| lot.take(1)) && (0..10_000).filter(|_| lot.take(1)).count() <= 50);
        assert!(!lot.take(1) && (0..50).all(|_| lot.take(2_000_000)));
    }

    #[test]
    fn another_rate_holds_from_the_next_frame_on() {
        let mut limit = RateLimit::new(100);
        assert_eq!((0..60).filter(|_| limit.take(1, 5_000_000)).count(), 60);
        limit.set_rate(10);
        assert_eq!((0..60).filter(|_| limit.take(1, 5_000_000)).count(), 10, "no more is saved up than a second's worth");
        limit.set_rate(1000);
        assert_eq!((0..1000).filter(|_| limit.take(1, 5_100_000)).count(), 100);
    }

    #[test]
    fn a_super_frame_is_charged_for_each_of_its_frames() {
        let mut limit = RateLimit::new(100);
        assert_eq!((0..10).filter(|_| limit.take(40, 5_000_000)).count(), 3, "the third has tokens, but not for all of it");
        assert!(!limit.take(1, 5_200_000), "the twenty too many are paid back first");
        assert!(limit.take(1, 5_220_000));
        assert!(limit.take(1, u64::MAX), "however long it was silent");
    }
}
