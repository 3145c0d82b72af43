//! Hexadecimal digits, as people write keys and key ids.

/// The bytes that the digits stand for; `None` for an odd number of them, or anything else among them.
pub(crate) fn decode(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    // In one allocation: keys are among what is read, and no copy must stay behind.
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    for pair in digits.chunks_exact(2) {
        bytes.push(nibble(pair[0])? << 4 | nibble(pair[1])?);
    }
    Some(bytes)
}

/// Adds the digits of the bytes to a text that has room for them: where there is too little, a copy may stay behind.
pub(crate) fn encode(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        for nibble in [byte >> 4, byte & 0xf] {
            out.push(char::from_digit(nibble.into(), 16).unwrap_or('?'));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_read_as_they_are_written() {
        let (bytes, mut text) = (Vec::from_iter(0..=255), String::new());
        encode(&bytes, &mut text);
        assert!(text.starts_with("000102") && text.ends_with("fdfeff"), "{text}");
        assert_eq!(decode(&text), Some(bytes));
    }

    #[test]
    fn digits_of_both_cases_in_pairs_and_nothing_else() {
        assert_eq!(decode("00fF7a"), Some(vec![0, 0xff, 0x7a]));
        assert_eq!(decode(""), Some(Vec::new()));
        for text in ["0", "0g", "+1", " 1", "1é"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
