//! The pages: what everybody may see, and what needs the token.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Client, page};
use crate::relay::{Relay, soon, until};

#[tokio::test]
async fn peers_are_shown_to_who_has_the_token_alone() {
    let relay = Relay::with_lab().await;
    let client = Client::join(&relay, &["lab"]).await;
    let other = "0123456789012345678901234567890123456789abc";
    for path in ["/rooms/lab/peers", "/stats", "/metrics"] {
        for token in [None, Some(""), Some(other), Some(&relay.pages_token[1..])] {
            assert_eq!(page(&relay, path, token).await, (403, "bad-token".to_owned()), "{path}");
        }
    }
    let (status, body) = page(&relay, "/rooms/lab/peers", Some(&relay.pages_token)).await;
    let peers: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, peers["peers"].as_array().map(Vec::len)), (200, Some(1)), "{body}");
    assert_eq!(peers["peers"][0]["key"], client.key.to_string(), "{body}");
    assert_eq!(relay.refused("page_token").await, 12);
    // The token of a room opens no page.
    let token = std::fs::read_to_string(relay.file("lab.token")).expect("a token");
    assert_eq!(page(&relay, "/stats", Some(token.trim())).await.0, 403);
}

#[tokio::test]
async fn health_is_for_everybody_and_the_rest_is_not_there() {
    let relay = Relay::with_lab().await;
    assert_eq!(page(&relay, "/health", None).await, (200, "ok".to_owned()));
    for path in ["/", "/v1/nothing", "/rooms", "/rooms/lab", "/rooms//peers", "/rooms/../peers", "/rooms/attic/peers"] {
        let (status, body) = page(&relay, path, Some(&relay.pages_token)).await;
        assert_eq!((status, body.as_str()), (404, "not-found"), "{path}");
    }
}

#[tokio::test]
async fn metrics_tell_clients_rooms_and_refusals_by_their_reason() {
    let relay = Relay::with_lab().await;
    let _client = Client::join(&relay, &["lab"]).await;
    page(&relay, "/nothing", None).await;
    let (status, text) = page(&relay, "/metrics", Some(&relay.pages_token)).await;
    assert_eq!(status, 200, "{text}");
    for line in ["adit_relay_clients 1", "adit_relay_logins_total 1", "adit_relay_refused_total{why=\"not_found\"} 1"] {
        assert!(text.lines().any(|one| one == line), "no {line} in\n{text}");
    }
}

#[tokio::test]
async fn where_the_file_says_so_the_pages_are_shown_without_tls() {
    let relay =
        Relay::new("rooms:\n  lab: { token_file: lab.token }\npages: { listen: 127.0.0.1:0, token_file: pages.token }\n").await;
    let address = relay.pages.expect("a second listener");
    let ask = async |path: &str, token: &str| {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("the request goes out");
        let mut answer = String::new();
        soon("an answer", stream.read_to_string(&mut answer)).await.expect("text");
        answer
    };
    assert!(ask("/health", "").await.starts_with("HTTP/1.1 200"));
    assert!(ask("/stats", "").await.starts_with("HTTP/1.1 403"));
    assert!(ask("/stats", &relay.pages_token).await.starts_with("HTTP/1.1 200"));
    // There is no login without TLS.
    assert!(ask("/v1/relay", "").await.starts_with("HTTP/1.1 404"));
}

/// Silent connections of whoever reaches that port.
#[tokio::test]
async fn silent_connections_blind_nobody_who_asks_for_a_page() {
    let relay =
        Relay::new("rooms:\n  lab: { token_file: lab.token }\npages: { listen: 127.0.0.1:0, token_file: pages.token }\n").await;
    let address = relay.pages.expect("a second listener");
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(address).await.expect("a connection"));
    }
    for method in ["GET", "HEAD"] {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let head = format!("{method} /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("the request goes out");
        let mut answer = String::new();
        soon("an answer", stream.read_to_string(&mut answer)).await.expect("text");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n") == (method == "GET"), "{answer}");
    }
}

#[tokio::test]
async fn without_a_token_in_the_file_there_are_no_pages() {
    let relay = Relay::without_pages("rooms:\n  lab: { token_file: lab.token }\n").await;
    for path in ["/stats", "/metrics", "/rooms/lab/peers"] {
        assert_eq!(page(&relay, path, Some(&relay.pages_token)).await.0, 404, "{path}");
    }
    until("health", async || page(&relay, "/health", None).await.0 == 200).await;
}
