//! Keys that people know from WireGuard, strongSwan and others, and what does it here.

/// What to say to somebody who wrote such a key.
#[derive(Clone, Copy, Debug)]
pub struct Remedy {
    /// What the thing is here: a clause.
    pub what: &'static str,
    /// YAML that can be written as it is, and in brackets behind it where; or that there is nothing to write.
    pub write: &'static str,
}

const PSK: Remedy = Remedy {
    what: "secrets have files of their own, so that this one can be shown to others",
    write: "ike: { psk_file: site-b.psk }      (in the peer; and run: adit keygen psk -o site-b.psk)",
};
const PRIVATE_KEY: Remedy = Remedy {
    what: "our private key is in a file of its own, named in `ike` at the top",
    write: "ike: { key_file: own.key }      (at the top; and run: adit keygen ed25519 -o own.key)",
};
const PUBLIC_KEY: Remedy = Remedy {
    what: "the peer's public key is in a file, named in the peer's `ike`",
    write: "ike: { public_key_file: site-b.pub }      (in the peer)",
};
const CERTIFICATE: Remedy = Remedy {
    what: "our certificate is in a file, named in `ike` at the top",
    write: "ike: { key_file: own.key, certificate_file: own.crt }      (at the top)",
};
const CA: Remedy = Remedy {
    what: "whose certificates are trusted is said in the peer's `ike`",
    write: "ike: { ca_file: ca.crt }      (in the peer)",
};
const SELECTORS: Remedy = Remedy {
    what: "with `mode: ip`, `selectors` say which packets belong to a peer; Ethernet frames need no such list",
    write: "selectors: [{ local: 10.1.0.0/24, remote: 10.2.0.0/24 }]      (in the peer, with mode: ip)",
};
const ADDRESS: Remedy = Remedy {
    what: "addresses inside the tunnel are those of the interface",
    write: "interface: { name: adit0, addresses: [10.1.0.1/24] }      (at the top)",
};
const ROUTES: Remedy = Remedy {
    what: "routes are those of the interface, and in IP mode each `remote` network has one by itself",
    write: "interface: { name: adit0, routes: [{ to: 10.9.0.0/16, via: 10.1.0.2 }] }      (at the top)",
};
const LISTEN: Remedy =
    Remedy { what: "address and port to receive on are written together", write: "listen: \"0.0.0.0:4500\"      (at the top)" };
const ENDPOINT: Remedy = Remedy {
    what: "where the peer receives is its `endpoint`, address and port together",
    write: "endpoint: \"192.0.2.2:4500\"      (in the peer)",
};
const IDENTITY: Remedy = Remedy {
    what: "who we are is `ike.id` at the top, and who the peer is `id` in its `ike`",
    write: "id: site-b.example.org      (in `ike`)",
};
const KEEPALIVE: Remedy =
    Remedy { what: "the interval of keepalives is in the peer's `ike`", write: "ike: { keepalive_s: 20 }      (in the peer)" };
const MTU: Remedy = Remedy {
    what: "`interface.mtu` is that inside the tunnel, computed when left out; `underlay_mtu` that of the way to the peers",
    write: "underlay_mtu: 1500      (at the top)",
};
const IKE_PROPOSALS: Remedy = Remedy {
    what: "algorithms are in the peer's `ike`, in strongSwan's words; left out, they are good ones",
    write: "ike: { proposals: [aes256gcm16-prfsha384-x25519], esp_proposals: [aes256gcm16] }      (in the peer)",
};
const REKEY: Remedy = Remedy {
    what: "lifetimes are in the peer's `ike`, in seconds",
    write: "ike: { rekey_s: 3600, ike_rekey_s: 14400 }      (in the peer)",
};
const REAUTH: Remedy = Remedy {
    what: "after how long both ends prove anew who they are is in the peer's `ike`, in seconds",
    write: "ike: { reauth_s: 86400 }      (in the peer)",
};
const DPD: Remedy =
    Remedy { what: "dead peer detection is in the peer's `ike`, in seconds", write: "ike: { dpd_s: 10 }      (in the peer)" };
const ROLE: Remedy =
    Remedy { what: "who begins is `role` in the peer's `ike`", write: "ike: { role: initiator }      (in the peer)" };
const AUTH: Remedy = Remedy {
    what: "how the peer proves who it is follows from the file that is named",
    write: "ike: { psk_file: site-b.psk }      (in the peer; or public_key_file, or ca_file)",
};
const VERSION: Remedy = Remedy { what: "there is IKEv2 only", write: "nothing: remove it" };
const MODE: Remedy = Remedy {
    what: "what is carried, frames or packets, is `mode` at the top",
    write: "mode: ip      (at the top; or mode: ethernet)",
};
const PEERS: Remedy = Remedy {
    what: "other gateways are listed in `peers`",
    write: "peers: [{ name: site-b, endpoint: \"192.0.2.2:4500\", ike: { psk_file: site-b.psk } }]      (at the top)",
};
const WORKERS: Remedy = Remedy {
    what: "threads are `dataplane.workers`, and their cores `dataplane.cores`",
    write: "dataplane: { workers: 2 }      (at the top)",
};
const TOKEN: Remedy = Remedy {
    what: "a token has a file of its own, so that this one can be shown to others",
    write: "token_file: lab.token      (in `relay` or `api`, with mode 0600 for the file)",
};
const SCRIPTS: Remedy = Remedy {
    what: "no commands are run; what waits for the tunnel can ask the API, or `adit status`",
    write: "nothing: remove it",
};

