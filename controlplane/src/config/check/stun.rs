//! The servers that `adit nat` asks.

use super::Check;
use crate::config::Endpoint;
use crate::config::endpoint::{EndpointFault, stun_server};
use crate::config::raw::Text;
use crate::limits::STUN_SERVERS_MAX;

const EXPECTED: &str = "an IP address or the name of a host, and a UDP port if it is not 3478";
const EXAMPLE: &str = "stun: [stun.example.org, \"192.0.2.9:3479\"]";

impl Check<'_> {
    /// All that the key `stun` lists, each once.
    pub(super) fn stun(&mut self, texts: Vec<Text>) -> Vec<Endpoint> {
        if let Some(more) = texts.get(STUN_SERVERS_MAX) {
            let what = format!("`stun` lists {} servers", texts.len());
            self.fail(more.at, what, format!("at most {STUN_SERVERS_MAX} servers: two are enough"), EXAMPLE.to_owned());
        }
        let mut list: Vec<Endpoint> = Vec::new();
        for text in texts.iter().take(STUN_SERVERS_MAX) {
            match stun_server(&text.value) {
                Ok(server) if list.contains(&server) => {
                    let what = format!("the server {server} is given twice");
                    self.fail(text.at, what, "every server once".to_owned(), "nothing: remove one of the two".to_owned());
                }
                Ok(server) => list.push(server),
                Err(fault) => {
                    let what = format!("`{}` cannot be a STUN server: {fault}", text.value);
                    let write =
                        if fault == EndpointFault::PortZero { "a port from 1 to 65535, or none for 3478" } else { EXAMPLE };
                    self.fail(text.at, what, EXPECTED.to_owned(), write.to_owned());
                }
            }
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Machine, Problem};

    fn load(stun: &str) -> Result<Config, Vec<Problem>> {
        let dir = tempfile::tempdir().unwrap();
        let psk = dir.path().join("psk");
        std::fs::write(&psk, "a preshared key that is long enough").unwrap();
        std::fs::set_permissions(&psk, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let yaml = format!(
            "name: a\nlisten: 0.0.0.0:4500\ninterface: {{ name: adit0 }}\nstun: {stun}\npeers:\n  - {{ name: b, endpoint: 192.0.2.2:4500, ike: {{ psk_file: psk }} }}\n"
        );
        Config::from_yaml(&yaml, dir.path(), &Machine { cores: vec![0] })
    }

    #[test]
    fn servers_have_the_port_of_stun_unless_they_say_another() {
        let config = load("[stun.example.org, 192.0.2.9, \"192.0.2.9:3479\", \"2001:db8::9\", \"[2001:db8::9]:19302\"]").unwrap();
        let list: Vec<String> = config.stun.iter().map(ToString::to_string).collect();
        let all = ["stun.example.org:3478", "192.0.2.9:3478", "192.0.2.9:3479", "[2001:db8::9]:3478", "[2001:db8::9]:19302"];
        assert_eq!(list, all);
        assert!(config.to_yaml().unwrap().contains("stun:\n- stun.example.org:3478\n- 192.0.2.9:3478\n"));
        assert!(load("[]").unwrap().stun.is_empty());
    }

    #[test]
    fn what_is_no_server_is_told_with_what_to_write() {
        for (stun, what, write) in [
            ("[\"stun.example.org:0\"]", "it has the port 0", "a port from 1 to 65535, or none for 3478"),
            ("[\"stun:stun.example.org\"]", "it is neither an address nor the name of a host", "stun: [stun.example.org"),
            ("[\"[fe80::1%eth0]:3478\"]", "a server on this link is before every NAT", "stun: [stun.example.org"),
            ("[127.0.0.1, \"127.0.0.1:3478\"]", "the server 127.0.0.1:3478 is given twice", "remove one of the two"),
            ("[a, b, c, d, e, f, g, h, i]", "`stun` lists 9 servers", "stun: [stun.example.org"),
            ("[0.0.0.0]", "nobody can be reached there", "stun: [stun.example.org"),
            ("stun.example.org", "`stun` is not a list of servers", "stun: [stun.example.org]"),
        ] {
            let problems = load(stun).unwrap_err();
            let [problem] = problems.as_slice() else { panic!("{stun}: {problems:?}") };
            assert!(problem.what.contains(what) && problem.write.contains(write), "{stun}: {problem:?}");
        }
    }
}
