//! `listen` with port 0: the system chooses a port once, and it is kept in the state directory, so that it is the same after every
//! restart of either plane, as long as nobody else takes it.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;

use anyhow::Context;

use super::{Gateway, Plane};
use crate::config::Config;
use crate::resolve;
use crate::state::State;

/// Puts the port that was kept, or a new one, in the place of 0. Says whether it was 0.
///
/// # Errors
/// The system has none, or it cannot be kept.
pub(super) fn settle(config: &mut Config, state: &State) -> anyhow::Result<bool> {
    if config.listen.port() != 0 {
        return Ok(false);
    }
    let port = match state.port() {
        Some(port) => port,
        None => choose(config, state)?,
    };
    config.listen.set_port(port);
    Ok(true)
}

/// Another one than any that is in use now.
fn choose(config: &Config, state: &State) -> anyhow::Result<u16> {
    let mut listen = resolve::listen_now(config).unwrap_or(config.listen);
    listen.set_port(0);
    let port = match UdpSocket::bind(listen) {
        // An address that is not there yet: any port that is free will be free there.
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => UdpSocket::bind("0.0.0.0:0"),
        bound => bound,
    };
    let port = port.and_then(|socket| socket.local_addr()).context("finding a free UDP port for `listen`")?.port();
    state.keep_port(port)?;
    tracing::info!("the system has chosen UDP port {port} (listen: port 0); it is kept");
    Ok(port)
}

impl Gateway {
    /// The port that was kept is another program's now: takes another one, where the configuration leaves that to the system and no
    /// peer knows the old one from us.
    pub(super) fn choose_another_port(&mut self) -> anyhow::Result<bool> {
        let config = &self.desired.config;
        let taken = resolve::listen_now(config)
            .is_some_and(|listen| UdpSocket::bind(listen).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse));
        if !self.port_is_chosen || !taken || self.ike.is_some() {
            return Ok(false);
        }
        let port = choose(config, self.durable.state())?;
        let mut desired = (*self.desired).clone();
        desired.config.listen.set_port(port);
        self.set_desired(desired);
        Ok(true)
    }

    /// The running configuration with what was found out about it.
    fn set_desired(&mut self, desired: crate::desired::Desired) {
        self.desired = Arc::new(desired);
        self.view.set_desired(self.desired.clone(), std::collections::BTreeMap::new());
    }

    /// Whether `listen` is on an interface that has another index by now: only another data plane can be there.
    pub(super) fn listen_has_moved(&self, plane: &Plane) -> bool {
        let config = &self.desired.config;
        let running = plane.arguments.iter().find(|(flag, _)| flag == "--listen");
        let now = config.listen_interface.as_ref().and_then(|_| resolve::listen_now(config));
        matches!((running, now), (Some((_, running)), Some(now)) if *running != now.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Machine;

    fn config(listen: &str) -> Config {
        let yaml = format!("name: a\nlisten: \"{listen}\"\ninterface: {{ name: adit0 }}\npeers: []\n");
        let machine = Machine { cores: vec![0] };
        Config::from_yaml(&yaml, std::path::Path::new("/"), &machine).unwrap_or_else(|problems| panic!("{problems:?}"))
    }

    #[test]
    fn a_port_that_the_system_has_chosen_stays() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let mut first = config("127.0.0.1:0");
        assert!(settle(&mut first, &state).unwrap());
        assert!(first.listen.port() > 0 && UdpSocket::bind(first.listen).is_ok(), "{}", first.listen);
        drop(state);
        // The next process, also when the address is another one.
        let state = State::open(dir.path()).unwrap();
        for listen in ["127.0.0.1:0", "[::]:0"] {
            let mut next = config(listen);
            assert!(settle(&mut next, &state).unwrap());
            assert_eq!((next.listen.port(), state.port()), (first.listen.port(), Some(first.listen.port())));
        }
        // What is configured is not touched, and does not count as chosen.
        let mut fixed = config("127.0.0.1:4501");
        assert!(!settle(&mut fixed, &state).unwrap());
        assert_eq!((fixed.listen.port(), state.port()), (4501, Some(first.listen.port())));
    }

    #[test]
    fn another_port_is_chosen_while_somebody_has_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let mut first = config("127.0.0.1:0");
        settle(&mut first, &state).unwrap();
        let held = UdpSocket::bind(first.listen).unwrap();
        let another = choose(&first, &state).unwrap();
        assert_ne!(another, first.listen.port());
        assert_eq!(state.port(), Some(another), "it is kept in its place");
        drop(held);
        // An address that no interface of this machine has (RFC 5737).
        assert!(choose(&config("203.0.113.77:0"), &state).unwrap() > 0);
    }
}
