//! The token that opens the API over TCP. Wiped when dropped, compared in constant time, never printed.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

use crate::limits::TOKEN_LEN_MIN;

/// A token.
#[derive(Clone)]
pub struct Token(Arc<Zeroizing<Vec<u8>>>);

impl Token {
    /// Takes the content of a file; white space around it does not count. `None` when it is too short or not plain ASCII.
    pub fn from_file(bytes: &[u8]) -> Option<Token> {
        let text = bytes.trim_ascii();
        (text.len() >= TOKEN_LEN_MIN && text.iter().all(u8::is_ascii_graphic))
            .then(|| Token(Arc::new(Zeroizing::new(text.to_vec()))))
    }

    /// Whether this was sent in its place.
    pub fn is(&self, sent: &[u8]) -> bool {
        verify_slices_are_equal(sent, &self.0).is_ok()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_opens_and_it_is_not_printed() {
        let token = Token::from_file(b"  0123456789abcdefghij\n").unwrap();
        assert!(token.is(b"0123456789abcdefghij"));
        for wrong in ["0123456789abcdefghi", "0123456789abcdefghijk", "", "0123456789ABCDEFGHIJ"] {
            assert!(!token.is(wrong.as_bytes()), "{wrong}");
        }
        assert_eq!(format!("{token:?}"), "Token(…)");
    }

    #[test]
    fn what_can_be_guessed_or_not_be_sent_is_no_token() {
        assert!(Token::from_file(b"too short\n").is_none());
        assert!(Token::from_file("0123456789abcdefghijé".as_bytes()).is_none());
    }
}
