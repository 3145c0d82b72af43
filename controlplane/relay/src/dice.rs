//! The system's generator of random numbers.

/// Fills with what nobody can tell before. It cannot fail once it has been seeded, and long before this it has made the keys of TLS; what
/// must be secret asks [`aws_lc_rs::rand`] itself.
pub(crate) fn dice(out: &mut [u8]) {
    if aws_lc_rs::rand::fill(out).is_err() {
        out.fill(0);
    }
}
