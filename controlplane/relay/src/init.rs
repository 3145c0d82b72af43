//! `adit relay init`: key, self-signed certificate, configuration and tokens in one step, and what a gateway has to know of them.
//! Nothing that exists is overwritten, and where one file cannot be written none of them stays.

use std::fs::DirBuilder;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use adit_proto::relay::HostPort;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, DnType, KeyPair};
use zeroize::Zeroizing;

use crate::secret_file::{self, FileError, Readers};
use crate::tls::Pin;

/// Where a relay listens if nobody says otherwise: networks that let anything through let this through.
const PORT: u16 = 443;
const CONFIG: &str = "relay.yaml";

/// Why there is no new relay.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error(
        "`{0}` cannot be the name of a relay; give the name or the address under which gateways reach it: --name relay.example.org"
    )]
    Name(String),
    #[error("the directory {0} cannot be made ({1}); name another one: --dir DIR")]
    Directory(String, io::Error),
    // Not its source: who prints the causes as well would say the same twice.
    #[error("{0}; {remedy}", remedy = remedy(.0))]
    File(FileError),
    #[error("no key or certificate could be made")]
    Certificate(#[from] rcgen::Error),
    #[error("no pin could be made")]
    Pin(#[from] rustls::Error),
    #[error("the random number generator failed")]
    NoRandomness,
}

impl From<FileError> for InitError {
    fn from(error: FileError) -> InitError {
        InitError::File(error)
    }
}

fn remedy(error: &FileError) -> String {
    match error {
        FileError::Exists(file) => {
            format!("make the relay in another directory (--dir DIR), or move it away: mv {file} {file}.old")
        }
        _ => error.remedy(),
    }
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    pub files: Vec<PathBuf>,
    pub pin: Pin,
    /// All that people have to know of it.
    pub text: String,
}

/// The name of this machine, where nobody says under which name gateways reach it.
pub fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "localhost".to_owned() } else { name.trim().to_owned() }
}

/// Whether a name is most likely known on its own network alone: no address, and no part of a domain.
pub fn is_bare(name: &str) -> bool {
    !name.contains('.') && name.parse::<IpAddr>().is_err()
}

/// Makes all files of a relay in this directory, which is made where there is none.
///
/// # Errors
/// See [`InitError`].
pub fn init(directory: &Path, name: &str) -> Result<Made, InitError> {
    let address = match name.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]:{PORT}"),
        _ => format!("{name}:{PORT}"),
    };
    HostPort::new(&address).map_err(|_| InitError::Name(name.to_owned()))?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.self_signed(&key)?;
    let pin = Pin::of(certificate.der())?;
    let key_text = Zeroizing::new(key.serialize_pem());
    let (room, pages) = (token()?, token()?);

    let made = DirBuilder::new().recursive(true).mode(0o755).create(directory);
    made.map_err(|error| InitError::Directory(directory.display().to_string(), error))?;
    let (config, certificate) = (config(&address), certificate.pem());
    let contents: [(&str, &[u8], Readers); 5] = [
        ("relay.key", key_text.as_bytes(), Readers::OwnerOnly),
        ("relay.crt", certificate.as_bytes(), Readers::All),
        ("lab.token", room.as_bytes(), Readers::OwnerOnly),
        ("pages.token", pages.as_bytes(), Readers::OwnerOnly),
        // Last, so that who finds it finds all.
        (CONFIG, config.as_bytes(), Readers::All),
    ];
    let files: Vec<PathBuf> = contents.iter().map(|(file, ..)| directory.join(file)).collect();
    if let Some(there) = files.iter().find(|file| file.symlink_metadata().is_ok()) {
        return Err(FileError::Exists(there.display().to_string()).into());
    }
    for (index, (file, (_, bytes, readers))) in files.iter().zip(contents).enumerate() {
        if let Err(error) = secret_file::create(file, bytes, readers) {
            // Those before were made here.
            files[..index].iter().for_each(|file| drop(std::fs::remove_file(file)));
            return Err(error.into());
        }
    }
    let text = told(directory, &address, &pin);
    Ok(Made { files, pin, text })
}

fn token() -> Result<Zeroizing<String>, InitError> {
    let mut bytes = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(bytes.as_mut()).map_err(|_| InitError::NoRandomness)?;
    let mut text = Zeroizing::new(URL_SAFE_NO_PAD.encode(&bytes[..]));
    text.push('\n');
    Ok(text)
}

fn told(directory: &Path, address: &str, pin: &Pin) -> String {
    let dir = directory.display();
    format!(
        "made in {dir}: relay.key and relay.crt (who this relay is), lab.token (opens the room lab), pages.token (opens \
         the pages), {CONFIG}

start it:
  adit relay -c {dir}/{CONFIG}

what a gateway needs of it in its configuration (copy {dir}/lab.token there, mode 0600):
  relay:
    url: \"wss://{address}\"
    pin: \"{pin}\"
    rooms: [lab]
    token_file: lab.token

see who is there, on this machine:
  printf 'Authorization: Bearer %s' \"$(cat {dir}/pages.token)\" | curl -sk -H @- https://localhost:{PORT}/rooms/lab/peers
"
    )
}

