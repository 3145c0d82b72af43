//! From where a peer may come: `any`, `endpoint`, or a list of networks.

use adit_engine::path::Origin;

use super::Check;
use crate::config::raw::Several;
use crate::limits::ORIGIN_NETWORKS_MAX;

impl Check<'_> {
    /// What `from` says; anywhere, when it says nothing or something wrong.
    pub(super) fn origin(&mut self, from: Option<Several>, has_endpoint: bool) -> Origin {
        let Some(from) = from else { return Origin::Anywhere };
        let word = if let ([only], false) = (from.values.as_slice(), from.is_list) { Some(only.value.as_str()) } else { None };
        match word {
            Some("any") => return Origin::Anywhere,
            Some("endpoint") if has_endpoint => return Origin::Endpoints,
            Some("endpoint") => {
                let what = "the peer may come only from its endpoint, and has none".to_owned();
                let write = "endpoint: \"192.0.2.2:4500\", beside it, or from: any".to_owned();
                self.fail(from.at, what, "an `endpoint` beside `from: endpoint`".to_owned(), write);
                return Origin::Anywhere;
            }
            Some(word) if !word.contains(['.', ':', '/']) => {
                let guess = crate::config::problem::nearest(word, &["any", "endpoint"]).unwrap_or("any");
                let what = format!("`{word}` is no value of `from`");
                self.fail(from.at, what, "any, endpoint, or a list of networks".to_owned(), format!("from: {guess}"));
                return Origin::Anywhere;
            }
            Some(_) | None => {}
        }
        if from.values.is_empty() || from.values.len() > ORIGIN_NETWORKS_MAX {
            let what = format!("`from` lists {} networks", from.values.len());
            let expected = format!("1 to {ORIGIN_NETWORKS_MAX} networks; `any` for everywhere, `endpoint` for no other place");
            self.fail(from.at, what, expected, "from: any".to_owned());
            return Origin::Anywhere;
        }
        Origin::Networks(from.values.iter().filter_map(|text| self.network("from", text, "[203.0.113.0/24]")).collect())
    }
}
