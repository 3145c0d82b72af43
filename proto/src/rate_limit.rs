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

    /// Whether a read that is so many frames may go. A super-frame goes whole, and what it took too much is paid back before
    /// the next one goes.
    pub fn take(&mut self, frames: u64, now_us: u64) -> bool {
        let passed_us = i64::try_from(now_us.saturating_sub(self.filled_us)).unwrap_or(i64::MAX);
        self.filled_us = now_us;
        let more = passed_us.saturating_mul(self.per_second);
        self.tokens = self.tokens.saturating_add(more).min(self.per_second * TOKEN);
        let allowed = self.tokens >= TOKEN;
        if allowed {
            self.tokens -= frames as i64 * TOKEN;
        }
        allowed
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
        let cost = 1_000_000 / u64::from(per_second.max(1));
        let from = self.0.max(now_us);
        let until = from.saturating_add(cost);
        let allowed = until <= now_us.saturating_add(1_000_000);
        if allowed {
            self.0 = until;
        }
        allowed
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
    fn a_super_frame_is_charged_for_each_of_its_frames() {
        let mut limit = RateLimit::new(100);
        assert_eq!((0..10).filter(|_| limit.take(40, 5_000_000)).count(), 3, "the third has tokens, but not for all of it");
        assert!(!limit.take(1, 5_200_000), "the twenty too many are paid back first");
        assert!(limit.take(1, 5_220_000));
        assert!(limit.take(1, u64::MAX), "however long it was silent");
    }
}
