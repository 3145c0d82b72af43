//! Which names a request over TCP may be for.
//!
//! A page that somebody reads in a browser can have its own name lead to our address (DNS rebinding) and then ask us in the reader's
//! name; what it cannot change is the Host header, which bears the page's name. So a request has to be for an address, which nobody can
//! have led elsewhere, for `localhost`, or for a name of `http_names`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{self, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::Response;

use super::errors;
use crate::view::View;

/// Lets a request pass that is for us by one of our names (RFC 9110 §7.4 for what becomes of others).
pub async fn host_required(State(view): State<Arc<View>>, request: extract::Request, next: Next) -> Response {
    // Those that hold now: a reload may have brought others.
    let desired = view.desired();
    if is_for_us(request.uri(), request.headers(), &desired.config.http_names) {
        return next.run(request).await;
    }
    let error = "this request is for a name that is not ours: ask for an IP address or localhost, or add the name to http_names";
    errors::refusal(StatusCode::MISDIRECTED_REQUEST, error.to_owned())
}

fn is_for_us(uri: &Uri, headers: &HeaderMap, names: &[String]) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = Authority::try_from(host.as_bytes()) else { return false };
    // In the form for proxies the name stands in the first line, too.
    is_ours(&host, names) && uri.authority().is_none_or(|authority| is_ours(authority, names))
}

fn is_ours(authority: &Authority, names: &[String]) -> bool {
    let host = authority.host();
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_address = host.parse::<Ipv4Addr>().is_ok() || v6.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok());
    // With the dot of the root it is the same name.
    let name = host.strip_suffix('.').unwrap_or(host);
    is_address || name.eq_ignore_ascii_case("localhost") || names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn asks(uri: &str, hosts: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_str(host).unwrap());
        }
        is_for_us(&uri.parse().unwrap(), &headers, &["gw1.example.org".to_owned()])
    }

    #[test]
    fn addresses_localhost_and_configured_names_are_ours() {
        for host in ["127.0.0.1:9464", "192.0.2.1", "[::1]:9464", "[2001:db8::1]", "localhost:9464", "LOCALHOST", "localhost."] {
            assert!(asks("/metrics", &[host]), "{host}");
        }
        for host in ["gw1.example.org:9464", "GW1.example.org", "gw1.example.org."] {
            assert!(asks("/metrics", &[host]), "{host}");
        }
        assert!(asks("http://localhost:9464/metrics", &["localhost:9464"]));
    }

    #[test]
    fn a_name_that_somebody_else_leads_here_is_not() {
        let others =
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:9464", "::1", "", "gw1", "x@evil.example"];
        for host in others {
            assert!(!asks("/metrics", &[host]), "{host}");
        }
        assert!(!asks("/metrics", &[]) && !asks("/metrics", &["localhost", "evil.example"]));
        assert!(!asks("http://evil.example/metrics", &["localhost"]));
    }
}
