//! What `adit relay check` is to try: which relay, which of its rooms, and with which key.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use adit_proto::relay::{HostPort, RoomName};
use adit_relay::client::{self, ProxyChoice};
use adit_relay::config;
use adit_relay::key::{ClientKey, KeyError};
use adit_relay::login::Token;
use adit_relay::secret_file;
use adit_relay::tls::{Pin, Trust};
use anyhow::{Context, bail};
use clap::Args;
use clap::error::ErrorKind;
use zeroize::Zeroizing;

use super::report::Report;
use crate::config::{Config, Machine, RelayTrust, endpoint, relay_file};
use crate::key_file::{self, KeyFileError, Readers};

/// What is missing where the arguments do not name a relay.
const NAMED: &str = "what is to be tried is not said: either -c FILE, or --relay with --pin or --ca, and --room\n";

/// Which relay, and how to come in.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The configuration file of a gateway, which is tried as that gateway; or of a relay that runs on this machine: each of its rooms
    /// with a token is tried
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["relay", "pin", "ca", "room", "token_file"])]
    config: Option<PathBuf>,
    /// The relay, as its url: wss://HOST, with :PORT unless it is 443; or HOST:PORT alone. With --pin or --ca, and --room
    #[arg(long, value_name = "URL", value_parser = url)]
    relay: Option<HostPort>,
    /// Its key, as `adit relay init` printed it; two while it changes
    #[arg(long, value_name = "PIN")]
    pin: Vec<Pin>,
    /// Or the certificate of the CA that signed for it, as PEM
    #[arg(long, value_name = "FILE", conflicts_with = "pin")]
    ca: Option<PathBuf>,
    /// The room to be in
    #[arg(long, value_name = "ROOM")]
    room: Option<RoomName>,
    /// The file with the token of the room; without it the room must list the key of this client
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Be the client whose key is in this directory. Where that one is registered, no more is found out than that it may be
    /// there: nobody takes its place. Without it, that of the gateway of --config, else one that nobody knows
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// One relay that is tried, with the rooms to be in.
pub(super) struct Place {
    pub relay: client::Relay,
    pub proxy: ProxyChoice,
    /// The state directory whose key is taken.
    key_dir: Option<PathBuf>,
}

impl Place {
    /// The key that is tried; without a directory one that nobody knows. None is made there: the gateway could not read one of this user's.
    pub fn key(&self) -> Result<ClientKey, KeyError> {
        self.key_dir.as_deref().map_or_else(ClientKey::generate, ClientKey::load)
    }

    /// The same with one of its rooms.
    pub fn with_room(&self, room: &RoomName) -> Place {
        let relay = client::Relay { rooms: vec![room.clone()], ..self.relay.clone() };
        Place { relay, proxy: self.proxy.clone(), key_dir: self.key_dir.clone() }
    }
}

fn url(text: &str) -> Result<HostPort, &'static str> {
    endpoint::relay(text)
        .ok_or("write a name or an address, with a TCP port unless it is 443: wss://relay.example.org, 192.0.2.9:8443")
}

/// What is to be tried. What is found out on the way is reported.
pub(super) fn places(check: &Check, report: &mut Report) -> anyhow::Result<Vec<Place>> {
    match &check.config {
        Some(file) if relay_file::is_gateway(file) => Ok(vec![of_gateway(file, check, report)?]),
        Some(file) => {
            let config = relay_file::load(file)?;
            // Whoever asks may read more than the service.
            config.files.iter().filter_map(|file| secret_file::closed_to_service(file)).for_each(|why| report.wrong(why));
            of_relay(&config, check, report)
        }
        None => Ok(vec![named(check, report)?]),
    }
}

/// The one that the arguments name.
fn named(check: &Check, report: &mut Report) -> anyhow::Result<Place> {
    let (Some(at), Some(room), true) = (check.relay.clone(), check.room.clone(), check.ca.is_some() || !check.pin.is_empty())
    else {
        return Err(clap::Error::raw(ErrorKind::MissingRequiredArgument, NAMED).into());
    };
    let trust = match &check.ca {
        Some(file) => Trust::roots(file).with_context(|| format!("--ca {}", file.display()))?,
        None => Trust::Pins(check.pin.clone()),
    };
    let token = check.token_file.as_deref().map(|file| token(file, report)).transpose()?;
    let relay = client::Relay { at, trust, rooms: vec![room], token, is_probe: true };
    Ok(Place { relay, proxy: ProxyChoice::Environment, key_dir: check.state_dir.clone() })
}

