//! `adit stop`: ends a gateway with its data plane, or a data plane that was left alone.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::io::Errno;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::api::client::Gateway;
use crate::config::{Machine, default_runtime_dir};
use crate::dataplane::{self, Process};
use crate::desired::Desired;
use crate::gateway::{self, Options, RawSockets};
use crate::{private, privileges, service};

/// How long both planes may take to end: longer than a data plane that does not hear takes until it is killed.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// Ends what runs of a gateway; `file` is its configuration. Gives what was ended, as a sentence; `None` where nothing runs.
///
/// # Errors
/// Something does not end, or may not be ended by us, such as a service; or the configuration, which the data plane that was left belongs to, does not check.
pub async fn stop(gateway: &Gateway, file: Option<&Path>) -> anyhow::Result<Option<String>> {
    if let Some(ended) = running(gateway).await? {
        return Ok(Some(ended));
    }
    let ended = match file {
        Some(file) => left(file).await?,
        None => left_as(&gateway.name).await?,
    };
    Ok(ended.map(|pid| format!("the data plane (process {pid}), which had no adit any more, has ended\n")))
}

/// Has a gateway that runs end itself, and waits for that.
async fn running(gateway: &Gateway) -> anyhow::Result<Option<String>> {
    let connection = match UnixStream::connect(&gateway.socket).await {
        Ok(connection) => connection,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bail!("no permission to stop {}: run adit as the user that runs it (root, usually)", gateway.name)
        }
        Err(error) => return Err(error).with_context(|| format!("connecting to {}", gateway.socket.display())),
    };
    let pid = connection.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
    drop(connection);
    // Watched before they are told: a number can be another process's afterwards.
    let control = pid.and_then(|pid| Process::watch(pid).ok());
    let planes = gateway.stop().await?;
    let plane = planes.data_plane.and_then(|pid| Process::watch(pid).ok());
    for mut process in control.into_iter().chain(plane) {
        let ended = timeout(ENDS_WITHIN, process.ended()).await;
        ended.map_err(|_| anyhow::anyhow!("process {} has not ended within {} s", process.pid, ENDS_WITHIN.as_secs()))?;
    }
    let control = planes.control_plane;
    Ok(Some(match planes.data_plane {
        Some(plane) => format!("adit (process {control}) and its data plane (process {plane}) have ended\n"),
        None => format!("adit (process {control}) has ended; it had no data plane\n"),
    }))
}

/// Takes over a data plane that was left, as `adit run` would, and ends it: its numbers are kept, and its peers are told where it runs
/// as the configuration says.
async fn left(file: &Path) -> anyhow::Result<Option<u32>> {
    private::memory().context("closing the memory of this process to others and to core dumps")?;
    let desired = Desired::read(file, &Machine::here())?;
    if dataplane::owner(&desired.config.channel_socket()).is_err_and(is_absent) {
        // A unit runs with the file of its name.
        let instance = file.file_stem().and_then(|stem| stem.to_str());
        return instance.map_or(Ok(None), no_service);
    }
    let raw = RawSockets::open();
    // Whoever could start a data plane may end one of another user that hangs, too.
    privileges::drop(true).context("giving up privileges")?;
    gateway::run(desired, Options { only_stop: true, ..Options::default() }, raw).await
}

/// An error where the data plane of a service runs without its adit: systemd started it, and starts adit again if we only end it.
fn no_service(name: &str) -> anyhow::Result<Option<u32>> {
    let Ok(service) = service::name(name) else { return Ok(None) };
    match dataplane::owner(&service::socket(&service)) {
        Ok(pid) => bail!("the data plane (process {pid}) is a service of its own: systemctl stop adit@{service} ends it"),
        // Or it is for others, who may not even look there.
        Err(_) => Ok(None),
    }
}

/// Ends a data plane of which only the name of its gateway is known. Nobody can tell its peers.
async fn left_as(name: &str) -> anyhow::Result<Option<u32>> {
    let socket: PathBuf = default_runtime_dir(name).join("dataplane.sock");
    let pid = match dataplane::owner(&socket) {
        Ok(pid) => pid,
        Err(error) if is_absent(&error) => return no_service(name),
        Err(error) => return Err(error).with_context(|| format!("connecting to {}", socket.display())),
    };
    let mut process = Process::watch(pid).context("watching the data plane")?;
    if process.stop().await == dataplane::Ending::Running {
        bail!("the data plane (process {pid}) does not end: is it another user's? systemctl status {pid} says whose it is");
    }
    Ok(Some(pid))
}

/// Whether nobody listens there.
fn is_absent(error: impl std::borrow::Borrow<io::Error>) -> bool {
    let errno = error.borrow().raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::NOENT | Errno::CONNREFUSED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn where_nothing_runs_nothing_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let gateway = Gateway { socket, name: "no-such-gateway".into(), start: String::new() };
        assert_eq!(stop(&gateway, None).await.unwrap(), None);
    }
}
