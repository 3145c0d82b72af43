//! Why a relay cannot be used, told so that it can be repaired without a manual: where, what, and what to do about it.

use std::fmt;
use std::io;
use std::time::Duration;

use adit_engine::shown::Shown;
use adit_proto::relay::{HostPort, PeerKey, RoomName};
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerIncompatible};

use super::plan::End;
use crate::login::Refusal;
use crate::tls::{self, Pin};

/// What went wrong at a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The relay, and the address or the proxy by which it was tried.
    pub place: String,
    pub cause: Cause,
}

/// A step on the way to a registration, for what takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Lookup,
    Connect,
    Proxy,
    Tls,
    Login,
    Welcome,
}

/// What went wrong. What the other end has a hand in, an error of a library among it, is [`Shown`]: it goes into the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Something of this machine's own.
    Misconfigured(Shown),
    NoProxy(Shown),
    NoAddress(Shown),
    ConnectionRefused,
    Unreachable(Shown),
    TimedOut(Step),
    ProxyUnreachable(HostPort, Shown),
    ProxyRefused(HostPort, u16),
    NotTls,
    OldTls,
    TlsFailed(Shown),
    WrongPin {
        pinned: Vec<Pin>,
        seen: Pin,
    },
    Expired {
        not_after: UnixTime,
        now: UnixTime,
    },
    NotYetValid {
        not_before: UnixTime,
        now: UnixTime,
    },
    WrongName {
        expected: Shown,
        presented: Vec<Shown>,
    },
    UnknownIssuer,
    BadCertificate(Shown),
    /// HTTP, but no relay: the status, and where it leads.
    NotARelay(u16, Option<Shown>),
    /// The signature over this end of the TLS connection is not right at the other end.
    TlsEndsBefore,
    UnknownRoom(Vec<RoomName>),
    NotListed {
        key: PeerKey,
        rooms: Vec<RoomName>,
        with_token: bool,
    },
    LoginNotUnderstood,
    Full,
    /// This client has logged in too often.
    TooOften,
    /// A client with this key is there, and this one only asked whether it would be let in.
    InUse,
    /// It refuses to begin something that it cannot finish.
    Draining,
    /// It announced that it stops, and was left.
    Stopping,
    Replaced(Duration),
    Misbehaved(Shown),
    Closed(Shown),
    Silent,
}

/// How many names of a certificate are shown.
const NAMES_SHOWN: usize = 3;