/// Words after which a secret stands, in the lines that are shown.
const SECRET: &[&str] =
    &["psk", "secret", "secrets", "presharedkey", "sharedkey", "sharedsecret", "password", "passphrase", "privatekey", "token"];

/// Names without case, `-` and `_`.
pub const FOREIGN: &[(&[&str], Remedy)] = &[
    (&["psk", "secret", "secrets", "presharedkey", "sharedkey", "sharedsecret", "password", "passphrase"], PSK),
    (&["privatekey", "ownkey", "leftkey", "rsa", "ecdsa"], PRIVATE_KEY),
    (&["publickey", "pubkey", "pubkeys", "rightkey", "rightrsasigkey", "leftrsasigkey", "peerkey"], PUBLIC_KEY),
    (&["cert", "certs", "certificate", "leftcert", "rightcert"], CERTIFICATE),
    (&["ca", "cacert", "cacerts", "cafile", "rightca", "leftca", "truststore"], CA),
    (
        &["allowedips", "leftsubnet", "rightsubnet", "localts", "remotets", "subnet", "subnets", "networks", "trafficselectors"],
        SELECTORS,
    ),
    (&["address", "ip", "ipaddress", "leftsourceip", "rightsourceip", "vips"], ADDRESS),
    (&["route", "gateway", "defaultroute"], ROUTES),
    (&["listenport", "port", "localport", "bind", "leftikeport", "listenaddress"], LISTEN),
    (&["left", "localaddrs", "localaddr", "localaddress"], LISTEN),
    (
        &["right", "remoteaddrs", "remoteaddr", "remoteaddress", "remoteport", "rightikeport", "host", "hostname", "server"],
        ENDPOINT,
    ),
    (&["leftid", "rightid", "identity", "localid", "remoteid", "remotename"], IDENTITY),
    (&["persistentkeepalive", "keepalive", "keepalives", "natkeepalive"], KEEPALIVE),
    (&["mtu", "linkmtu", "tunmtu", "fragmentsize"], MTU),
    (&["ike", "esp", "phase2alg", "cipher", "ciphers", "encryption", "algorithms", "espproposal", "proposal"], IKE_PROPOSALS),
    (&["rekeytime", "lifetime", "keylife", "ikelifetime", "salifetime", "lifetimes", "overtime"], REKEY),
    (&["reauthtime", "reauth", "reauthentication"], REAUTH),
    (&["dpd", "dpddelay", "dpdaction", "dpdtimeout", "dpdinterval"], DPD),
    (&["auto", "startaction", "closeaction", "initiator", "responder"], ROLE),
    (&["auth", "authby", "leftauth", "rightauth", "authentication"], AUTH),
    (&["keyexchange", "version", "ikeversion", "ikev2", "aggressive"], VERSION),
    (&["type", "tap", "tun", "dev", "devtype", "layer"], MODE),
    (&["peer", "connections", "conn", "conns", "children", "remotes", "tunnels", "sites"], PEERS),
    (&["threads", "cpus", "cpu", "cores"], WORKERS),
    (&["token", "tokens", "accesstoken", "bearertoken"], TOKEN),
    (&["postup", "postdown", "preup", "predown", "updown", "leftupdown", "hooks", "scripts"], SCRIPTS),
];

/// What does here what a key does elsewhere. `within` is the path of the block in which it was written.
pub fn remedy(within: &str, key: &str) -> Option<Remedy> {
    let plain = plain(key);
    // Near the right name of that block: the slip of a pen rather than another program's word.
    let slip =
        matches!((within, plain.as_str()), ("interface", "address" | "route") | ("", "peer") | ("peers[].ike", "proposal"));
    let found = FOREIGN.iter().find(|(names, _)| names.contains(&plain.as_str()));
    found.map(|(_, remedy)| *remedy).filter(|_| !slip)
}

/// A name as it is compared.
fn plain(name: &str) -> String {
    name.chars().take(40).filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).collect()
}

/// A line up to a secret that somebody wrote into it: what is wrong with a file may go into a log.
pub fn without_secret(line: &str) -> String {
    for (colon, _) in line.match_indices(':') {
        let name = line[..colon].trim_end().rsplit(|c: char| !(c.is_alphanumeric() || matches!(c, '-' | '_'))).next();
        if name.is_some_and(|name| SECRET.contains(&plain(name).as_str())) {
            return format!("{} …", &line[..=colon]);
        }
    }
    line.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_other_programs_are_known_in_any_spelling() {
        for key in ["PrivateKey", "private_key", "private-key", "AllowedIPs", "allowed_ips", "left", "rightsubnet", "psk", "mtu"]
        {
            assert!(remedy("peers[]", key).is_some(), "{key}");
        }
        assert!(remedy("", "colour").is_none());
        assert_eq!(without_secret("  - { name: b, Pre-Shared-Key : hunter2 }"), "  - { name: b, Pre-Shared-Key : …");
        assert_eq!(without_secret("psk_file: site-b.psk"), "psk_file: site-b.psk");
    }
}
