//! Chance, for the pure machines of the engine.

use adit_engine::random::Random;

/// Numbers of the generator that all of this process uses.
pub fn system() -> Box<dyn Random + Send> {
    Box::new(|out: &mut [u8]| aws_lc_rs::rand::fill(out).expect("the system's generator cannot fail once it is seeded"))
}