impl Cause {
    /// Of a connection that was not made.
    pub(super) fn of_connect(error: &io::Error) -> Cause {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Cause::ConnectionRefused,
            io::ErrorKind::TimedOut => Cause::TimedOut(Step::Connect),
            _ => Cause::Unreachable(Shown::of(error)),
        }
    }

    /// Of a handshake that failed.
    pub(super) fn of_tls(error: &io::Error, pins: &[Pin]) -> Cause {
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return Cause::TlsFailed(match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Shown::of("the connection was closed instead"),
                _ => Shown::of(error),
            });
        };
        if let Some(wrong) = tls::wrong_pin(error) {
            return Cause::WrongPin { pinned: pins.to_vec(), seen: wrong.seen };
        }
        match error {
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
                Cause::NotTls
            }
            rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
            | rustls::Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13 | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => Cause::OldTls,
            rustls::Error::InvalidCertificate(error) => Cause::of_certificate(error),
            error => Cause::TlsFailed(Shown::of(error)),
        }
    }

    fn of_certificate(error: &CertificateError) -> Cause {
        match error {
            CertificateError::ExpiredContext { time, not_after } => Cause::Expired { not_after: *not_after, now: *time },
            CertificateError::NotValidYetContext { time, not_before } => {
                Cause::NotYetValid { not_before: *not_before, now: *time }
            }
            CertificateError::NotValidForNameContext { expected, presented } => {
                Cause::WrongName { expected: Shown::of(expected.to_str()), presented: Shown::list(presented) }
            }
            // Another CA may have the same name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Cause::UnknownIssuer,
            error => Cause::BadCertificate(Shown::of(error)),
        }
    }

    /// Of a login that was refused with a word.
    pub(super) fn of_refusal(refusal: Refusal, key: PeerKey, rooms: &[RoomName], with_token: bool) -> Cause {
        match refusal {
            Refusal::BadSignature => Cause::TlsEndsBefore,
            Refusal::UnknownRoom => Cause::UnknownRoom(rooms.to_vec()),
            Refusal::NotListed => Cause::NotListed { key, rooms: rooms.to_vec(), with_token },
            Refusal::Full => Cause::Full,
            Refusal::TooOften => Cause::TooOften,
            Refusal::InUse => Cause::InUse,
            Refusal::Draining => Cause::Draining,
            Refusal::ReplacedWait => Cause::Replaced(Duration::ZERO),
            Refusal::BadLogin => Cause::LoginNotUnderstood,
        }
    }

    /// Of a WebSocket that broke.
    pub(super) fn of_websocket(error: &tokio_websockets::Error) -> Cause {
        match error {
            tokio_websockets::Error::Io(error) => Cause::Closed(Shown::of(format_args!("the connection broke: {error}"))),
            error => Cause::Misbehaved(Shown::of(format_args!("what is no WebSocket: {error}"))),
        }
    }

    /// Of a WebSocket that the relay closed; what it says of it is shown, and may hold anything.
    pub(super) fn of_close(code: u16, why: &str) -> Cause {
        let before = if why.is_empty() { "" } else { ": " };
        Cause::Closed(Shown::of(format_args!("it closed the connection ({code}{before}{why})")))
    }

    /// What it means for the next attempt.
    pub(super) fn end(&self) -> End {
        match self {
            Cause::Replaced(wait) => End::Replaced(*wait),
            Cause::Full | Cause::TooOften | Cause::Draining => End::Busy,
            Cause::WrongPin { .. }
            | Cause::Expired { .. }
            | Cause::NotYetValid { .. }
            | Cause::WrongName { .. }
            | Cause::UnknownIssuer
            | Cause::BadCertificate(_)
            | Cause::OldTls
            | Cause::TlsEndsBefore
            | Cause::UnknownRoom(_)
            | Cause::NotListed { .. }
            | Cause::InUse
            | Cause::LoginNotUnderstood => End::Refused,
            _ => End::Failed,
        }
    }

    /// The word for programs: metrics, JSON, tests.
    pub const fn word(&self) -> &'static str {
        match self {
            Cause::Misconfigured(_) => "misconfigured",
            Cause::NoProxy(_) => "no_proxy",
            Cause::NoAddress(_) => "no_address",
            Cause::ConnectionRefused => "connection_refused",
            Cause::Unreachable(_) => "unreachable",
            Cause::TimedOut(_) => "timed_out",
            Cause::ProxyUnreachable(..) => "proxy_unreachable",
            Cause::ProxyRefused(..) => "proxy_refused",
            Cause::NotTls => "not_tls",
            Cause::OldTls => "old_tls",
            Cause::TlsFailed(_) => "tls_failed",
            Cause::WrongPin { .. } => "wrong_pin",
            Cause::Expired { .. } => "expired",
            Cause::NotYetValid { .. } => "not_yet_valid",
            Cause::WrongName { .. } => "wrong_name",
            Cause::UnknownIssuer => "unknown_issuer",
            Cause::BadCertificate(_) => "bad_certificate",
            Cause::NotARelay(..) => "not_a_relay",
            Cause::TlsEndsBefore => "tls_ends_before",
            Cause::UnknownRoom(_) => "unknown_room",
            Cause::NotListed { with_token: true, .. } => "token_refused",
            Cause::NotListed { .. } => "not_listed",
            Cause::LoginNotUnderstood => "login_not_understood",
            Cause::Full => "full",
            Cause::TooOften => "too_often",
            Cause::InUse => "in_use",
            Cause::Draining => "draining",
            Cause::Stopping => "stopping",
            Cause::Replaced(_) => "replaced",
            Cause::Misbehaved(_) => "misbehaved",
            Cause::Closed(_) => "closed",
            Cause::Silent => "silent",
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Cause::Misconfigured(_) => "correct the configuration of this client".to_owned(),
            Cause::NoProxy(_) => "correct HTTPS_PROXY, or unset it".to_owned(),
            Cause::NoAddress(_) => "check how the name is written, and the name server of this machine".to_owned(),
            Cause::ConnectionRefused => "start the relay there (adit relay -c FILE), or correct the port".to_owned(),
            Cause::Unreachable(_) => "check the route of this machine to it, and firewalls on the way".to_owned(),
            Cause::TimedOut(step) => step.remedy().to_owned(),
            Cause::ProxyUnreachable(..) => "correct HTTPS_PROXY, or name the relay in NO_PROXY if no proxy is needed".to_owned(),
            Cause::ProxyRefused(_, 407) => "give name and password in HTTPS_PROXY: http://NAME:PASSWORD@HOST:PORT".to_owned(),
            Cause::ProxyRefused(..) => "have the proxy allow CONNECT to this relay and port; most allow port 443 only".to_owned(),
            Cause::NotTls => "correct the port; behind a captive portal log in to the network with a browser first".to_owned(),
            Cause::OldTls => {
                "something in front of the relay ends TLS: have it pass TCP through; a relay itself speaks 1.3".to_owned()
            }
            Cause::TlsFailed(_) => {
                "look into the log of the relay: it tells whom it turns away, and why; a firewall that looks into TLS does this too"
                    .to_owned()
            }
            Cause::WrongPin { seen, .. } => format!(
                "if the relay has a new key, which its operator can tell (adit relay init printed it), pin {seen}; if not, somebody \
                 or something in between answers in its place"
            ),
            Cause::Expired { .. } => {
                "have the certificate of the relay renewed; if its end is not past, set the clock here".to_owned()
            }
            Cause::NotYetValid { .. } => {
                "set the clock of this machine; with a pin in place of a CA no clock is needed".to_owned()
            }
            Cause::WrongName { .. } => "use one of these names, or have the certificate made for this one".to_owned(),
            Cause::UnknownIssuer => "give the CA that signed the certificate of this relay, or a pin".to_owned(),
            Cause::BadCertificate(_) => "have the certificate of the relay made anew, or use a pin".to_owned(),
            Cause::NotARelay(..) => {
                "correct host and port; a proxy in front must pass TCP through; behind a captive portal log in first".to_owned()
            }
            Cause::TlsEndsBefore => {
                "have what stands in front of the relay pass TCP through (haproxy: mode tcp) instead of ending TLS".to_owned()
            }
            Cause::UnknownRoom(_) => "correct the name, or add the room to the configuration of the relay".to_owned(),
            Cause::NotListed { key, with_token: false, .. } => {
                format!("list the key {key} in the room at the relay, or give the token of the room here; or correct the room's name")
            }
            Cause::NotListed { key, .. } => {
                format!("give the token that the relay has for the room, or list the key {key} there; or correct the room's name")
            }
            Cause::LoginNotUnderstood => "use versions of adit that fit together here and at the relay".to_owned(),
            Cause::Full => "it is tried again; if it stays so, raise the limits of the relay or add another one".to_owned(),
            Cause::TooOften => "it is tried again, once in ten seconds; what ended the connections before, the log says".to_owned(),
            Cause::InUse => "nothing: the client with this key is registered; stop it to try with its key".to_owned(),
            Cause::Draining | Cause::Stopping => {
                "it is tried again; name a second relay, so that one can be restarted".to_owned()
            }
            Cause::Replaced(_) => {
                "give each gateway a key of its own: two that share a state directory or a copy of it do this".to_owned()
            }
            Cause::Misbehaved(_) => "use versions of adit that fit together here and at the relay".to_owned(),
            Cause::Closed(_) | Cause::Silent => "it is tried again; the log of the relay may say why".to_owned(),
        }
    }
}

