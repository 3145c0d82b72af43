//! Every status that an operation can give is in the document, and every error is JSON.

use std::collections::BTreeSet;
use std::path::Path;

use axum::body::{Body, to_bytes};
use axum::http;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;

use super::*;
use crate::config::{Config, Machine};
use crate::desired::Desired;
use crate::request::What;

/// A gateway with one peer, `b`, and a token that nobody has.
fn routers(requests: &mpsc::Sender<Request>) -> Routers {
    let dir = tempfile::tempdir().unwrap();
    crate::static_key::Secret::from_bytes(adit_proto::suite::Suite::Aes256Gcm, [3; crate::static_key::SECRET_LEN])
        .create_file(&dir.path().join("pair.key"))
        .unwrap();
    let yaml = "name: a\nlisten: 192.0.2.1:4500\ninterface: { name: adit0 }\ndataplane: { workers: 1 }\npeers:\n  \
        - { name: b, endpoint: \"192.0.2.2:4500\", static_key_file: pair.key }\n";
    let config = Config::from_yaml(yaml, Path::new(dir.path()), &Machine { cores: vec![0] }).unwrap();
    Routers::new(&Arc::new(View::new(Arc::new(Desired::new(config)))), requests).unwrap()
}

/// Answers all requests with this error, as far as it can be theirs.
async fn refuse_all(mut requests: mpsc::Receiver<Request>, error: fn() -> RequestError) {
    let or_not_ready = |error, can_be: bool| if can_be { error } else { RequestError::NotReady };
    let of_peer = || or_not_ready(error(), !matches!(error(), RequestError::Unchecked(_)));
    let of_file = || or_not_ready(error(), !matches!(error(), RequestError::NoSuchPeer(..) | RequestError::StaticKey(_)));
    while let Some(request) = requests.recv().await {
        match request {
            Request::Look(reply) => drop(reply.send(())),
            Request::Peer(_, What::Command(_, reply)) => drop(reply.send(Err(of_peer()))),
            Request::Peer(_, What::Explain(reply)) => drop(reply.send(Err(of_peer()))),
            Request::Reload(_, reply) => drop(reply.send(Err(of_file()))),
            Request::Stop(reply) => drop(reply),
        }
    }
}

/// The status of an answer; one that is an error is JSON with words.
async fn ask(router: &Router, (method, path): (&str, &str), host: &str) -> u16 {
    let request = http::Request::builder().method(method).uri(path).header("host", host).body(Body::empty()).unwrap();
    let answer = TowerToHyperService::new(router.clone()).call(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    // What health says is no error, whatever its status.
    if status >= 400 && !path.starts_with("/v1/health") {
        let outcome: schema::Outcome = serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        assert!(!outcome.ok && outcome.error.len() > 10, "{outcome:?}");
    }
    status
}

/// Asks everything that the document names, and gives what came back; all of it is in the document.
async fn ask_all(router: &Router, host: &str) -> BTreeSet<u16> {
    let document: Value = serde_json::from_str(&document::json()).unwrap();
    let mut seen = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let paths = [path.replace("{peer}", "b"), path.replace("{peer}", "nobody"), format!("{path}?dry_run=perhaps")];
            for asked in paths.iter().filter(|path| !path.contains('{')) {
                let status = ask(router, (&method.to_uppercase(), asked), host).await;
                let known = &operation["responses"][status.to_string()];
                assert!(known.is_object(), "{method} {asked} gives {status}, which is not in the document: {operation:#}");
                seen.insert(status);
            }
        }
    }
    seen
}

#[tokio::test]
async fn every_status_that_an_operation_gives_is_in_the_document() {
    let errors: [fn() -> RequestError; 5] = [
        || RequestError::NoSuchPeer("b".to_owned(), "c".to_owned()),
        || RequestError::StaticKey("b".to_owned()),
        || RequestError::Unchecked("a mistake".to_owned()),
        || RequestError::Refused("not connected".to_owned()),
        || RequestError::NotReady,
    ];
    let mut seen = BTreeSet::new();
    for error in errors {
        let (sender, requests) = mpsc::channel(8);
        let gateway = tokio::spawn(refuse_all(requests, error));
        let routers = routers(&sender);
        seen.extend(ask_all(&routers.local, "adit").await);
        gateway.abort();
    }
    // A gateway that has ended answers nothing.
    let (sender, _) = mpsc::channel(1);
    let routers = routers(&sender);
    seen.extend(ask_all(&routers.local, "adit").await);
    for host in ["localhost", "evil.example"] {
        seen.extend(ask_all(&routers.remote, host).await);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [200, 400, 401, 404, 409, 421, 422, 503]);
}
