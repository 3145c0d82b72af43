//! Settings of the process, with units.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::LazyLock;

use adit_channel::SA_SLOTS_MAX;
use adit_proto::class::Dscp;
use adit_proto::control::{Mac, Mode};
use adit_proto::limits::{BUSY_POLL_US, FDB_AGEING_S, FDB_ENTRIES, FLOOD_PPS, SOCKET_BUFFER};
use adit_proto::limits::{IP_PACKET_LEN_MAX, IPV4_MTU_MIN, PEER_IDS_MAX, SELECTORS_OF_TABLE_MAX, WORKERS_MAX};
use clap::builder::RangedI64ValueParser;
use clap::{ArgAction, Parser, ValueEnum};

use crate::tap::headers::{ETHERNET, TAG, TAGS_MAX};

/// The version and the libraries that can seal, as `--version` tells them.
static VERSION: LazyLock<String> = LazyLock::new(|| format!("{} ({})", env!("CARGO_PKG_VERSION"), adit_esp::aead::built_in()));

/// How a worker waits and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IoChoice {
    /// io_uring where the kernel allows it, else poll.
    Auto,
    #[value(name = "io_uring")]
    IoUring,
    Poll,
}

/// Whether the MSS in SYNs is brought down to what the path takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MssClamp {
    Auto,
    Off,
}

/// Which library seals and opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CryptoChoice {
    /// ipsec-mb where it is built in, works and is faster; else aws-lc.
    Auto,
    #[value(name = "aws-lc")]
    AwsLc,
    #[value(name = "ipsec-mb")]
    IpsecMb,
    #[value(name = "rustcrypto")]
    RustCrypto,
}

/// The data plane of an Adit gateway. Started by `adit run`; it forwards what the control plane installs over the channel.
#[derive(Clone, Debug, Parser)]
#[command(name = "adit-dataplane", version = VERSION.as_str())]
pub struct Config {
    /// Unix socket on which the control plane attaches.
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// The number of the user who may attach as the control plane, beside our own and root. Then our group can connect.
    #[arg(long, value_name = "UID")]
    pub control_user: Option<u32>,
    /// What to carry: Ethernet frames through a TAP, or IP packets through a TUN.
    #[arg(long, value_name = "MODE", default_value = "ethernet", value_parser = parse_mode)]
    pub mode: Mode,
    /// Name of the TAP or TUN interface to create.
    #[arg(long, value_name = "NAME")]
    pub tap: String,
    /// MAC address of the TAP; the kernel picks one when it is left out. A TUN has none.
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    pub tap_mac: Option<Mac>,
    /// Address and UDP port for ESP, IKE and STUN.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Workers, each with its core, its TAP queue and its socket.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(WORKERS_MAX)))]
    pub workers: u16,
    /// Cores to pin the workers to, one each; left out, worker i takes the i-th core that the process may use.
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub cores: Vec<usize>,
    /// Whether a worker with little to do may run on any core that the process may use; left out, where no cores are named.
    #[arg(long, action = ArgAction::Set, value_name = "true|false")]
    pub roam: Option<bool>,
    /// How to wait and write.
    #[arg(long, value_enum, default_value_t = IoChoice::Auto)]
    pub io: IoChoice,
    /// Which library seals and opens.
    #[arg(long, value_enum, default_value_t = CryptoChoice::Auto)]
    pub crypto: CryptoChoice,
    /// The DSCP of the outer header: as in the inner one, 0, or always the same. ECN is always that of the inner one.
    #[arg(long, value_name = "copy|clear|DSCP", default_value_t = Dscp::Copy)]
    pub dscp: Dscp,
    /// Whether the MSS in SYNs is brought down to what the path takes (mode ip).
    #[arg(long, value_enum, default_value_t = MssClamp::Auto)]
    pub mss_clamp: MssClamp,
    /// Largest inner IP packet in bytes.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u16).range(i64::from(IPV4_MTU_MIN)..=IP_PACKET_LEN_MAX as i64))]
    pub mtu: u16,
    /// Peers that there can be.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=i64::from(PEER_IDS_MAX)))]
    pub max_peers: u16,
    /// SAs, both directions together, that a worker can hold.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(2..=i64::from(SA_SLOTS_MAX)))]
    pub sa_slots: u32,
    /// Addresses that the forwarding table of a worker can hold.
    #[arg(long, default_value_t = 4096, value_parser = within(FDB_ENTRIES))]
    pub fdb_entries: u32,
    /// Selectors that the policy table of a worker can hold (mode ip).
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=i64::from(SELECTORS_OF_TABLE_MAX)))]
    pub selectors: u32,
    /// Seconds after which an address is forgotten when nothing came from it.
    #[arg(long, default_value_t = 300, value_parser = within(FDB_AGEING_S))]
    pub fdb_ageing_s: u32,
    /// Frames per second that each worker may send to all peers, when there are several.
    #[arg(long, default_value_t = 1000, value_parser = within(FLOOD_PPS))]
    pub flood_pps: u32,
    /// Hand on frames between peers: this gateway is the hub of a star (mode ethernet).
    #[arg(long, default_value_t = false, action = ArgAction::Set, value_name = "true|false")]
    pub forward: bool,
    /// Microseconds for which an idle worker looks for an answer before it sleeps again (io_uring only); 0 turns it off.
    #[arg(long, default_value_t = 50, value_parser = within(BUSY_POLL_US))]
    pub busy_poll_us: u32,
    /// Receive and send buffer of each UDP socket in bytes.
    #[arg(long, default_value_t = 16 << 20, value_parser = within(SOCKET_BUFFER))]
    pub socket_buffer: u32,
    /// Mark of the packets outside (SO_MARK), by which rules keep them out of the tunnel; 0 for none.
    #[arg(long, default_value_t = 0)]
    pub mark: u32,
}

