//! Who may use the API over TCP: whoever sends the token of the configuration, as `Authorization: Bearer TOKEN`.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Json, Response};
use zeroize::Zeroizing;

use super::types::Outcome;

/// Fewer characters can be guessed.
pub const LEN_MIN: usize = 20;

/// A token. Wiped when dropped, compared in constant time, never printed.
#[derive(Clone)]
pub struct Token(Arc<Zeroizing<Vec<u8>>>);

impl Token {
    /// Takes the content of a file; white space around it does not count. `None` when it is too short or not plain ASCII.
    pub fn from_file(bytes: &[u8]) -> Option<Token> {
        let text = bytes.trim_ascii();
        (text.len() >= LEN_MIN && text.iter().all(u8::is_ascii_graphic)).then(|| Token(Arc::new(Zeroizing::new(text.to_vec()))))
    }

    fn is_in(&self, headers: &HeaderMap) -> bool {
        let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        sent.is_some_and(|sent| verify_slices_are_equal(sent, &self.0).is_ok())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Lets a request pass that has the token.
pub async fn required(State(token): State<Token>, request: Request, next: Next) -> Response {
    if token.is_in(request.headers()) {
        return next.run(request).await;
    }
    let error = "this API wants a token: send the header `Authorization: Bearer TOKEN` with the content of api.token_file";
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    (StatusCode::UNAUTHORIZED, challenge, Json(Outcome { ok: false, error: error.to_owned() })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_opens() {
        let token = Token::from_file(b"  0123456789abcdefghij\n").unwrap();
        let with = |value: &str| HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
        assert!(token.is_in(&with("Bearer 0123456789abcdefghij")));
        for wrong in [
            "Bearer 0123456789abcdefghi",
            "Bearer 0123456789abcdefghijk",
            "0123456789abcdefghij",
            "Basic 0123456789abcdefghij",
            "Bearer ",
        ] {
            assert!(!token.is_in(&with(wrong)), "{wrong}");
        }
        assert!(!token.is_in(&HeaderMap::new()));
        assert_eq!(format!("{token:?}"), "Token(…)");
    }

    #[test]
    fn what_can_be_guessed_or_not_be_sent_is_no_token() {
        assert!(Token::from_file(b"too short\n").is_none());
        assert!(Token::from_file("0123456789abcdefghijé".as_bytes()).is_none());
    }
}
