//! Who answers over TCP where UDP is silent: the server, or something before it that wants a login first.

use std::net::SocketAddr;

use super::facts::Portal;
use crate::limits::HOST_SHOWN_MAX;

/// What is asked at the port of HTTP. A server that has none refuses the connection; only a stranger sends us elsewhere.
pub(super) fn web_question(server: SocketAddr) -> Vec<u8> {
    let host = match server {
        SocketAddr::V4(server) => server.ip().to_string(),
        SocketAddr::V6(server) => format!("[{}]", server.ip()),
    };
    format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").into_bytes()
}

/// Whether what came from the port of STUN is HTTP, or a record of TLS (RFC 8446 §5.1: an alert or a handshake), as no STUN server begins.
pub(super) fn at_stun_port(answer: &[u8]) -> Option<Portal> {
    let is_tls = matches!(answer, [0x15 | 0x16, 3, 0..=4, ..]);
    (is_tls || answer.starts_with(b"HTTP/")).then_some(Portal::AtStunPort)
}

/// Whether what came from the port of HTTP sends us to another host, or says that the network wants a login (RFC 6585 §6).
pub(super) fn at_web_port(answer: &[u8], server: SocketAddr) -> Option<Portal> {
    let answer = answer.strip_prefix(b"HTTP/1.")?;
    let head = String::from_utf8_lossy(answer);
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?;
    if status == "511" {
        return Some(Portal::LoginWanted);
    }
    if status.len() != 3 || !status.starts_with('3') {
        return None;
    }
    let mut headers = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    let (_, place) = headers.find(|(name, _)| name.eq_ignore_ascii_case("location"))?;
    let host = host_of(place.trim())?;
    (host != server.ip().to_string()).then_some(Portal::SendsElsewhere(host))
}

/// The host of a URL, if it is one that can be shown.
fn host_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit('@').next()?;
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => authority.split(':').next()?,
    };
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'_');
    (!host.is_empty() && host.len() <= HOST_SHOWN_MAX && host.bytes().all(good)).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web(answer: &str) -> Option<Portal> {
        at_web_port(answer.as_bytes(), ([198, 51, 100, 1], 80).into())
    }

    #[test]
    fn a_stranger_at_the_port_of_stun_is_known_by_its_first_bytes() {
        for portal in [&b"HTTP/1.1 400 Bad Request\r\n"[..], &[0x15, 3, 1, 0, 2, 2, 40], &[0x16, 3, 3, 0, 80]] {
            assert_eq!(at_stun_port(portal), Some(Portal::AtStunPort));
        }
        for other in [&b""[..], b"HTTP", b"SSH-2.0", &[1, 1, 0, 12], &[0x16, 2, 0, 0], &[0x17, 3, 3]] {
            assert_eq!(at_stun_port(other), None);
        }
    }

    #[test]
    fn only_who_sends_us_elsewhere_or_wants_a_login_is_a_portal() {
        let elsewhere = |host: &str| Some(Portal::SendsElsewhere(host.to_owned()));
        assert_eq!(
            web("HTTP/1.1 302 Found\r\nServer: x\r\nLocation: http://login.hotel.example/?a=b\r\n\r\n"),
            elsewhere("login.hotel.example")
        );
        assert_eq!(web("HTTP/1.0 307 T\r\nlocation:https://u@10.0.0.1:8443/x\r\n"), elsewhere("10.0.0.1"));
        assert_eq!(web("HTTP/1.1 303 See\r\nLocation: https://[fd00::1]:8443/\r\n"), elsewhere("fd00::1"));
        assert_eq!(web("HTTP/1.1 511 Network Authentication Required\r\n\r\n"), Some(Portal::LoginWanted));
        for none in [
            "",
            "HTTP/1.1",
            "HTTP/1.1 200 OK\r\n\r\n<html>",
            "HTTP/1.1 404 Not Found\r\n\r\n",
            "HTTP/1.1 301 Moved\r\nLocation: https://198.51.100.1/\r\n\r\n",
            "HTTP/1.1 301 Moved\r\nLocation: /login\r\n\r\n",
            "HTTP/1.1 302 Found\r\n\r\nLocation: http://login.example/",
            "HTTP/1.1 302 Found\r\nLocation: http://\u{1b}[2J/\r\n\r\n",
            "HTTP/1.1 302 Found\r\nLocation: javascript://x\r\n\r\n",
            "HTTP/1.1 3 x\r\nLocation: http://login.example/\r\n\r\n",
        ] {
            assert_eq!(web(none), None, "{none:?}");
        }
    }

    #[test]
    fn the_question_names_the_address() {
        let question = |server: &str| String::from_utf8(web_question(server.parse().unwrap())).unwrap();
        assert!(question("198.51.100.1:80").contains("\r\nHost: 198.51.100.1\r\n"));
        assert!(question("[2001:db8::1]:80").contains("\r\nHost: [2001:db8::1]\r\n"));
    }
}
