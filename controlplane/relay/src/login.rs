//! The login: a client shows that it holds its key by signing what only the two ends of its TLS connection know, in the request
//! that opens the WebSocket, and names the rooms it wants to be in.
//!
//! ```text
//! GET /v1/relay HTTP/1.1
//! Sec-WebSocket-Protocol: adit-relay-1
//! Authorization: Adit key=KEY, sig=SIGNATURE, rooms=ROOM;ROOM[, token=TOKEN][, probe=1]
//! ```
//! KEY, SIGNATURE and TOKEN are base64url. What is signed is the name of this login, the exporter of the connection (RFC 8446
//! §7.5, RFC 9266 has the same idea) and the SHA-256 of rooms, a zero byte and the token: so a login cannot be replayed on
//! another connection, not used behind something that ends TLS in front of the relay, and not be given other rooms. A probe asks
//! whether it would be let in: it takes no place from a client with its key. What the relay says to a wrong login is one word.

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
/// What is put behind the header of a login that is a probe. It is not signed: who could add it could as well send nothing.
pub const PROBE: &str = ", probe=1";
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
    /// Newer connections of this key take its place again and again, and those before are not closed yet.
    ReplacedWait,
    /// A client with this key logs in too often.
    TooOften,
    /// The relay is about to end.
    Draining,
    /// It is a probe, and the client with its key is there.
    InUse,
}