fn token(file: &Path, report: &mut Report) -> anyhow::Result<Token> {
    // As `config check` reads it.
    let text = match key_file::read(file, Readers::OwnerOnly) {
        Ok(text) => text,
        Err(KeyFileError::Missing(file)) => {
            bail!("the file {file} does not exist; copy it from the relay, where adit relay init made it")
        }
        Err(error @ (KeyFileError::TooOpen(..) | KeyFileError::ForeignOwner(..) | KeyFileError::NotAFile(_))) => {
            match &error {
                KeyFileError::TooOpen(..) => report.wrong(format_args!("{error}, so a gateway refuses it; {}", error.remedy())),
                // On the machine of the relay it is that of its service.
                KeyFileError::ForeignOwner(..) => {
                    report.note(format_args!("{error}: a gateway would refuse it; {}", error.remedy()))
                }
                _ => {}
            }
            Zeroizing::new(std::fs::read(file).with_context(|| format!("reading the token in {}", file.display()))?)
        }
        Err(error) => bail!("{error}; {}", error.remedy()),
    };
    let what = || format!("{} holds no token: 20 to 256 letters and digits, as adit relay init makes one", file.display());
    Token::from_file(&text).with_context(what)
}

/// The one of a gateway, with its key and its token, and in all of its rooms.
fn of_gateway(file: &Path, check: &Check, report: &mut Report) -> anyhow::Result<Place> {
    let config = Config::load(file, &Machine::here())?;
    let Some(relay) = config.relay else {
        bail!("the gateway's file {} has no block `relay`; adit relay init printed what belongs there", file.display());
    };
    let trust = match relay.trust {
        RelayTrust::Pins(pins) => Trust::Pins(pins),
        RelayTrust::Ca(file) => Trust::roots(&file).with_context(|| format!("relay.ca_file {}", file.display()))?,
    };
    let token = relay.token_file.as_deref().map(|file| token(file, report)).transpose()?;
    let dir = check.state_dir.clone().unwrap_or(config.state_dir);
    let key_dir = match ClientKey::load(&dir) {
        Ok(_) => Some(dir),
        // It makes one when it begins.
        Err(KeyError::None(_)) if token.is_some() && check.state_dir.is_none() => {
            report.note(format_args!("the gateway has no key in {} yet; it is tried with one that nobody knows", dir.display()));
            None
        }
        Err(error) => return Err(error.into()),
    };
    let relay = client::Relay { at: relay.at, trust, rooms: relay.rooms, token, is_probe: true };
    Ok(Place { relay, proxy: ProxyChoice::Environment, key_dir })
}

/// The rooms of a relay on this machine that somebody can come into by a token, or by the key that is given.
fn of_relay(config: &config::Config, check: &Check, report: &mut Report) -> anyhow::Result<Vec<Place>> {
    let listen = config.listen.first().context("the configuration names no address to listen at")?;
    let at = HostPort::new(&here(*listen).to_string())?;
    let own = check.state_dir.as_deref().map(ClientKey::load).transpose()?.map(|key| key.public());
    let mut places = Vec::new();
    for (room, guests) in &config.access.0 {
        let token = guests.tokens.first().cloned();
        if token.is_none() && own.is_none_or(|key| !guests.keys.contains(&key)) {
            report.note(format_args!(
                "room {room} has no token and is not tried; a gateway that it lists can: adit relay check -c FILE with the gateway's file, \
                 or adit relay check --relay {} --pin {} --room {room} --state-dir DIR",
                public(config, listen.port()),
                config.credentials.pin
            ));
            continue;
        }
        let trust = Trust::Pins(vec![config.credentials.pin]);
        let relay = client::Relay { at: at.clone(), trust, rooms: vec![room.clone()], token, is_probe: true };
        // It is this machine.
        places.push(Place { relay, proxy: ProxyChoice::None, key_dir: check.state_dir.clone() });
    }
    if places.is_empty() {
        report.wrong("nothing was tried: no room can be come into from here");
    }
    Ok(places)
}

/// Where gateways elsewhere reach a relay: under the name in its certificate.
fn public(config: &config::Config, port: u16) -> String {
    let name = config.credentials.names().into_iter().next().unwrap_or_else(|| "NAME".to_owned());
    if name.parse::<Ipv6Addr>().is_ok() { format!("[{name}]:{port}") } else { format!("{name}:{port}") }
}

/// Where a socket is reached from this machine that listens at all its addresses.
fn here(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_at_all_addresses_is_reached_at_the_nearest() {
        let here = |text: &str| here(text.parse().unwrap()).to_string();
        assert_eq!(here("0.0.0.0:443"), "127.0.0.1:443");
        assert_eq!(here("[::]:8443"), "[::1]:8443");
        assert_eq!(here("192.0.2.1:443"), "192.0.2.1:443");
    }
}