impl Config {
    /// Longest Ethernet frame or IP packet that the interface takes, in bytes.
    pub fn frame_max(&self) -> usize {
        let link = if self.mode == Mode::Ethernet { ETHERNET + TAGS_MAX * TAG } else { 0 };
        usize::from(self.mtu) + link
    }

    /// Whether workers may leave their cores while they have little to do.
    pub fn roams(&self) -> bool {
        self.roam.unwrap_or(self.cores.is_empty())
    }

    /// Whether frames are handed on between peers.
    pub fn is_hub(&self) -> bool {
        self.forward && self.mode == Mode::Ethernet
    }
}

/// A command line as flags with their values: `--mtu 1500` and `--mtu=1500` are the same.
pub fn pairs(words: impl Iterator<Item = String>) -> Vec<(String, String)> {
    let mut list: Vec<(String, String)> = Vec::new();
    for word in words {
        match (word.strip_prefix("--").map(|_| word.split_once('=')), list.last_mut()) {
            (Some(Some((flag, value))), _) => list.push((flag.to_owned(), value.to_owned())),
            (Some(None), _) => list.push((word, String::new())),
            (None, Some((_, value))) => *value = word,
            (None, None) => {}
        }
    }
    list
}

/// A whole number of a range that the control plane judges by as well.
fn within(range: RangeInclusive<u32>) -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(i64::from(*range.start())..=i64::from(*range.end()))
}

fn parse_mode(text: &str) -> Result<Mode, String> {
    let names = Mode::ALL.map(Mode::name).join(" or ");
    Mode::ALL.into_iter().find(|mode| mode.name() == text).ok_or(format!("expected {names}"))
}

fn parse_mac(text: &str) -> Result<Mac, String> {
    let mut mac = Mac::default();
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2).ok_or("expected six bytes like 02:00:00:00:00:01")?;
        *byte = u8::from_str_radix(part, 16).map_err(|error| format!("{part:?} is no hexadecimal byte: {error}"))?;
    }
    if parts.next().is_some() {
        return Err("expected six bytes, found more".into());
    }
    if mac[0] & 1 == 1 {
        return Err("a multicast address cannot be the address of an interface; clear the lowest bit of the first byte".into());
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_flags_with_their_values() {
        let words = ["stray", "--mtu", "1400", "--listen=[::1]:4500", "--io", "poll", "--mark"].map(str::to_owned);
        let list = pairs(words.into_iter());
        let list: Vec<(&str, &str)> = list.iter().map(|(flag, value)| (flag.as_str(), value.as_str())).collect();
        assert_eq!(list, [("--mtu", "1400"), ("--listen", "[::1]:4500"), ("--io", "poll"), ("--mark", "")]);
    }

    #[test]
    fn flags_take_what_the_configuration_takes_and_no_more() {
        let flags = [
            ("--fdb-entries", FDB_ENTRIES),
            ("--fdb-ageing-s", FDB_AGEING_S),
            ("--flood-pps", FLOOD_PPS),
            ("--busy-poll-us", BUSY_POLL_US),
            ("--socket-buffer", SOCKET_BUFFER),
        ];
        let taken = |flag: &str, value: u32| {
            let value = value.to_string();
            let words = ["adit-dataplane", "--socket", "/s", "--tap", "t", "--listen", "0.0.0.0:4500", flag, &value];
            Config::try_parse_from(words).is_ok()
        };
        for (flag, range) in flags {
            let (least, most) = range.into_inner();
            assert!(taken(flag, least) && taken(flag, most), "{flag}");
            assert!(!taken(flag, most + 1) && least.checked_sub(1).is_none_or(|less| !taken(flag, less)), "{flag}");
        }
    }
}
