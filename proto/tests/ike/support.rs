//! What several tests of IKE messages share.

/// RFC 7634 appendix B: an INFORMATIONAL request whose only payload is N(SET_WINDOW_SIZE), sealed.
pub const RFC7634: &str = "
    c0c1c2c3c4c5c6c7 d0d1d2d3d4d5d6d7 2e 20 25 00 00000009 00000045
    29 00 0029 1011121314151617 610394701f8d017f7c12924889 6b71bfe25236efd7cdc67066906315b2";

/// Bytes from hexadecimal digits; white space is skipped, and so is what follows a `#`.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .lines()
        .flat_map(|line| line.split('#').next().unwrap_or_default().chars())
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).expect("a hexadecimal digit") as u8)
        .collect();
    assert_eq!(digits.len() % 2, 0, "half a byte in {text}");
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
