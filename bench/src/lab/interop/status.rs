//! What a daemon says of its SAs, as types.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

/// An IKE SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeSa {
    /// Name of the connection.
    pub name: String,
    /// Counts the IKE SAs of the daemon; what follows from a rekeying has a new number.
    pub id: u32,
    /// In strongSwan's words: `CONNECTING`, `ESTABLISHED`, `REKEYING`, `REKEYED`, `DELETING`…
    pub state: String,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub local_id: String,
    pub remote_id: String,
    /// This end began it.
    pub initiator: bool,
    pub spi_initiator: u64,
    pub spi_responder: u64,
    /// A NAT was detected, or feigned, at either end.
    pub nat: bool,
    pub algorithms: Algorithms,
    /// Since when it has been established, in whole seconds.
    pub age: Duration,
    pub children: Vec<ChildSa>,
}

/// A Child SA, that is a pair of ESP SAs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildSa {
    /// Name of the child in the configuration.
    pub name: String,
    /// Counts the Child SAs of the daemon; what follows from a rekeying has a new number.
    pub id: u32,
    /// In strongSwan's words: `INSTALLED`, `REKEYING`, `REKEYED`, `DELETING`, `DELETED`…
    pub state: String,
    /// `TUNNEL` or `TRANSPORT`.
    pub mode: String,
    pub in_udp: bool,
    pub esn: bool,
    pub spi_in: u32,
    pub spi_out: u32,
    pub algorithms: Algorithms,
    pub bytes_in: u64,
    pub packets_in: u64,
    pub bytes_out: u64,
    pub packets_out: u64,
    pub local_ts: Vec<String>,
    pub remote_ts: Vec<String>,
}

/// What was agreed on, in strongSwan's words; empty is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Algorithms {
    /// Such as `AES_GCM_16`, with [`Algorithms::key_bits`] where the key has several sizes.
    pub encryption: String,
    pub key_bits: u32,
    pub integrity: String,
    pub prf: String,
    /// Such as `CURVE_25519`. A Child SA that came with IKE_AUTH has none.
    pub key_exchange: String,
    /// Those of RFC 9370 in their order, such as `ML_KEM_768`.
    pub additional: Vec<String>,
}

impl IkeSa {
    pub fn is_established(&self) -> bool {
        self.state == "ESTABLISHED"
    }

    /// The Child SA of this name that new packets take.
    pub fn child(&self, name: &str) -> Option<&ChildSa> {
        self.children.iter().find(|child| child.name == name && child.is_installed())
    }
}

impl ChildSa {
    pub fn is_installed(&self) -> bool {
        self.state == "INSTALLED"
    }
}

/// One event `list-sa`: the IKE SA under the name of its connection.
pub(super) type Listed = BTreeMap<String, RawIkeSa>;

/// The fields of an IKE SA as VICI has them; all are text.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct RawIkeSa {
    uniqueid: u32,
    state: String,
    local_host: String,
    #[serde(default)]
    local_port: u16,
    remote_host: String,
    #[serde(default)]
    remote_port: u16,
    #[serde(default)]
    local_id: String,
    #[serde(default)]
    remote_id: String,
    #[serde(default)]
    initiator: bool,
    initiator_spi: String,
    responder_spi: String,
    #[serde(default)]
    nat_any: bool,
    #[serde(default)]
    encr_alg: String,
    #[serde(default)]
    encr_keysize: u32,
    #[serde(default)]
    integ_alg: String,
    #[serde(default)]
    prf_alg: String,
    #[serde(default)]
    dh_group: String,
    ake1: Option<String>,
    ake2: Option<String>,
    ake3: Option<String>,
    #[serde(default)]
    established: u64,
    #[serde(default)]
    child_sas: BTreeMap<String, RawChildSa>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawChildSa {
    name: String,
    uniqueid: u32,
    state: String,
    mode: String,
    #[serde(default)]
    encap: bool,
    #[serde(default)]
    spi_in: String,
    #[serde(default)]
    spi_out: String,
    #[serde(default)]
    encr_alg: String,
    #[serde(default)]
    encr_keysize: u32,
    #[serde(default)]
    integ_alg: String,
    #[serde(default)]
    dh_group: String,
    ake1: Option<String>,
    ake2: Option<String>,
    ake3: Option<String>,
    /// Present as `1` when extended sequence numbers are in use.
    esn: Option<String>,
    #[serde(default)]
    bytes_in: u64,
    #[serde(default)]
    packets_in: u64,
    #[serde(default)]
    bytes_out: u64,
    #[serde(default)]
    packets_out: u64,
    #[serde(default)]
    local_ts: Vec<String>,
    #[serde(default)]
    remote_ts: Vec<String>,
}

impl RawIkeSa {
    pub(super) fn named(self, name: String) -> Result<IkeSa> {
        let spi = |text: &str| u64::from_str_radix(text, 16).with_context(|| format!("the IKE SPI `{text}`"));
        let address = |host: &str, port| -> Result<SocketAddr> {
            let host: IpAddr = host.parse().with_context(|| format!("the address `{host}`"))?;
            Ok(SocketAddr::new(host, port))
        };
        let mut children: Vec<ChildSa> = self.child_sas.into_values().map(RawChildSa::parsed).collect::<Result<_>>()?;
        children.sort_by_key(|child| child.id);
        Ok(IkeSa {
            name,
            id: self.uniqueid,
            state: self.state,
            local: address(&self.local_host, self.local_port)?,
            remote: address(&self.remote_host, self.remote_port)?,
            local_id: self.local_id,
            remote_id: self.remote_id,
            initiator: self.initiator,
            spi_initiator: spi(&self.initiator_spi)?,
            spi_responder: spi(&self.responder_spi)?,
            nat: self.nat_any,
            algorithms: Algorithms {
                encryption: self.encr_alg,
                key_bits: self.encr_keysize,
                integrity: self.integ_alg,
                prf: self.prf_alg,
                key_exchange: self.dh_group,
                additional: [self.ake1, self.ake2, self.ake3].into_iter().flatten().collect(),
            },
            age: Duration::from_secs(self.established),
            children,
        })
    }
}

impl RawChildSa {
    fn parsed(self) -> Result<ChildSa> {
        // A Child SA that is being set up has no SPIs yet.
        let spi = |text: &str| match text {
            "" => Ok(0),
            text => u32::from_str_radix(text, 16).with_context(|| format!("the SPI `{text}`")),
        };
        Ok(ChildSa {
            name: self.name,
            id: self.uniqueid,
            state: self.state,
            mode: self.mode,
            in_udp: self.encap,
            esn: self.esn.is_some_and(|esn| esn != "0"),
            spi_in: spi(&self.spi_in)?,
            spi_out: spi(&self.spi_out)?,
            algorithms: Algorithms {
                encryption: self.encr_alg,
                key_bits: self.encr_keysize,
                integrity: self.integ_alg,
                prf: String::new(),
                key_exchange: self.dh_group,
                additional: [self.ake1, self.ake2, self.ake3].into_iter().flatten().collect(),
            },
            bytes_in: self.bytes_in,
            packets_in: self.packets_in,
            bytes_out: self.bytes_out,
            packets_out: self.packets_out,
            local_ts: self.local_ts,
            remote_ts: self.remote_ts,
        })
    }
}
