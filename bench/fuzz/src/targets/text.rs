//! What people write: the configuration and the settings of the library.

use std::path::Path;

use adit_controlplane::config::{Config, Machine};
use adit_ipsec::Peer;

/// A configuration that is good is shown as one that is the same; a bad one is refused in words, at places that there are.
pub fn config(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let (directory, machine) = (Path::new("/nowhere"), Machine { cores: vec![0, 1, 2, 3] });
    match Config::from_yaml(source, directory, &machine) {
        Ok(config) => {
            let Ok(shown) = config.to_yaml() else { return };
            let again = Config::from_yaml(&shown, directory, &machine).expect("what is shown can be read");
            assert_eq!(again.to_yaml().expect("shown"), shown);
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            let lines = source.lines().count();
            for problem in &problems {
                assert!(problem.at.line <= lines + 1, "line {} of {lines}: {}", problem.at.line, problem.what);
                assert!(!problem.what.is_empty() && !problem.expected.is_empty());
            }
            let said = adit_controlplane::config::Problems::new("adit.yaml".into(), source, problems).to_string();
            assert!(!said.is_empty());
        }
    }
}

/// The first byte says what the text is for.
pub fn settings(data: &[u8]) {
    let [which, text @ ..] = data else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let good = || Peer::builder().local_id("a").remote_id("b").psk("a key for all tests");
    let built = match which % 8 {
        0 => good().local_id(text),
        1 => good().remote_id(text),
        2 => good().psk(text),
        3 => good().proposals(text.split(',')),
        4 => good().esp_proposals(text.split(',')),
        5 => good().local_traffic(text.split(',')),
        6 => good().remote_traffic(text.split(',')),
        _ => good().key(text).remote_key(text),
    }
    .build();
    match built {
        Ok(peer) => assert!(!peer.remote_id().is_empty()),
        Err(error) => assert!(error.code() == "settings" && !error.to_string().is_empty()),
    }
}
