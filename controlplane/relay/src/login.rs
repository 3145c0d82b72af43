//! The login: a client shows that it holds its key by signing what only the two ends of its TLS connection know, in the request
//! that opens the WebSocket, and names the rooms it wants to be in.
//!
//! ```text
//! GET /v1/relay HTTP/1.1
//! Sec-WebSocket-Protocol: adit-relay-1
//! Authorization: Adit key=KEY, sig=SIGNATURE, rooms=ROOM;ROOM[, token=TOKEN]
//! ```
//! KEY, SIGNATURE and TOKEN are base64url. What is signed is the name of this login, the exporter of the connection (RFC 8446
//! §7.5, RFC 9266 has the same idea) and the SHA-256 of rooms, a zero byte and the token: so a login cannot be replayed on
//! another connection, not used behind something that ends TLS in front of the relay, and not be given other rooms. What the
//! relay says to a wrong one is one word.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use adit_proto::limits::ROOMS_OF_CLIENT_MAX;
use adit_proto::relay::{PeerKey, RoomName};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::key::ClientKey;
use crate::limits::{TOKEN_LEN_MAX, TOKEN_LEN_MIN};

/// Where a client asks for the WebSocket.
pub const PATH: &str = "/v1/relay";
/// By which both ends derive what is signed from the secrets of their connection.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-adit-relay-login";
/// How the header begins.
const SCHEME: &str = "Adit ";
/// Begins what is signed, so that a signature says nothing elsewhere.
const CONTEXT: &[u8] = b"adit relay login 1";

/// What both ends of a TLS connection know, and nobody else.
pub type Exporter = [u8; 32];

/// Why somebody is not let in, in a word that a client can act on; all that a stranger learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The header is missing or is not as described above.
    BadLogin,
    /// It is of another connection, of another key, or TLS ends before the relay.
    BadSignature,
    UnknownRoom,
    /// The room neither lists the key nor takes the token.
    NotListed,
    /// There are as many connections as there may be: in all, of the address or of a room.
    Full,
    /// Newer connections of this key take its place again and again.
    ReplacedWait,
    /// The relay is about to end.
    Draining,
}

impl Refusal {
    pub const ALL: [Refusal; 7] = [
        Refusal::BadLogin,
        Refusal::BadSignature,
        Refusal::UnknownRoom,
        Refusal::NotListed,
        Refusal::Full,
        Refusal::ReplacedWait,
        Refusal::Draining,
    ];

    /// As it is sent.
    pub const fn word(self) -> &'static str {
        match self {
            Refusal::BadLogin => "bad-login",
            Refusal::BadSignature => "bad-signature",
            Refusal::UnknownRoom => "unknown-room",
            Refusal::NotListed => "not-listed",
            Refusal::Full => "full",
            Refusal::ReplacedWait => "replaced-wait",
            Refusal::Draining => "draining",
        }
    }

    /// What a word means.
    pub fn from_word(word: &str) -> Option<Refusal> {
        Refusal::ALL.into_iter().find(|refusal| refusal.word() == word)
    }
}

/// A secret that opens a room or the pages. Wiped when dropped, compared in constant time, never printed.
#[derive(Clone)]
pub struct Token(Arc<Zeroizing<Vec<u8>>>);

