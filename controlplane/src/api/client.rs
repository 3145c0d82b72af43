//! Asking a running gateway over its Unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_channel::users;
use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::schema::{Explanation, Outcome, Peer, Reload, Status, Stopping};

/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(5);
/// How long a reload may take: it waits while a data plane is being started.
const RELOAD_WITHIN: Duration = Duration::from_secs(60);

/// A gateway to be asked: where its API listens; its name, and how it is started, for the message when nobody answers.
#[derive(Clone, Debug)]
pub struct Gateway {
    pub socket: PathBuf,
    pub name: String,
    pub start: String,
}

impl Gateway {
    /// How it does.
    ///
    /// # Errors
    /// None runs there, or it does not answer.
    pub async fn status(&self) -> anyhow::Result<Status> {
        self.ask(Method::GET, "/v1/status").await
    }

    /// How one of its peers does.
    ///
    /// # Errors
    /// As [`Gateway::status`]; or there is no such peer.
    pub async fn peer(&self, peer: &str) -> anyhow::Result<Peer> {
        self.ask(Method::GET, &format!("/v1/peers/{}", escaped(peer))).await
    }

    /// Commands something about a peer: `connect`, `disconnect`, `rekey` or `rekey-ike`.
    ///
    /// # Errors
    /// As [`Gateway::status`]; or it refuses, and says why.
    pub async fn command(&self, peer: &str, command: &str) -> anyhow::Result<()> {
        self.ask::<Outcome>(Method::POST, &format!("/v1/peers/{}/{command}", escaped(peer))).await.map(drop)
    }

    /// Has the configuration read again.
    ///
    /// # Errors
    /// As [`Gateway::status`]; or the file does not check, or it cannot be done: the message says what is wrong.
    pub async fn reload(&self, dry_run: bool, restart_dataplane: bool) -> anyhow::Result<Reload> {
        let path = format!("/v1/reload?dry_run={dry_run}&restart_dataplane={restart_dataplane}");
        self.ask_within(RELOAD_WITHIN, Method::POST, &path).await
    }

    /// Has it end, with its data plane. The answer says who ends, and comes before they have.
    ///
    /// # Errors
    /// As [`Gateway::status`].
    pub async fn stop(&self) -> anyhow::Result<Stopping> {
        self.ask(Method::POST, "/v1/stop").await
    }

    /// Why the last negotiation with a peer came to nothing.
    ///
    /// # Errors
    /// As [`Gateway::command`].
    pub async fn explain(&self, peer: &str) -> anyhow::Result<Explanation> {
        self.ask(Method::GET, &format!("/v1/peers/{}/explain", escaped(peer))).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str) -> anyhow::Result<T> {
        self.ask_within(WITHIN, method, path).await
    }

    async fn ask_within<T: DeserializeOwned>(&self, within: Duration, method: Method, path: &str) -> anyhow::Result<T> {
        let Gateway { socket, name, start } = self;
        let connection = match UnixStream::connect(socket).await {
            Ok(connection) => connection,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                bail!("no adit runs as {name}: start it with {start}")
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                bail!("no permission to ask {name}: run adit as the user that runs it (root, usually)")
            }
            Err(error) => return Err(error).with_context(|| format!("connecting to {}", socket.display())),
        };
        let (owner, own) = (connection.peer_cred()?.uid(), rustix::process::geteuid().as_raw());
        if is_impostor(owner, own, users::data_plane()) {
            bail!(
                "{} belongs to {}, the user of the data plane: it is not adit that listens there",
                socket.display(),
                users::name(owner)
            );
        }
        let answer = tokio::time::timeout(within, exchange(connection, method, path)).await;
        let (status, body) = answer.with_context(|| format!("{name} did not answer within {} s", within.as_secs()))??;
        if !status.is_success() {
            match serde_json::from_slice::<Outcome>(&body) {
                Ok(outcome) => bail!("{}", outcome.error),
                Err(_) => bail!("{name} answered {status}; is it another version?"),
            }
        }
        serde_json::from_slice(&body).with_context(|| format!("{name} answered something else; is it another version?"))
    }
}

/// Whether who listens is the other plane's user: it can make sockets in the runtime directory, and is not to speak for the gateway.
fn is_impostor(owner: u32, own: u32, data_plane: Option<u32>) -> bool {
    owner != own && Some(owner) == data_plane
}

/// A name as a part of a path: whatever was typed, the gateway is to say that there is no such peer.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

async fn exchange(connection: UnixStream, method: Method, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, driver) = http1::handshake(TokioIo::new(connection)).await?;
    let driver = tokio::spawn(driver);
    let request = Request::builder().method(method).uri(path).header("host", "adit").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    drop(sender);
    driver.abort();
    Ok((status, body))
}

/// The only gateway that runs on this machine with its runtime directory under `root`.
///
/// # Errors
/// None runs, or several do, or we may not look.
pub async fn only_gateway(root: &Path) -> anyhow::Result<String> {
    let denied =
        || format!("no permission to look into {}: run adit status as root, or as the user that runs adit", root.display());
    let mut names = Vec::new();
    match std::fs::read_dir(root) {
        Ok(entries) => {
            for entry in entries.filter_map(Result::ok) {
                let Ok(name) = entry.file_name().into_string() else { continue };
                match UnixStream::connect(entry.path().join("api.sock")).await {
                    // One that is too busy to answer runs, too.
                    Ok(_) => names.push(name),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => names.push(name),
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => bail!(denied()),
                    // What a killed run has left.
                    Err(_) => {}
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => bail!(denied()),
        Err(error) => return Err(error).with_context(|| format!("looking into {}", root.display())),
    }
    names.sort();
    match names.as_slice() {
        [one] => Ok(one.clone()),
        [] => bail!(
            "no adit runs in {}: start one with adit run -c FILE, or name its configuration: adit status -c FILE",
            root.display()
        ),
        _ => bail!("several gateways run here ({}): name one: adit status --name {}", names.join(", "), names[0]),
    }
}

/// The API socket of a gateway that uses the usual directory.
pub fn usual_socket(name: &str) -> PathBuf {
    crate::config::default_runtime_dir(name).join("api.sock")
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[test]
    fn the_data_plane_s_user_is_not_believed_to_be_adit() {
        assert!(is_impostor(64, 0, Some(64)) && is_impostor(64, 63, Some(64)));
        assert!(!is_impostor(0, 0, Some(64)) && !is_impostor(63, 0, Some(64)) && !is_impostor(64, 0, None));
        assert!(!is_impostor(64, 64, Some(64)), "who runs both as one user");
    }

    #[tokio::test]
    async fn a_socket_that_nobody_listens_at_is_no_gateway() {
        let root = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            std::fs::create_dir(root.path().join(name)).unwrap();
            UnixListener::bind(root.path().join(name).join("api.sock")).unwrap()
        };
        drop(open("killed"));
        let none = only_gateway(root.path()).await.unwrap_err().to_string();
        assert!(none.contains("no adit runs"), "{none}");
        let _b = open("site-b");
        assert_eq!(only_gateway(root.path()).await.unwrap(), "site-b");
        let _a = open("site-a");
        let several = only_gateway(root.path()).await.unwrap_err().to_string();
        assert!(several.contains("(site-a, site-b)") && several.contains("--name site-a"), "{several}");
        assert!(only_gateway(&root.path().join("absent")).await.unwrap_err().to_string().contains("no adit runs"));
    }
}
