//! What differs between two configurations, for people and for the decision what can be done while packets flow. Every key takes part,
//! also one that is added tomorrow: what is compared is what `adit config show` prints.

use std::collections::BTreeMap;
use std::fmt;

use serde_yaml::{Mapping, Value};

use crate::config::Config;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The peer that it is about, if it is about one.
    pub peer: Option<String>,
    /// The key, with dots: `interface.mtu`; inside a peer without the peer. Empty for a peer that comes or goes.
    pub key: String,
    pub old: Option<String>,
    pub new: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.peer, self.key.is_empty(), &self.new) {
            (Some(peer), true, Some(_)) => return write!(f, "peer {peer} is new"),
            (Some(peer), true, None) => return write!(f, "peer {peer} is gone"),
            (Some(peer), false, _) => write!(f, "peer {peer}: {}", self.key)?,
            (None, ..) => f.write_str(&self.key)?,
        }
        match (&self.old, &self.new) {
            (Some(old), Some(new)) if old == new => f.write_str(": the file has another content"),
            (Some(old), Some(new)) => write!(f, " {old} → {new}"),
            (None, Some(new)) => write!(f, " + {new}"),
            (Some(old), None) => write!(f, " − {old}"),
            (None, None) => Ok(()),
        }
    }
}

/// All differences, in the order of the keys.
///
/// # Errors
/// A configuration with a path that is not UTF-8.
pub fn between(old: &Config, new: &Config) -> anyhow::Result<Vec<Difference>> {
    let (old_root, new_root) = (tree(old)?, tree(new)?);
    let mut list = Vec::new();
    walk(&mut list, None, "", &Value::Mapping(without_peers(&old_root)), &Value::Mapping(without_peers(&new_root)));
    let (old_peers, new_peers) = (peers(&old_root), peers(&new_root));
    for (name, before) in &old_peers {
        match new_peers.get(name) {
            Some(after) => walk(&mut list, Some(name), "", before, after),
            None => list.push(Difference { peer: Some(name.clone()), key: String::new(), old: Some(name.clone()), new: None }),
        }
    }
    for name in new_peers.keys().filter(|name| !old_peers.contains_key(*name)) {
        list.push(Difference { peer: Some(name.clone()), key: String::new(), old: None, new: Some(name.clone()) });
    }
    Ok(list)
}

fn tree(config: &Config) -> anyhow::Result<Mapping> {
    Ok(serde_yaml::from_str(&config.to_yaml()?)?)
}

fn without_peers(root: &Mapping) -> Mapping {
    root.iter().filter(|(key, _)| key.as_str() != Some("peers")).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn peers(root: &Mapping) -> BTreeMap<String, Value> {
    let list = root.get("peers").and_then(Value::as_sequence).into_iter().flatten();
    list.filter_map(|peer| Some((peer.get("name")?.as_str()?.to_owned(), peer.clone()))).collect()
}

/// Compares two values under one key.
fn walk(list: &mut Vec<Difference>, peer: Option<&String>, key: &str, old: &Value, new: &Value) {
    let mut differ = |old: Option<String>, new: Option<String>| {
        list.push(Difference { peer: peer.cloned(), key: key.to_owned(), old, new });
    };
    match (old, new) {
        _ if old == new => {}
        (Value::Mapping(before), Value::Mapping(after)) => {
            let mut keys: Vec<&Value> = before.keys().collect();
            keys.extend(after.keys().filter(|name| !before.contains_key(*name)));
            for name in keys {
                let below = if key.is_empty() { text(name) } else { format!("{key}.{}", text(name)) };
                let value = |of: &Mapping| of.get(name).cloned().unwrap_or(Value::Null);
                walk(list, peer, &below, &value(before), &value(after));
            }
        }
        (Value::Sequence(before), Value::Sequence(after)) => {
            let gone: Vec<&Value> = before.iter().filter(|one| !after.contains(one)).collect();
            let come: Vec<&Value> = after.iter().filter(|one| !before.contains(one)).collect();
            if gone.is_empty() && come.is_empty() {
                return differ(Some(text(old)), Some(text(new)));
            }
            gone.iter().for_each(|one| differ(Some(text(one)), None));
            come.iter().for_each(|one| differ(None, Some(text(one))));
        }
        (Value::Null, Value::Sequence(after)) => after.iter().for_each(|one| differ(None, Some(text(one)))),
        (Value::Sequence(before), Value::Null) => before.iter().for_each(|one| differ(Some(text(one)), None)),
        (Value::Null, _) => differ(None, Some(text(new))),
        (_, Value::Null) => differ(Some(text(old)), None),
        _ => differ(Some(text(old)), Some(text(new))),
    }
}

/// A value in one line.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(value) => value.clone(),
        Value::Sequence(list) => format!("[{}]", list.iter().map(text).collect::<Vec<_>>().join(", ")),
        Value::Mapping(map) => {
            let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{}: {}", text(key), text(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Value::Tagged(tagged) => text(&tagged.value),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Machine;

    fn config(text: &str) -> Config {
        Config::from_yaml(text, Path::new("/nowhere"), &Machine { cores: vec![0, 1] }).unwrap()
    }

    #[test]
    fn what_differs_is_told_by_its_key() {
        let old =
            "name: a\nlisten: 192.0.2.1:4500\ninterface: { name: adit0, addresses: [10.0.0.1/24, 10.0.1.1/24] }\npeers: []\n";
        let reported = |new: &str| {
            let list = between(&config(old), &config(new)).unwrap();
            list.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(reported(old), Vec::<String>::new());
        assert_eq!(reported(&(old.to_owned() + "# a comment\n")), Vec::<String>::new());
        assert_eq!(reported(&old.replace(":4500", ":4501")), ["listen 192.0.2.1:4500 → 192.0.2.1:4501"]);
        let other = old.replace("10.0.1.1", "10.0.2.1");
        assert_eq!(reported(&other), ["interface.addresses − 10.0.1.1/24", "interface.addresses + 10.0.2.1/24"]);
        let more = old.to_owned() + "metrics: { listen: 127.0.0.1:9464 }\n";
        assert_eq!(reported(&more), ["metrics + { listen: 127.0.0.1:9464 }"]);
    }
}