impl Refusal {
    pub const ALL: [Refusal; 9] = [
        Refusal::BadLogin,
        Refusal::BadSignature,
        Refusal::UnknownRoom,
        Refusal::NotListed,
        Refusal::Full,
        Refusal::ReplacedWait,
        Refusal::TooOften,
        Refusal::Draining,
        Refusal::InUse,
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
            Refusal::TooOften => "too-often",
            Refusal::Draining => "draining",
            Refusal::InUse => "in-use",
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

    /// By what it is known again without being kept.
    pub fn id(&self) -> TokenId {
        let mut id = [0; 32];
        id.copy_from_slice(digest(&SHA256, &self.0).as_ref());
        TokenId(id)
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The SHA-256 of a token. Never printed: a token that people have chosen could be guessed by it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenId([u8; 32]);

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenId(…)")
    }
}

/// What lets somebody in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// The rooms that list its key. In all others it is a guest, who goes when somebody of the list comes and there is no place.
    pub listed: Vec<RoomName>,
    /// The token that it has sent.
    pub token: Option<TokenId>,
    /// It is there to find out whether it may be, and takes nobody's place.
    pub is_probe: bool,
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
    is_probe: bool,
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
        let (mut key, mut signature, mut rooms, mut token, mut probe) = (None, None, None, None, None);
        for field in fields.split(',') {
            let (name, value) = field.trim_matches(' ').split_once('=').ok_or(Refusal::BadLogin)?;
            let place = match name {
                "key" => &mut key,
                "sig" => &mut signature,
                "rooms" => &mut rooms,
                "token" => &mut token,
                "probe" => &mut probe,
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
        let (rooms, signature) = (read_rooms(rooms_text)?, decoded(signature)?);
        Ok(Login { key, rooms, token, is_probe: probe.is_some(), claims, signature })
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
    // At once, so that no copy of the token stays behind where it grows.
    header.reserve_exact(", token=".len() + TOKEN_LEN_MAX.div_ceil(3) * 4 + PROBE.len());
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
    /// Several while one takes the place of another.
    pub tokens: Vec<Token>,
}

impl Guests {
    /// Whether this token is one of the room's. All are compared: how long it takes says nothing of which it is.
    fn take(&self, sent: &Token) -> bool {
        self.tokens.iter().fold(false, |is_one, token| token.is(sent.bytes()) | is_one)
    }
}

/// Who may be in which room.
#[derive(Clone, Debug, Default)]
pub struct Access(pub BTreeMap<RoomName, Guests>);

impl Access {
    /// What lets somebody into all the rooms that they name.
    ///
    /// # Errors
    /// The first room that there is not, or where they may not be. That there is no such room is told to those alone who may be in
    /// another one: a stranger does not find out which there are.
    pub fn admit(&self, login: &Login) -> Result<Pass, Refusal> {
        let takes = |guests: &Guests| login.token.as_ref().is_some_and(|sent| guests.take(sent));
        let mut listed = Vec::new();
        for room in &login.rooms {
            match self.0.get(room) {
                Some(guests) if guests.keys.contains(&login.key) => listed.push(room.clone()),
                Some(guests) if takes(guests) => {}
                Some(_) => return Err(Refusal::NotListed),
                None => {
                    let is_known = self.0.values().any(|guests| guests.keys.contains(&login.key) || takes(guests));
                    return Err(if is_known { Refusal::UnknownRoom } else { Refusal::NotListed });
                }
            }
        }
        Ok(Pass { listed, token: login.token.as_ref().map(Token::id), is_probe: login.is_probe })
    }

    /// What lets somebody now into the rooms in which he is, who came in with this pass; none if nothing does any more.
    pub fn review(&self, key: &PeerKey, rooms: &[RoomName], pass: &Pass) -> Option<Pass> {
        let mut listed = Vec::new();
        for room in rooms {
            let guests = self.0.get(room)?;
            if guests.keys.contains(key) {
                listed.push(room.clone());
            } else if !guests.tokens.iter().any(|token| Some(token.id()) == pass.token) {
                return None;
            }
        }
        Some(Pass { listed, ..pass.clone() })
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
        let lab = Guests { keys: [listed.public()].into(), tokens: vec![token("another-token-of-the-room"), right.clone()] };
        let yard = Guests { keys: [listed.public()].into(), tokens: Vec::new() };
        let access = Access([rooms(&["lab"])[0].clone(), rooms(&["yard"])[0].clone()].into_iter().zip([lab, yard]).collect());
        let admit = |key: &ClientKey, names: &[&str], token: Option<&Token>| {
            access.admit(&Login::read(header(key, &[0; 32], &rooms(names), token).as_bytes()).unwrap())
        };
        let all = Pass { listed: rooms(&["lab", "yard"]), ..Pass::default() };
        assert_eq!(admit(&listed, &["lab", "yard"], None), Ok(all.clone()));
        let guest = Pass { token: Some(right.id()), ..Pass::default() };
        assert_eq!(admit(&stranger, &["lab"], Some(&right)), Ok(guest.clone()));
        assert_eq!(admit(&stranger, &["lab"], Some(&wrong)), Err(Refusal::NotListed));
        assert_eq!(admit(&stranger, &["lab"], None), Err(Refusal::NotListed));
        assert_eq!(admit(&stranger, &["yard"], Some(&right)), Err(Refusal::NotListed));
        assert_eq!(admit(&listed, &["lab", "attic"], None), Err(Refusal::UnknownRoom));
        assert_eq!(
            admit(&stranger, &["attic"], None),
            Err(Refusal::NotListed),
            "a stranger does not learn which rooms there are"
        );
        assert_eq!(admit(&stranger, &["attic"], Some(&right)), Err(Refusal::UnknownRoom));

        let review = |key: &ClientKey, names: &[&str], pass: &Pass| access.review(&key.public(), &rooms(names), pass);
        assert_eq!(review(&listed, &["lab", "yard"], &Pass::default()), Some(all));
        assert_eq!(review(&stranger, &["lab"], &guest), Some(guest.clone()));
        assert_eq!(review(&listed, &["lab"], &guest).map(|pass| pass.listed), Some(rooms(&["lab"])), "it is listed now");
        for (names, pass) in [(&["lab"][..], &Pass { token: Some(wrong.id()), ..Pass::default() }), (&["lab", "yard"], &guest)] {
            assert_eq!(review(&stranger, names, pass), None);
        }
        assert_eq!(review(&listed, &["attic"], &guest), None, "the room is not there any more");
    }

    #[test]
    fn a_probe_is_a_login_that_says_so() {
        let key = ClientKey::generate().unwrap();
        let access = Access([(rooms(&["lab"])[0].clone(), Guests { keys: [key.public()].into(), tokens: Vec::new() })].into());
        let header = header(&key, &[7; 32], &rooms(&["lab"]), None);
        for (header, is_probe) in [(header.to_string(), false), (format!("{}{PROBE}", *header), true)] {
            let login = Login::read(header.as_bytes()).unwrap();
            assert_eq!(login.verify(&[7; 32]), Ok(()));
            assert_eq!(access.admit(&login).unwrap().is_probe, is_probe);
        }
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
