//! The way out of a network that lets nobody out but a proxy: which one, by the environment or as configured, and its tunnel (HTTP CONNECT,
//! RFC 9110 §9.3.6).

use std::fmt;
use std::str::FromStr;

use adit_engine::shown::Shown;
use adit_proto::relay::HostPort;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::failure::Cause;
use super::http;

/// Where a proxy is spoken to that is named without a port.
const DEFAULT_PORT: &str = "3128";

/// A proxy that is spoken to in plain HTTP, as they all are within a site.
#[derive(Clone)]
pub struct Proxy {
    pub(super) at: HostPort,
    /// `NAME:PASSWORD`, as the proxy is told.
    credentials: Option<Zeroizing<String>>,
}

/// Which proxy is used.
#[derive(Clone, Debug, Default)]
pub enum ProxyChoice {
    /// As HTTPS_PROXY and NO_PROXY say.
    #[default]
    Environment,
    None,
    Always(Proxy),
}

/// Why text names no proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a proxy is written http://HOST:PORT or http://NAME:PASSWORD@HOST:PORT")]
pub struct NoProxyName;

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", self.at)
    }
}

impl FromStr for Proxy {
    type Err = NoProxyName;

    fn from_str(text: &str) -> Result<Proxy, NoProxyName> {
        let rest = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let (credentials, place) = match rest.rsplit_once('@') {
            Some((credentials, place)) => (Some(unescaped(credentials).ok_or(NoProxyName)?), place),
            None => (None, rest),
        };
        let with_port = || HostPort::new(&format!("{place}:{DEFAULT_PORT}"));
        let at = HostPort::new(place).or_else(|_| with_port()).map_err(|_| NoProxyName)?;
        Ok(Proxy { at, credentials })
    }
}

/// `%40` is the letter `@` (RFC 3986 §2.1).
fn unescaped(text: &str) -> Option<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                u8::try_from(digit(rest.next())? * 16 + digit(rest.next())?).ok()?
            }
            byte => byte,
        });
    }
    std::str::from_utf8(&bytes).ok().map(|text| Zeroizing::new(text.to_owned()))
}

impl ProxyChoice {
    /// The proxy by which a host is reached; `variable` reads the environment.
    ///
    /// # Errors
    /// The environment names one that is none.
    pub(super) fn for_host(&self, host: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Proxy>, NoProxyName> {
        let either = |upper: &str| {
            let set = |name: &str| variable(name).filter(|value| !value.is_empty());
            set(&upper.to_ascii_lowercase()).or_else(|| set(upper))
        };
        match self {
            ProxyChoice::None => Ok(None),
            ProxyChoice::Always(proxy) => Ok(Some(proxy.clone())),
            ProxyChoice::Environment if either("NO_PROXY").is_some_and(|list| is_named(&list, host)) => Ok(None),
            ProxyChoice::Environment => either("HTTPS_PROXY").map(|text| text.parse()).transpose(),
        }
    }
}

/// Whether a list of NO_PROXY names a host, itself or by a domain above it.
fn is_named(list: &str, host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let is_host = |entry: &str| {
        let name = entry.trim().trim_start_matches("*.").trim_start_matches('.').to_ascii_lowercase();
        let is_below = || host.strip_suffix(&name).is_some_and(|above| above.ends_with('.'));
        entry.trim() == "*" || !name.is_empty() && (host == name || is_below())
    };
    list.split(',').any(is_host)
}

impl Proxy {
    /// Has the proxy connect to a relay: what is read and written from now on is the relay's.
    pub(super) async fn tunnel(&self, socket: TcpStream, to: &HostPort) -> Result<TokioIo<hyper::upgrade::Upgraded>, Cause> {
        let closed = |error: hyper::Error| Cause::ProxyUnreachable(self.at.clone(), Shown::of(error));
        let mut request = Request::connect(to.as_str()).header(HOST, to.as_str());
        if let Some(credentials) = &self.credentials {
            let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(credentials.as_bytes())));
            let mut value =
                HeaderValue::from_str(&text).map_err(|error| Cause::ProxyUnreachable(self.at.clone(), Shown::of(error)))?;
            value.set_sensitive(true);
            request = request.header(PROXY_AUTHORIZATION, value);
        }
        let request =
            request.body(Empty::<Bytes>::new()).map_err(|error| Cause::ProxyUnreachable(self.at.clone(), Shown::of(error)))?;
        let answer = http::ask(socket, request).await.map_err(closed)?;
        if !answer.status().is_success() {
            return Err(Cause::ProxyRefused(self.at.clone(), answer.status().as_u16()));
        }
        hyper::upgrade::on(answer).await.map(TokioIo::new).map_err(closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(variables: &[(&str, &str)], host: &str) -> Option<String> {
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        ProxyChoice::Environment.for_host(host, variable).unwrap().map(|proxy| proxy.at.to_string())
    }

    #[test]
    fn a_proxy_is_read_and_its_password_not_shown() {
        let proxy: Proxy = "http://me:p%40ss@proxy.example:8080/".parse().unwrap();
        assert_eq!(
            (proxy.at.as_str(), proxy.credentials.as_deref().map(String::as_str)),
            ("proxy.example:8080", Some("me:p@ss"))
        );
        assert_eq!(format!("{proxy:?}"), "Proxy(proxy.example:8080)");
        assert_eq!("proxy.example".parse::<Proxy>().unwrap().at.as_str(), "proxy.example:3128");
        for wrong in ["", "http://", "socks5://proxy:1080", "https://proxy:443", "http://a b:1", "http://me:%4@proxy:1"] {
            assert!(wrong.parse::<Proxy>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_environment_says_which_proxy_and_for_whom_none() {
        let proxy = ("HTTPS_PROXY", "http://proxy:3128");
        assert_eq!(chosen(&[], "relay.example"), None);
        assert_eq!(chosen(&[proxy], "relay.example").as_deref(), Some("proxy:3128"));
        assert_eq!(chosen(&[proxy, ("https_proxy", "http://other:1")], "relay.example").as_deref(), Some("other:1"));
        assert_eq!(chosen(&[("HTTPS_PROXY", "")], "relay.example"), None);
        for list in ["relay.example", "a,.example ,b", "*.example", "*", "EXAMPLE"] {
            assert_eq!(chosen(&[proxy, ("NO_PROXY", list)], "relay.example"), None, "{list}");
        }
        for list in ["", "lay.example", "other", ","] {
            assert!(chosen(&[proxy, ("no_proxy", list)], "relay.example").is_some(), "{list}");
        }
        assert_eq!(chosen(&[proxy, ("NO_PROXY", "::1")], "[::1]"), None);
    }
}