impl Step {
    const fn remedy(self) -> &'static str {
        match self {
            Step::Lookup => "check the name server of this machine",
            Step::Connect => "check that the relay runs and that firewalls let TCP through to its port",
            Step::Proxy => "check the proxy: it took the connection and does not answer",
            Step::Tls => "correct the port; a firewall that drops TLS does this too",
            Step::Login | Step::Welcome => "look into the log of the relay: it took the connection and does not answer",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Lookup => "the name server did not answer in time",
            Step::Connect => "nothing answered in time",
            Step::Proxy => "the proxy did not answer in time",
            Step::Tls => "no answer in time in the TLS handshake",
            Step::Login => "no answer in time to the login",
            Step::Welcome => "no welcome in time after the login",
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Misconfigured(why) | Cause::NoProxy(why) => f.write_str(why),
            Cause::NoAddress(why) => write!(f, "the name has no address: {why}"),
            Cause::ConnectionRefused => f.write_str("the connection was refused: nothing listens there"),
            Cause::Unreachable(why) | Cause::Closed(why) => f.write_str(why),
            Cause::TimedOut(step) => step.fmt(f),
            Cause::ProxyUnreachable(proxy, why) => write!(f, "the proxy {proxy} cannot be reached: {why}"),
            Cause::ProxyRefused(proxy, 407) => write!(f, "the proxy {proxy} wants name and password (407)"),
            Cause::ProxyRefused(proxy, status) => write!(f, "the proxy {proxy} refuses the way to the relay ({status})"),
            Cause::NotTls => f.write_str("the answer is not TLS: a plain HTTP server or a captive portal"),
            Cause::OldTls => f.write_str("the other end does not speak TLS 1.3"),
            Cause::TlsFailed(why) => write!(f, "the TLS handshake failed: {why}"),
            Cause::WrongPin { pinned, seen } => {
                let pinned = pinned.iter().map(Pin::to_string).collect::<Vec<_>>().join(" or ");
                write!(f, "it has the key {seen}, and {pinned} is pinned")
            }
            Cause::Expired { not_after, now } => {
                write!(f, "its certificate ended {}, and here it is {}", Utc(*not_after), Utc(*now))
            }
            Cause::NotYetValid { not_before, now } => {
                write!(f, "its certificate begins {}, and here it is {}: the clock is wrong", Utc(*not_before), Utc(*now))
            }
            Cause::WrongName { expected, presented } => {
                let shown = presented.iter().take(NAMES_SHOWN).map(Shown::as_str).collect::<Vec<_>>().join(", ");
                write!(f, "its certificate is not for {expected} but for {}", if shown.is_empty() { "no name" } else { &shown })
            }
            Cause::TooOften => f.write_str("the relay has let this client in very often lately, and makes it wait"),
            Cause::InUse => f.write_str("a client with this key is registered at the relay"),
            Cause::UnknownIssuer => f.write_str("its certificate is signed by no CA that is trusted here"),
            Cause::BadCertificate(why) => write!(f, "its certificate is not accepted: {why}"),
            Cause::NotARelay(status, to) => {
                write!(f, "it answers as a web server, not as a relay ({status}")?;
                to.as_ref().map_or(Ok(()), |to| write!(f, ", to {to}"))?;
                f.write_str(")")
            }
            Cause::TlsEndsBefore => f.write_str("the TLS connection of this client does not end at the relay but before it"),
            Cause::UnknownRoom(rooms) => write!(f, "the relay has no such room ({})", names(rooms)),
            Cause::NotListed { rooms, with_token: true, .. } => {
                write!(
                    f,
                    "the token is not that of the room, and the key of this client is not listed in it, or there is no such room ({})",
                    names(rooms)
                )
            }
            Cause::NotListed { rooms, .. } => write!(f, "the key of this client is not listed in the room ({})", names(rooms)),
            Cause::LoginNotUnderstood => f.write_str("the relay does not understand this login"),
            Cause::Full => f.write_str("the relay has no room for another connection"),
            Cause::Draining => f.write_str("the relay is about to stop and takes nobody"),
            Cause::Stopping => f.write_str("the relay is about to stop"),
            Cause::Replaced(_) => f.write_str("a newer connection with the key of this client has taken its place"),
            Cause::Misbehaved(what) => write!(f, "the relay sent {what}"),
            Cause::Silent => f.write_str("nothing came from it any more"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.cause, self.cause.remedy())
    }
}

