//! The relay over which peers are met that cannot be reached otherwise.

use std::path::PathBuf;

use adit_proto::limits::ROOMS_OF_CLIENT_MAX;
use adit_proto::relay::{HostPort, RoomName};
use adit_relay::limits::PINS_MAX;
use adit_relay::login::Token;
use adit_relay::tls::{Pin, Trust};

use super::Check;
use crate::config::problem::Place;
use crate::config::raw::{self, Several, Spanned, Text};
use crate::config::{Relay, RelayTrust, endpoint};
use crate::key_file::Readers;

const URL: &str = "url: wss://relay.example.org";
const PIN: &str = "pin: sha256:…, as `adit relay init` prints it";

impl Check<'_> {
    /// The block `relay`.
    pub(super) fn relay(&mut self, raw: Spanned<raw::Relay>) -> Option<Relay> {
        let Spanned { at, value: raw } = raw;
        let url = self.required(raw.url, at, "url", "where the relay is", URL).and_then(|url| self.relay_url(&url));
        let trust = self.relay_trust(at, raw.pin, raw.ca_file);
        let rooms = self.relay_rooms(at, raw.rooms);
        let token = raw.token_file.map(|text| self.relay_token(&text));
        let token_file = match token {
            Some(None) => return None,
            token => token.flatten(),
        };
        Some(Relay { at: url?, trust: trust?, rooms: rooms?, token_file })
    }

    /// `wss://HOST`, `HOST:PORT` and what is between them.
    fn relay_url(&mut self, text: &Text) -> Option<HostPort> {
        let parsed = endpoint::relay(&text.value);
        if parsed.is_none() {
            let what = format!("`{}` is not where a relay can be", text.value);
            self.fail(text.at, what, "a name or address, and a TCP port if it is not 443".to_owned(), URL.to_owned());
        }
        parsed
    }

    /// By what it is known.
    fn relay_trust(&mut self, at: Place, pins: Option<Several>, ca_file: Option<Text>) -> Option<RelayTrust> {
        match (pins, ca_file) {
            (Some(pins), None) => {
                if pins.values.is_empty() || pins.values.len() > PINS_MAX {
                    let what = format!("`pin` lists {} pins", pins.values.len());
                    self.fail(
                        pins.at,
                        what,
                        format!("1 to {PINS_MAX} pins: two while the key of the relay changes"),
                        PIN.to_owned(),
                    );
                    return None;
                }
                let expected = "the SHA-256 of the public key in its certificate";
                let read: Vec<Option<Pin>> =
                    pins.values.iter().map(|text| self.parsed(text, "the pin of a relay", expected, PIN)).collect();
                read.into_iter().collect::<Option<Vec<Pin>>>().map(RelayTrust::Pins)
            }
            (None, Some(text)) => {
                let file = self.path(&text);
                if let Err(error) = Trust::roots(&file) {
                    self.fail(
                        text.at,
                        error.to_string(),
                        "the certificate of the CA that signed for the relay".to_owned(),
                        error.remedy(),
                    );
                    return None;
                }
                Some(RelayTrust::Ca(file))
            }
            (Some(_), Some(text)) => {
                let expected = "one of pin and ca_file".to_owned();
                self.fail(text.at, "the relay has a pin and a CA".to_owned(), expected, "nothing: remove ca_file".to_owned());
                None
            }
            (None, None) => {
                self.missing(at, "pin", "by what the relay is known: its pin, or the CA that signed for it (`ca_file`)", PIN);
                None
            }
        }
    }

    fn relay_rooms(&mut self, at: Place, texts: Option<Vec<Text>>) -> Option<Vec<RoomName>> {
        let Some(texts) = texts else {
            self.missing(at, "rooms", "the rooms of the relay in which the peers are", "rooms: [lab]");
            return None;
        };
        if texts.is_empty() || texts.len() > ROOMS_OF_CLIENT_MAX {
            let what = format!("`rooms` lists {} rooms", texts.len());
            self.fail(at, what, format!("1 to {ROOMS_OF_CLIENT_MAX} rooms"), "rooms: [lab]".to_owned());
            return None;
        }
        let expected = "1 to 64 of a-z, 0-9, `.`, `_` and `-`, with a letter or digit first";
        let read: Vec<Option<RoomName>> =
            texts.iter().map(|text| self.parsed(text, "the name of a room", expected, "rooms: [lab]")).collect();
        let mut rooms = read.into_iter().collect::<Option<Vec<RoomName>>>()?;
        rooms.sort();
        rooms.dedup();
        Some(rooms)
    }

    fn relay_token(&mut self, text: &Text) -> Option<PathBuf> {
        let file = self.path(text);
        let expected = "a file with the token of the room, that only its owner can read";
        let bytes = self.bytes(text, &file, Readers::OwnerOnly, expected)?;
        if Token::from_file(&bytes).is_none() {
            let what = format!("{}: a token has 20 to 256 letters and digits", file.display());
            self.fail(text.at, what, expected.to_owned(), "a copy of the token that `adit relay init` has made".to_owned());
            return None;
        }
        Some(file)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use crate::config::{Config, Machine, Problem, Problems, RelayTrust};

    const GOOD: &str = "pin: sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn load(relay: &str) -> Result<Config, Vec<Problem>> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in
            [("psk", "a preshared key that is long enough"), ("token", "a0123456789012345678901"), ("short", "a0")]
        {
            let file = dir.path().join(name);
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        }
        let yaml = format!(
            "name: a\nlisten: 0.0.0.0:4500\ninterface: {{ name: adit0 }}\n{relay}\npeers:\n  - {{ name: b, ike: {{ id: b.example.org, psk_file: psk }} }}\n"
        );
        Config::from_yaml(&yaml, dir.path(), &Machine { cores: vec![0] })
    }

    #[test]
    fn with_a_relay_a_peer_needs_no_endpoint() {
        let config =
            load(&format!("relay: {{ url: wss://relay.example.org/, {GOOD}, rooms: [lab, lab], token_file: token }}")).unwrap();
        let relay = config.relay.as_ref().unwrap();
        assert_eq!((relay.at.to_string().as_str(), relay.rooms.len()), ("relay.example.org:443", 1));
        assert!(matches!(&relay.trust, RelayTrust::Pins(pins) if pins.len() == 1) && relay.token_file.is_some());
        let shown = config.to_yaml().unwrap();
        assert!(shown.contains("relay:\n  url: wss://relay.example.org:443\n  pin: sha256:AAAA"), "{shown}");
        for (url, at) in [("192.0.2.9", "192.0.2.9:443"), ("\"[2001:db8::9]:8443\"", "[2001:db8::9]:8443"), ("r:8443", "r:8443")]
        {
            let config = load(&format!("relay: {{ url: {url}, {GOOD}, rooms: [lab] }}")).unwrap();
            assert_eq!(config.relay.unwrap().at.to_string(), at);
        }
        let problems = load("").unwrap_err();
        assert!(problems.len() == 1 && problems[0].what.contains("`endpoint` is missing"), "{problems:?}");
        assert!(problems[0].expected.contains("or a `relay` block"), "{problems:?}");
    }

    #[test]
    fn what_is_wrong_with_a_relay_is_told_with_what_to_write() {
        for (relay, what) in [
            (format!("relay: {{ {GOOD}, rooms: [lab] }}"), "the key `url` is missing"),
            (format!("relay: {{ url: \"wss://a b\", {GOOD}, rooms: [lab] }}"), "`wss://a b` is not where a relay can be"),
            ("relay: { url: r, rooms: [lab] }".to_owned(), "the key `pin` is missing"),
            ("relay: { url: r, pin: sha256:AAAA, rooms: [lab] }".to_owned(), "`sha256:AAAA` is not the pin of a relay"),
            (format!("relay: {{ url: r, {GOOD}, ca_file: ca, rooms: [lab] }}"), "a pin and a CA"),
            ("relay: { url: r, ca_file: nowhere, rooms: [lab] }".to_owned(), "nowhere"),
            (format!("relay: {{ url: r, {GOOD} }}"), "the key `rooms` is missing"),
            (format!("relay: {{ url: r, {GOOD}, rooms: [] }}"), "`rooms` lists 0 rooms"),
            (format!("relay: {{ url: r, {GOOD}, rooms: [LAB] }}"), "`LAB` is not the name of a room"),
            (format!("relay: {{ url: r, {GOOD}, rooms: [lab], token_file: short }}"), "20 to 256 letters and digits"),
            (format!("relay: {{ url: r, {GOOD}, rooms: [lab], tokens: x }}"), "there is no key `tokens` here"),
        ] {
            let problems = load(&relay).unwrap_err();
            assert!(problems.iter().any(|problem| problem.what.contains(what)), "{relay}: {problems:?}");
        }
        let problems = load(&format!("relay: {{ url: r, {GOOD}, rooms: [lab], token: hunter2 }}")).unwrap_err();
        assert!(problems.len() == 1 && problems[0].write.starts_with("token_file: "), "{problems:?}");
        let shown = Problems::new("a.yaml".into(), "relay: { url: r, token: hunter2 }", problems).to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
