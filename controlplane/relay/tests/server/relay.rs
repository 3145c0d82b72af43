//! A whole relay on 127.0.0.1, as `adit relay -c FILE` runs it, with files of its own.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use adit_relay::config::Config;
use adit_relay::init;
use adit_relay::login::Token;
use adit_relay::server::{Reloaded, Reloader, Server};
use adit_relay::tls::Pin;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Longer than anything takes here, however busy the machine is; what needs so long has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Limits that are in nobody's way: all tests come from one address, and the machine may be busy.
pub const NO_HURRY: &str = "handshakes_of_network_per_s: 100000, handshakes_per_s: 100000, login_s: 60";

/// Waits for what must come.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: nothing in {} s", PATIENCE.as_secs()))
}

/// Looks again and again until it is so.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Waits for the other end to be dropped.
async fn end_of(ended: oneshot::Receiver<()>) {
    drop(ended.await);
}

/// One that runs. Its file is made of these lines, with listener and credentials before them.
pub struct Relay {
    pub address: SocketAddr,
    pub pages: Option<SocketAddr>,
    pub pin: Pin,
    pub token: Token,
    pub pages_token: String,
    directory: TempDir,
    reloader: Reloader,
    end: Option<oneshot::Sender<()>>,
    again: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

impl Relay {
    /// One with a room `lab` for whoever has the token.
    pub async fn with_lab() -> Relay {
        Relay::new("rooms:\n  lab: { token_file: lab.token }\n").await
    }

    /// One with these lines, and pages if they do not say otherwise.
    pub async fn new(lines: &str) -> Relay {
        let pages = if lines.contains("pages:") { "" } else { "pages: { token_file: pages.token }\n" };
        Relay::without_pages(&format!("{lines}{pages}")).await
    }

    /// One with these lines alone; but if they do not limit it, one address may come as often as it likes, since all tests come
    /// from one.
    pub async fn without_pages(lines: &str) -> Relay {
        let limits = if lines.contains("limits:") { String::new() } else { format!("limits: {{ {NO_HURRY} }}\n") };
        let rest = format!("{lines}{limits}");
        let directory = tempfile::tempdir().expect("a directory");
        let made = init::init(directory.path(), "localhost").expect("a new relay");
        let read = |file: &str| std::fs::read(directory.path().join(file)).expect("a file of init");
        let file = directory.path().join("test.yaml");
        std::fs::write(&file, format!("listen: 127.0.0.1:0\ncertificate: relay.crt\nkey: relay.key\n{rest}")).expect("a file");
        let config = Config::load(&file).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let server = Server::bind(config).await.expect("free ports");
        let (end, ended) = oneshot::channel::<()>();
        let (address, pages) = (server.addresses()[0], server.pages_address());
        let (again, ended_again) = oneshot::channel::<()>();
        let reloader = server.reloader();
        let running = tokio::spawn(server.run(end_of(ended), end_of(ended_again)));
        Relay {
            address,
            pages,
            pin: made.pin,
            token: Token::from_file(&read("lab.token")).expect("a token"),
            pages_token: String::from_utf8(read("pages.token")).expect("text").trim().to_owned(),
            directory,
            reloader,
            end: Some(end),
            again: Some(again),
            running,
        }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Asks it to end, as SIGTERM does.
    pub fn end(&mut self) {
        drop(self.end.take());
    }

    /// Asks it once more.
    pub fn end_again(&mut self) {
        drop(self.again.take());
    }

    /// Writes other lines into its file, and has it read, as SIGHUP does.
    pub fn reload(&self, lines: &str) -> Reloaded {
        self.write(lines);
        let config = Config::load(&self.file("test.yaml")).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        self.reloader.reload(config).expect("a certificate that can be used")
    }

    fn write(&self, lines: &str) {
        let text = format!("listen: 127.0.0.1:0\ncertificate: relay.crt\nkey: relay.key\n{lines}");
        std::fs::write(self.file("test.yaml"), text).expect("a file");
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) {
        soon("the end of the relay", &mut self.running).await.expect("no panic");
    }

    /// What `/stats` says.
    pub async fn stats(&self) -> serde_json::Value {
        let (status, body) = crate::client::page(self, "/stats", Some(&self.pages_token)).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// How often somebody was refused for this.
    pub async fn refused(&self, why: &str) -> u64 {
        self.stats().await["refused"][why].as_u64().unwrap_or_else(|| panic!("no refusals are counted as {why}"))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// A certificate and key of somebody else.
pub fn other_credentials(directory: &Path) -> Arc<rustls::ServerConfig> {
    let made = init::init(directory, "localhost").expect("another relay");
    assert!(made.files.len() > 2);
    let load = adit_relay::tls::Credentials::load(&directory.join("relay.crt"), &directory.join("relay.key"));
    adit_relay::tls::server(&load.expect("credentials")).expect("a server")
}
