//! A network that lets nobody out but a proxy.

use std::net::SocketAddr;

use adit_relay::client::{Event, Proxy, ProxyChoice};
use adit_relay::key::ClientKey;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::site::{Relay, client_with, failed, hear, listen, registered};

/// One that lets through whoever sends this, if that is asked for.
async fn proxy(wanted: Option<&'static str>) -> SocketAddr {
    listen(move |stream: TcpStream| async move {
        let mut stream = BufReader::new(stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or_default() == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            head.push(line.trim().to_ascii_lowercase());
        }
        let to = head[0].strip_prefix("connect ").and_then(|rest| rest.strip_suffix(" http/1.1")).expect("CONNECT").to_owned();
        assert!(head.contains(&format!("host: {to}")), "{head:?}");
        if wanted.is_some_and(|wanted| !head.contains(&format!("proxy-authorization: {wanted}"))) {
            let _ = stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n").await;
            return;
        }
        match TcpStream::connect(&to).await {
            Ok(mut upstream) => {
                let _ = stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await;
                let _ = copy_bidirectional(&mut stream, &mut upstream).await;
            }
            Err(_) => drop(stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").await),
        }
    })
    .await
}

fn by(text: &str) -> ProxyChoice {
    ProxyChoice::Always(text.parse::<Proxy>().expect("a proxy"))
}

fn key() -> ClientKey {
    ClientKey::generate().expect("a key")
}

#[tokio::test]
async fn a_client_registers_through_a_proxy() {
    let relay = Relay::new().await;
    // `me:secret`, in lower case as the proxy of this test reads it.
    let (open, closed) = (proxy(None).await, proxy(Some("basic bwu6c2vjcmv0")).await);
    for choice in [by(&format!("http://{open}")), by(&format!("http://me:secret@{closed}"))] {
        let (handle, mut events) = client_with(vec![relay.lab()], key(), choice);
        registered(&mut events, 0).await;
        let place = handle.status()[0].place.clone().expect("a place");
        assert!(place.contains(" by the proxy 127.0.0.1:"), "{place}");
    }
}

#[tokio::test]
async fn a_proxy_that_does_not_let_through_is_told() {
    let mut relay = Relay::new().await;
    let closed = proxy(Some("basic bwu6c2vjcmv0")).await;
    let (_handle, mut events) = client_with(vec![relay.lab()], key(), by(&format!("http://me:wrong@{closed}")));
    let failure = failed(&mut events, 0).await;
    let text = failure.to_string();
    assert!(failure.cause.word() == "proxy_refused" && text.contains("wants name and password (407)"), "{text}");
    assert!(text.contains("HTTPS_PROXY") && !text.contains("wrong"), "{text}");

    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let (_handle, mut events) = client_with(vec![relay.lab()], key(), by(&address.to_string()));
    let failure = failed(&mut events, 0).await;
    assert_eq!(failure.cause.word(), "proxy_unreachable", "{failure}");

    let open = proxy(None).await;
    relay.die();
    let (_handle, mut events) = client_with(vec![relay.lab()], key(), by(&open.to_string()));
    // The relay may take a moment to be gone.
    let of = |event| if let Event::Failed { failure, .. } = event { Some(failure.to_string()) } else { None };
    hear("a refusal", &mut events, |event| of(event).filter(|text| text.contains("refuses the way to the relay (502)"))).await;
}
