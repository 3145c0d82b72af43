//! Relays that can be killed and started again, clients of them, and what stands in for a relay and is none.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use adit_proto::relay::{HostPort, RoomName};
use adit_relay::client::{self, Client, Event, Events, Failure, Handle, ProxyChoice};
use adit_relay::config::Config;
use adit_relay::init;
use adit_relay::key::ClientKey;
use adit_relay::login::Token;
use adit_relay::server::Server;
use adit_relay::tls::{self, Credentials, Pin, Trust};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Longer than anything takes here, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(180);

/// Waits for what must come.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: nothing in {} s", PATIENCE.as_secs()))
}

/// Waits for an event; those before it are left alone.
pub async fn hear<T>(what: &str, events: &mut Events, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
    soon(what, async {
        loop {
            let event = events.next().await.expect("the client goes on");
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    })
    .await
}

/// Waits until the client is registered at a relay.
pub async fn registered(events: &mut Events, wanted: usize) {
    let is_it = |event| matches!(event, Event::Registered { relay, .. } if relay == wanted).then_some(());
    hear("a registration", events, is_it).await;
}

/// Waits for a failure at a relay.
pub async fn failed(events: &mut Events, wanted: usize) -> Failure {
    hear("a failure", events, |event| match event {
        Event::Failed { relay, failure } if relay == wanted => Some(failure),
        _ => None,
    })
    .await
}

pub fn room(name: &str) -> RoomName {
    RoomName::new(name).expect("a name")
}

pub fn host_port(address: SocketAddr) -> HostPort {
    HostPort::new(&address.to_string()).expect("an address with a port")
}

/// A relay in a runtime of its own, so that it can die with all its connections.
pub struct Relay {
    pub address: SocketAddr,
    pub pin: Pin,
    pub token: Token,
    directory: Arc<TempDir>,
    runtime: Option<Runtime>,
    end: Option<oneshot::Sender<()>>,
}

impl Relay {
    /// One with a room `lab` for whoever has its token, and a room `listed` that lists nobody that there is.
    pub async fn new() -> Relay {
        let directory = Arc::new(tempfile::tempdir().expect("a directory"));
        init::init(directory.path(), "localhost").expect("a new relay");
        Relay::start(directory, SocketAddr::from(([127, 0, 0, 1], 0)), "").await
    }

    /// Another one with the same key and rooms at a port of its own, with these lines in its file.
    pub async fn twin(&self, lines: &str) -> Relay {
        Relay::start(self.directory.clone(), SocketAddr::from(([127, 0, 0, 1], 0)), lines).await
    }

    /// Starts one again where this one was.
    pub async fn again(&mut self) {
        self.die();
        *self = Relay::start(self.directory.clone(), self.address, "").await;
    }

    async fn start(directory: Arc<TempDir>, at: SocketAddr, lines: &str) -> Relay {
        let nobody = ClientKey::generate().expect("a key").public();
        let limits = "handshakes_of_network_per_s: 100000, handshakes_per_s: 100000, login_s: 60";
        let text = format!(
            "listen: \"{at}\"\ncertificate: relay.crt\nkey: relay.key\nlimits: {{ {limits} }}\nrooms:\n  lab: {{ token_file: lab.token }}\n  \
             listed: {{ keys: [\"{nobody}\"] }}\n{lines}"
        );
        let file = directory.path().join("test.yaml");
        std::fs::write(&file, text).expect("a file");
        let config = Config::load(&file).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let pin = config.credentials.pin;
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let ((end, ended), (told, address)) = (oneshot::channel::<()>(), oneshot::channel());
        runtime.spawn(async move {
            // The port of one that died may be held for a moment.
            let server = loop {
                match Server::bind(config.clone()).await {
                    Ok(server) => break server,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            let _ = told.send(server.addresses()[0]);
            server.run(async { drop(ended.await) }, std::future::pending()).await;
        });
        let address = soon("the relay listens", address).await.expect("an address");
        let token = Token::from_file(&std::fs::read(directory.path().join("lab.token")).expect("a token")).expect("a token");
        Relay { address, pin, token, directory, runtime: Some(runtime), end: Some(end) }
    }

    /// Asks it to end, as SIGTERM does.
    pub fn end(&mut self) {
        drop(self.end.take());
    }

    /// As `kill -9` does it: its sockets are closed and nobody was told.
    pub fn die(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// How a client that has the token of `lab` comes here.
    pub fn lab(&self) -> client::Relay {
        let trust = Trust::Pins(vec![self.pin]);
        let token = Some(self.token.clone());
        client::Relay { at: host_port(self.address), trust, rooms: vec![room("lab")], token, is_probe: false }
    }

    pub fn credentials(&self) -> Credentials {
        let file = |name: &str| self.directory.path().join(name);
        Credentials::load(&file("relay.crt"), &file("relay.key")).expect("credentials")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.die();
    }
}

/// A client with a key of its own.
pub fn client(relays: Vec<client::Relay>) -> (Handle, Events) {
    client_with(relays, ClientKey::generate().expect("a key"), ProxyChoice::None)
}

pub fn client_with(relays: Vec<client::Relay>, key: ClientKey, proxy: ProxyChoice) -> (Handle, Events) {
    Client::start(client::Config { relays, key, metadata: b"test".to_vec(), proxy, mark: None }).expect("a client")
}

/// What the first attempt of a client comes to.
pub async fn first_failure(relay: client::Relay) -> Failure {
    let (_handle, mut events) = client(vec![relay]);
    failed(&mut events, 0).await
}

/// Something that listens; what comes is given to this.
pub async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// The same behind TLS, with these credentials.
pub async fn listen_tls<F>(
    credentials: &Credentials,
    serve: impl Fn(TlsStream<TcpStream>) -> F + Send + Sync + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let acceptor = TlsAcceptor::from(tls::server(credentials).expect("credentials"));
    let serve = Arc::new(serve);
    listen(move |stream| {
        let (acceptor, serve) = (acceptor.clone(), serve.clone());
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream).await;
            }
        }
    })
    .await
}

/// A key of a client in a directory, to be read as often as needed.
pub fn key_in(directory: &Path) -> ClientKey {
    ClientKey::load_or_create(directory).expect("a key")
}