impl Token {
    /// Takes the content of a file; white space around it does not count. `None` where it can be guessed or not be sent.
    pub fn from_file(bytes: &[u8]) -> Option<Token> {
        let text = bytes.trim_ascii();
        let is_token = (TOKEN_LEN_MIN..=TOKEN_LEN_MAX).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic);
        is_token.then(|| Token(Arc::new(Zeroizing::new(text.to_vec()))))
    }

    /// Whether this was sent in its place.
    pub fn is(&self, sent: &[u8]) -> bool {
        verify_slices_are_equal(sent, &self.0).is_ok()
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What a client says of itself.
#[derive(Debug)]
pub struct Login {
    pub key: PeerKey,
    /// Each once, at least one.
    pub rooms: Vec<RoomName>,
    token: Option<Token>,
    /// What is signed of the above, and the signature.
    claims: [u8; 32],
    signature: Vec<u8>,
}

impl Login {
    /// Reads the header.
    ///
    /// # Errors
    /// It is not as described above.
    pub fn read(header: &[u8]) -> Result<Login, Refusal> {
        let text = std::str::from_utf8(header).map_err(|_| Refusal::BadLogin)?;
        let fields = text.strip_prefix(SCHEME).ok_or(Refusal::BadLogin)?;
        let (mut key, mut signature, mut rooms, mut token) = (None, None, None, None);
        for field in fields.split(',') {
            let (name, value) = field.trim_matches(' ').split_once('=').ok_or(Refusal::BadLogin)?;
            let place = match name {
                "key" => &mut key,
                "sig" => &mut signature,
                "rooms" => &mut rooms,
                "token" => &mut token,
                // What a later version adds says nothing here.
                _ => continue,
            };
            if place.replace(value).is_some() {
                return Err(Refusal::BadLogin);
            }
        }
        let decoded = |text: Option<&str>| URL_SAFE_NO_PAD.decode(text.unwrap_or_default()).map_err(|_| Refusal::BadLogin);
        let key = PeerKey(decoded(key)?.try_into().map_err(|_| Refusal::BadLogin)?);
        let rooms_text = rooms.ok_or(Refusal::BadLogin)?;
        let token = match token {
            Some(_) => Some(Token::from_file(&Zeroizing::new(decoded(token)?)).ok_or(Refusal::BadLogin)?),
            None => None,
        };
        let claims = claims(rooms_text, token.as_ref());
        Ok(Login { key, rooms: read_rooms(rooms_text)?, token, claims, signature: decoded(signature)? })
    }

    /// Whether who sent it holds the key, and sent it on this connection.
    ///
    /// # Errors
    /// [`Refusal::BadSignature`].
    pub fn verify(&self, exporter: &Exporter) -> Result<(), Refusal> {
        let key = UnparsedPublicKey::new(&ED25519, &self.key.0);
        key.verify(&signed(exporter, &self.claims), &self.signature).map_err(|_| Refusal::BadSignature)
    }
}

fn read_rooms(text: &str) -> Result<Vec<RoomName>, Refusal> {
    let mut rooms = Vec::new();
    for name in text.split(';') {
        let room = RoomName::new(name).map_err(|_| Refusal::BadLogin)?;
        if rooms.len() == ROOMS_OF_CLIENT_MAX || rooms.contains(&room) {
            return Err(Refusal::BadLogin);
        }
        rooms.push(room);
    }
    Ok(rooms)
}

/// The header of a client.
pub fn header(key: &ClientKey, exporter: &Exporter, rooms: &[RoomName], token: Option<&Token>) -> Zeroizing<String> {
    let rooms = rooms.iter().map(RoomName::as_str).collect::<Vec<_>>().join(";");
    let signature = key.sign(&signed(exporter, &claims(&rooms, token)));
    let (key, signature) = (URL_SAFE_NO_PAD.encode(key.public().0), URL_SAFE_NO_PAD.encode(signature.as_ref()));
    let mut header = Zeroizing::new(format!("{SCHEME}key={key}, sig={signature}, rooms={rooms}"));
    if let Some(token) = token {
        header.push_str(", token=");
        header.push_str(&Zeroizing::new(URL_SAFE_NO_PAD.encode(token.bytes())));
    }
    header
}

/// No room has a zero byte in its name, so it is told where the rooms end.
fn claims(rooms: &str, token: Option<&Token>) -> [u8; 32] {
    let mut text = Zeroizing::new(rooms.as_bytes().to_vec());
    text.reserve_exact(1 + TOKEN_LEN_MAX);
    text.push(0);
    text.extend_from_slice(token.map_or(&[][..], Token::bytes));
    let mut claims = [0; 32];
    claims.copy_from_slice(digest(&SHA256, &text).as_ref());
    claims
}

fn signed(exporter: &Exporter, claims: &[u8; 32]) -> Vec<u8> {
    [CONTEXT, exporter, claims].concat()
}

/// Who may be in a room.
#[derive(Clone, Debug, Default)]
pub struct Guests {
    pub keys: BTreeSet<PeerKey>,
    pub token: Option<Token>,
}

impl Guests {
    fn admit(&self, login: &Login) -> bool {
        let by_token = || matches!((&self.token, &login.token), (Some(token), Some(sent)) if token.is(sent.bytes()));
        self.keys.contains(&login.key) || by_token()
    }
}

/// Who may be in which room.
#[derive(Clone, Debug, Default)]
pub struct Access(pub BTreeMap<RoomName, Guests>);

impl Access {
    /// Whether somebody may be in all the rooms that they name.
    ///
    /// # Errors
    /// The first room that there is not, or where they may not be.
    pub fn admit(&self, login: &Login) -> Result<(), Refusal> {
        for room in &login.rooms {
            let guests = self.0.get(room).ok_or(Refusal::UnknownRoom)?;
            if !guests.admit(login) {
                return Err(Refusal::NotListed);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rooms(names: &[&str]) -> Vec<RoomName> {
        names.iter().map(|name| RoomName::new(name).unwrap()).collect()
    }

    fn token(text: &str) -> Token {
        Token::from_file(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_login_holds_on_its_connection_alone() {
        let key = ClientKey::generate().unwrap();
        let token = token("0123456789abcdefghij");
        for sent in [None, Some(&token)] {
            let header = header(&key, &[7; 32], &rooms(&["lab", "yard.2"]), sent);
            let login = Login::read(header.as_bytes()).unwrap();
            assert_eq!((login.key, &login.rooms), (key.public(), &rooms(&["lab", "yard.2"])));
            assert_eq!(login.verify(&[7; 32]), Ok(()));
            assert_eq!(login.verify(&[8; 32]), Err(Refusal::BadSignature));
        }
    }

    #[test]
    fn nobody_can_take_parts_of_a_login_for_another() {
        let key = ClientKey::generate().unwrap();
        let other = ClientKey::generate().unwrap();
        let header = header(&key, &[7; 32], &rooms(&["lab", "yard"]), Some(&token("0123456789abcdefghij")));
        let wrong = [
            header.replace("lab;yard", "lab"),
            header.replace("lab;yard", "yard;lab"),
            header.split(", token").next().unwrap().to_owned(),
            header.replace(&key.public().to_string(), &other.public().to_string()),
        ];
        for wrong in wrong {
            assert_eq!(Login::read(wrong.as_bytes()).unwrap().verify(&[7; 32]), Err(Refusal::BadSignature), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_login_is_refused_as_such() {
        let key = ClientKey::generate().unwrap();
        let good = header(&key, &[7; 32], &rooms(&["lab"]), None);
        let many: Vec<String> = (0..=ROOMS_OF_CLIENT_MAX).map(|n| format!("r{n}")).collect();
        let wrong = [
            String::new(),
            "Bearer abc".to_owned(),
            good.replace("Adit ", "Adit"),
            good.replace("rooms=lab", "rooms="),
            good.replace("rooms=lab", "rooms=lab;lab"),
            good.replace("rooms=lab", "rooms=LAB"),
            good.replace("rooms=lab", "rooms=.."),
            good.replace("rooms=lab", &format!("rooms={}", many.join(";"))),
            good.replace("key=", "key=A"),
            good.replace("sig=", "sig=*"),
            good.replace("sig=", "seal="),
            format!("{}, key=AAAA", *good),
            format!("{}, token=", *good),
            format!("{},", *good),
        ];
        for wrong in wrong {
            let refusal = Login::read(wrong.as_bytes()).and_then(|login| login.verify(&[7; 32]));
            assert!(refusal.is_err(), "{wrong}");
        }
        let newer = format!("{}, later=x", *good);
        assert!(Login::read(newer.as_bytes()).is_ok(), "a field of a later version");
    }

    #[test]
    fn a_room_lets_in_whom_it_lists_or_who_has_its_token() {
        let (listed, stranger) = (ClientKey::generate().unwrap(), ClientKey::generate().unwrap());
        let (right, wrong) = (token("0123456789abcdefghij"), token("0123456789abcdefghik"));
        let lab = Guests { keys: [listed.public()].into(), token: Some(right.clone()) };
        let yard = Guests { keys: [listed.public()].into(), token: None };
        let access = Access([rooms(&["lab"])[0].clone(), rooms(&["yard"])[0].clone()].into_iter().zip([lab, yard]).collect());
        let admit = |key: &ClientKey, names: &[&str], token: Option<&Token>| {
            access.admit(&Login::read(header(key, &[0; 32], &rooms(names), token).as_bytes()).unwrap())
        };
        assert_eq!(admit(&listed, &["lab", "yard"], None), Ok(()));
        assert_eq!(admit(&stranger, &["lab"], Some(&right)), Ok(()));
        assert_eq!(admit(&stranger, &["lab"], Some(&wrong)), Err(Refusal::NotListed));
        assert_eq!(admit(&stranger, &["lab"], None), Err(Refusal::NotListed));
        assert_eq!(admit(&stranger, &["yard"], Some(&right)), Err(Refusal::NotListed));
        assert_eq!(admit(&listed, &["lab", "attic"], None), Err(Refusal::UnknownRoom));
    }

    #[test]
    fn each_refusal_has_a_word_that_reads_back() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_word(refusal.word()), Some(refusal));
        }
        assert_eq!(Refusal::from_word("welcome"), None);
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(header in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Login::read(&header);
        }

        #[test]
        fn a_header_with_anything_in_its_fields_is_read_or_refused(key in ".{0,60}", sig in ".{0,90}", rooms in ".{0,80}") {
            let _ = Login::read(format!("Adit key={key}, sig={sig}, rooms={rooms}").as_bytes());
        }
    }
}
