//! What a proof of a path is asked for.

/// What moves to a path once it is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Moves {
    Nothing,
    Esp,
    Both,
}