fn config(address: &str) -> String {
    format!(
        "# A relay of Adit. docs/relay.md has every key. Gateways reach it as {address}.
# After a change: systemctl reload adit-relay. Who is connected stays, but for those who may not be in their rooms any more; what holds
# after a restart only, the log says.

# Where clients come, by TCP. [::] is all of IPv6 and IPv4. 443 passes where little else does.
listen: \"[::]:{PORT}\"

# Who this relay is. Clients pin the key: a new certificate for it changes nothing for them.
certificate: relay.crt
key: relay.key

# Peers of a room see and reach each other, and nobody else. A room lists the keys of its clients, takes whoever has its token, or both.
rooms:
  lab:
    token_file: lab.token
    # keys: [\"…\"]   # 43 letters each, as the gateway prints its own: adit relay check --state-dir DIR

# STUN, by which a gateway learns where it is seen and what NAT lies before it: UDP 3478 and 3479. `auto` is where this machine reaches the
# Internet from; with two public addresses, name both: who is logged in learns all of RFC 5780 then, and strangers, as `adit nat` is
# one, with `open` as well. Behind a NAT that passes a public address on to this machine (as in most clouds), name that with `shown`.
stun:
  listen: auto
  # listen: [203.0.113.1:3478, 203.0.113.2:3478, \"[2001:db8::1]:3478\"]
  # shown: 203.0.113.1
  # open: true   # for networks of one's own: answers may be longer than the questions of strangers
# TURN, which lends a client an address that every peer can send to, for who is behind a NAT that no punching opens: UDP and TCP 3478, TLS
# 5349, and a UDP port of these for each. Only clients that are logged in get credentials for it, each for an hour.
turn:
  ports: 49152-65535
  # allow: [10.0.0.0/8]   # private networks that peers may be in; nothing private is reached unless it is named here

# /stats, /metrics and /rooms/NAME/peers, for who sends the token as `Authorization: Bearer TOKEN`; /health is for everybody. They are at
# the port above; with `listen` also here, without TLS: let that be an address that only this machine reaches.
pages:
  token_file: pages.token
  # listen: 127.0.0.1:9466

# What is left out has the value that is shown.
# idle_s: 300                          # a client of whom nothing is heard for so long is gone
# limits:
#   connections: 16384
#   connections_of_address: 64         # and eight times as many of a /24 or /48
#   strangers: 1024                    # connections that have not logged in
#   login_s: 5                         # so long have they for it
#   handshakes_per_s: 200
#   handshakes_of_network_per_s: 20    # of a /24 or /48
#   peers_of_room: 1024
#   records_per_s: 2000                # of one client
#   bytes_per_s: 67108864              # of one client
#   room_bytes_per_s: 268435456
#   total_bytes_per_s: 2147483648
# drain:
#   to: []                             # where clients go when this relay is stopped: [\"relay2.example.org:443\"], with the same rooms
#   within_s: 10                       # so long have they to go there
"
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::config::Config;

    #[test]
    fn what_init_makes_is_a_whole_relay() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("new/relay");
        for name in ["relay.example.org", "192.0.2.1", "2001:db8::1"] {
            let dir = inner.join(name.replace(':', "-"));
            let made = init(&dir, name).unwrap();
            let config = Config::load(&dir.join(CONFIG)).unwrap();
            assert_eq!(config.credentials.pin, made.pin);
            assert_eq!(config.access.0.len(), 1);
            assert_eq!(config.credentials.names(), [name]);
            assert!(made.text.contains(&made.pin.to_string()), "{}", made.text);
            let token = std::fs::read_to_string(dir.join("lab.token")).unwrap();
            assert!(!made.text.contains(token.trim()), "a secret stays in its file");
            for secret in ["relay.key", "lab.token", "pages.token"] {
                assert_eq!(dir.join(secret).metadata().unwrap().mode() & 0o777, 0o600, "{secret}");
            }
        }
    }

    #[test]
    fn nothing_is_overwritten_and_no_half_stays() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("lab.token"), "mine").unwrap();
        let error = init(dir.path(), "relay.example.org").unwrap_err().to_string();
        assert!(error.contains("lab.token exists") && error.contains("mv ") && error.contains("--dir DIR"), "{error}");
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["lab.token"]);
        for name in ["", "a b", "relay.example.org:443", "é"] {
            assert!(matches!(init(dir.path(), name).unwrap_err(), InitError::Name(_)), "{name}");
        }
    }

    #[test]
    fn a_name_without_a_domain_is_told_from_others() {
        assert!(is_bare("vm") && is_bare("localhost"));
        assert!(!is_bare("relay.example.org") && !is_bare("192.0.2.1") && !is_bare("2001:db8::1"));
    }

    /// What the comments show as usual must be what is usual.
    #[test]
    fn the_values_in_the_comments_are_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), "relay.example.org").unwrap();
        let file = dir.path().join(CONFIG);
        let usual = Config::load(&file).unwrap();
        let (head, tail) =
            config("relay.example.org:443").split_once("# idle_s").map(|(a, b)| (a.to_owned(), format!("# idle_s{b}"))).unwrap();
        let shown: String =
            tail.lines().map(|line| format!("{}\n", line.trim_start_matches("# ").trim_start_matches('#'))).collect();
        std::fs::write(&file, head + &shown).unwrap();
        let written = Config::load(&file).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!((written.door, written.hall), (usual.door, usual.hall));
        assert_eq!((written.strangers, written.login_within), (usual.strangers, usual.login_within));
        assert_eq!((written.drain.within, written.drain.to), (usual.drain.within, usual.drain.to));
    }
}
