//! How packets are to be treated on their way, whatever they are.

use adit_proto::class::{BadDscp, Dscp};

use super::{Check, Text};

impl Check<'_> {
    pub(super) fn dscp(&mut self, text: Option<Text>) -> Dscp {
        let Some(text) = text else { return Dscp::default() };
        text.value.parse().unwrap_or_else(|bad: BadDscp| {
            let expected = bad.to_string().replace("expected ", "");
            self.fail(text.at, format!("`{}` is no value of `dscp`", text.value), expected, "dscp: copy".to_owned());
            Dscp::default()
        })
    }
}