impl std::error::Error for Failure {}

fn names(rooms: &[RoomName]) -> String {
    rooms.iter().map(RoomName::as_str).collect::<Vec<_>>().join(", ")
}

/// A moment as people write it (RFC 3339), in UTC.
struct Utc(UnixTime);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (days, of_day) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = date(days);
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
    }
}

/// The date of a day since 1970-01-01. Years are counted from March on, so that the day that is not in every year is the last.
fn date(days: u64) -> (u64, u64, u64) {
    // From 0000-03-01; the calendar repeats after 400 years, which have 146097 days.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use adit_engine::shown::shows;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn moments_are_written_as_people_do() {
        let shown = |seconds| Utc(UnixTime::since_unix_epoch(Duration::from_secs(seconds))).to_string();
        assert_eq!(shown(0), "1970-01-01T00:00:00Z");
        assert_eq!(shown(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(shown(1_796_083_199), "2026-11-30T23:59:59Z");
        assert_eq!(shown(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(shown(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn a_failure_says_where_what_and_what_to_do() {
        let failure = Failure { place: "relay.example:443 (192.0.2.1:443)".to_owned(), cause: Cause::ConnectionRefused };
        assert_eq!(
            failure.to_string(),
            "relay.example:443 (192.0.2.1:443): the connection was refused: nothing listens there; start the relay there (adit relay \
             -c FILE), or correct the port"
        );
    }

    proptest! {
        /// Whoever answers in the place of a relay chooses these words.
        #[test]
        fn what_the_other_end_says_is_one_line_that_shows(
            said in "\\PC{0,9}[\\x00-\\x1f\\x7f-\\x9f\u{ad}\u{200b}\u{202e}\u{2028}\u{3164}\u{e0041}]\\PC{0,900}",
        ) {
            let other = |error: rustls::Error| Cause::of_tls(&io::Error::other(error), &[]);
            let bad = |error| other(rustls::Error::InvalidCertificate(error));
            let expected = rustls::pki_types::ServerName::try_from("relay.example").unwrap();
            let causes = [
                Cause::of_close(1008, &said),
                Cause::of_connect(&io::Error::other(said.clone())),
                Cause::of_tls(&io::Error::other(said.clone()), &[]),
                other(rustls::Error::General(said.clone())),
                bad(CertificateError::NotValidForNameContext { expected, presented: vec![said.clone(); 20] }),
                Cause::NotARelay(302, Some(Shown::of(&said))),
                Cause::of_websocket(&tokio_websockets::Error::Io(io::Error::other(said.clone()))),
            ];
            for cause in causes {
                let failure = Failure { place: "relay.example:443".to_owned(), cause }.to_string();
                prop_assert!(failure.chars().all(|one| shows(one) || one == ' '), "{failure:?}");
                prop_assert!(failure.chars().count() < 6000, "{}", failure.len());
            }
        }
    }

    #[test]
    fn what_people_must_change_is_not_tried_all_the_time() {
        let key = PeerKey([7; 32]);
        for refusal in Refusal::ALL {
            let cause = Cause::of_refusal(refusal, key, &[], false);
            let expected = match refusal {
                Refusal::Full | Refusal::TooOften | Refusal::Draining => End::Busy,
                Refusal::ReplacedWait => End::Replaced(Duration::ZERO),
                _ => End::Refused,
            };
            assert_eq!(cause.end(), expected, "{refusal:?}");
        }
        assert_eq!(Cause::ConnectionRefused.end(), End::Failed);
    }
}
