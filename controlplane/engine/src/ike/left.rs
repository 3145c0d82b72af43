//! Those who were connected under a pattern and may come back: their names, of each network no more than its share.

use std::collections::{BTreeMap, VecDeque};

use super::admission::network;
use crate::path::Site;
use crate::shown::Shown;

/// Their names, and to which network each belongs.
#[derive(Debug, Default)]
pub(super) struct Left {
    names: BTreeMap<String, Site>,
    networks: BTreeMap<Site, VecDeque<String>>,
}

impl Left {
    /// Remembers one, and so many in all.
    pub(super) fn remember(&mut self, name: &Shown, site: Site, most: usize) {
        self.forget(name);
        let (key, network) = (key(name), network(site));
        self.names.insert(key.clone(), network);
        self.networks.entry(network).or_default().push_back(key);
        while self.names.len() > most {
            let crowd = self.networks.values_mut().max_by_key(|names| names.len());
            let Some(oldest) = crowd.and_then(VecDeque::pop_front) else { return };
            self.names.remove(&oldest);
        }
        self.networks.retain(|_, names| !names.is_empty());
    }

    pub(super) fn forget(&mut self, name: &Shown) {
        let key = key(name);
        let Some(network) = self.names.remove(&key) else { return };
        if let Some(names) = self.networks.get_mut(&network) {
            names.retain(|one| *one != key);
        }
    }

    pub(super) fn has(&self, name: &Shown) -> bool {
        self.names.contains_key(&key(name))
    }
}

fn key(name: &Shown) -> String {
    name.as_str().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Site {
        Site::Address(text.parse().unwrap())
    }

    #[test]
    fn the_names_of_one_network_push_out_no_other() {
        let name = |number: usize| Shown::of(format_args!("c{number}.example.org"));
        let (mut left, honest) = (Left::default(), Shown::of("Ann.example.org"));
        left.remember(&honest, ip("203.0.113.1"), 10);
        for number in 0..1000 {
            left.remember(&name(number), ip(&format!("192.0.2.{}", number % 250)), 10);
        }
        assert!(left.has(&Shown::of("ann.EXAMPLE.org")) && left.has(&name(999)) && !left.has(&name(990)));
        assert_eq!((left.names.len(), left.networks.values().map(VecDeque::len).sum::<usize>()), (10, 10));
        left.remember(&honest, ip("192.0.2.1"), 10);
        left.forget(&name(999));
        assert_eq!((left.names.len(), left.networks.len(), left.has(&name(999))), (9, 1, false));
    }
}
