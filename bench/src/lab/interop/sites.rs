//! Two hosts on one cable, each with a network behind it, and what two strongSwans there are told.
//!
//! ```text
//!   10.1.0.1 (lo)   host a   wan0 192.0.2.1 ───────── 192.0.2.2 wan0   host b   10.2.0.1 (lo)
//!   fd01::1                       2001:db8::1         2001:db8::2               fd02::1
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};

use super::config::{Child, Config, Connection, Local, LocalAuth, Remote, RemoteAuth};
use super::guest::Guest;
use super::pki::{Authority, KeyKind, SigningKey, Subject};
use crate::netns::{Netns, Veth};

/// Name of the link between the hosts.
pub const LINK: &str = "wan0";
/// Name of the connection that [`psk_pair`] and its like make, at either end.
pub const CONNECTION: &str = "lab";
/// Name of its child.
pub const CHILD: &str = "net";
const IDS: [&str; 2] = ["a.example", "b.example"];

/// One of the two hosts: 1 or 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    A = 1,
    B = 2,
}

impl Site {
    /// The address on the cable.
    pub fn outer(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self as u8)
    }

    /// The IPv6 address on the cable.
    pub fn outer6(self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, self as u16)
    }

    /// An address behind the host.
    pub fn inner(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self as u8, 0, 1)
    }

    /// An IPv6 address behind the host.
    pub fn inner6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00 + self as u16, 0, 0, 0, 0, 0, 0, 1)
    }

    /// The network behind the host.
    pub fn network(self) -> String {
        format!("10.{}.0.0/24", self as u8)
    }

    pub fn id(self) -> &'static str {
        IDS[self as usize - 1]
    }

    pub fn other(self) -> Site {
        if self == Site::A { Site::B } else { Site::A }
    }

    /// Gives the addresses to a namespace that has the link.
    pub fn settle(self, netns: &Netns) -> Result<()> {
        for line in self.lines() {
            netns.run(&line)?;
        }
        Ok(())
    }

    /// Gives the addresses to a guest.
    pub fn settle_guest(self, guest: &Guest) -> Result<()> {
        guest.run(&self.lines().join(" && ")).map(drop)
    }

    fn lines(self) -> [String; 4] {
        [
            format!("ip address add {}/24 dev {LINK}", self.outer()),
            format!("ip address add {}/64 dev {LINK} nodad", self.outer6()),
            format!("ip address add {}/32 dev lo", self.inner()),
            format!("ip address add {}/128 dev lo", self.inner6()),
        ]
    }

    /// An error unless the other host's network answers from this one's, three times in five seconds. It says nothing about loss:
    /// `ping` would wait for the last answer no longer than twice what the others took, which means nothing on a busy machine.
    pub fn reach(self, run: impl FnOnce(&str) -> Result<String>) -> Result<()> {
        let output = run(&format!("ping -n -c3 -i0.05 -w5 -I {} {}", self.inner(), self.other().inner()))?;
        let received = output.split(" received").next().and_then(|before| before.rsplit(' ').next()?.parse::<u32>().ok());
        ensure!(received.is_some_and(|received| received >= 3), "{output}");
        Ok(())
    }
}

/// The two hosts as namespaces.
#[derive(Debug)]
pub struct Sites {
    pub a: Netns,
    pub b: Netns,
    _cable: Veth,
}

impl Sites {
    pub fn new() -> Result<Sites> {
        let (a, b) = (Netns::new("swan-a")?, Netns::new("swan-b")?);
        let cable = Veth::between(&a, LINK, &b, LINK, 1500)?;
        Site::A.settle(&a)?;
        Site::B.settle(&b)?;
        Ok(Sites { a, b, _cable: cable })
    }
}

/// How the two hosts prove who they are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    Psk,
    /// Keys that the other end knows.
    RawKeys(KeyKind),
    /// Certificates of one root.
    Certificates(KeyKind),
    /// Certificates of an authority below the root; only the root is known to the other end.
    Chains(KeyKind),
    /// Certificates four authorities below the root: more than fits one datagram of IKE.
    LongChains(KeyKind),
}

/// The configurations of both hosts, which fit: one connection `lab` with one child `net` between the two networks.
pub fn pair(proof: Proof) -> Result<(Config, Config)> {
    let [(local_a, remote_a), (local_b, remote_b)] = proofs(proof)?;
    let config = |site: Site, local: LocalAuth, remote: RemoteAuth| {
        let local = Local { id: site.id().to_owned(), auth: local };
        let remote = Remote { id: site.other().id().to_owned(), auth: remote };
        let mut connection = Connection::new(CONNECTION, local, remote);
        connection.local_address = Some(IpAddr::V4(site.outer()));
        connection.remote_address = Some(IpAddr::V4(site.other().outer()));
        connection.secret = b"the lab's pre-shared key".to_vec();
        connection.children = vec![Child::new(CHILD).between(&site.network(), &site.other().network())];
        Config { connections: vec![connection], ..Config::default() }
    };
    Ok((config(Site::A, local_a, remote_a), config(Site::B, local_b, remote_b)))
}

/// How a proves itself and what a expects of b; the same for b.
fn proofs(proof: Proof) -> Result<[(LocalAuth, RemoteAuth); 2]> {
    let certified = |root: &Authority, issuer: &Authority, kind| {
        let one = |site: Site| -> Result<(LocalAuth, RemoteAuth)> {
            let credential = issuer.issue(&Subject::dns(site.id()), kind)?;
            Ok((LocalAuth::Certificate(credential), RemoteAuth::Authorities(vec![root.certificate().clone()])))
        };
        Ok([one(Site::A)?, one(Site::B)?])
    };
    match proof {
        Proof::Psk => Ok([(LocalAuth::Psk, RemoteAuth::Psk), (LocalAuth::Psk, RemoteAuth::Psk)]),
        Proof::RawKeys(kind) => {
            let (a, b) = (SigningKey::generate(kind)?, SigningKey::generate(kind)?);
            let (known_a, known_b) = (a.public_pem(), b.public_pem());
            Ok([
                (LocalAuth::RawKey(a), RemoteAuth::RawKeys(vec![known_b])),
                (LocalAuth::RawKey(b), RemoteAuth::RawKeys(vec![known_a])),
            ])
        }
        Proof::Certificates(kind) => {
            let root = Authority::root("Lab root", kind)?;
            certified(&root, &root, kind)
        }
        Proof::Chains(kind) => {
            let root = Authority::root("Lab root", kind)?;
            certified(&root, &root.intermediate("Lab issuer", kind)?, kind)
        }
        Proof::LongChains(kind) => {
            let root = Authority::root("Lab root", kind)?;
            let mut issuer = root.intermediate("Lab issuer 1", kind)?;
            for number in 2..=4 {
                issuer = issuer.intermediate(&format!("Lab issuer {number}"), kind)?;
            }
            certified(&root, &issuer, kind)
        }
    }
}
