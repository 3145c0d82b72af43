//! How packets are to be treated on their way, whatever they are.

use adit_proto::class::{BadDscp, Dscp};
use adit_proto::control::Mode;

use super::{Check, Text};
use crate::config::MssClamp;

impl Check<'_> {
    pub(super) fn dscp(&mut self, text: Option<Text>) -> Dscp {
        let Some(text) = text else { return Dscp::default() };
        text.value.parse().unwrap_or_else(|bad: BadDscp| {
            let expected = bad.to_string().replace("expected ", "");
            self.fail(text.at, format!("`{}` is no value of `dscp`", text.value), expected, "dscp: copy".to_owned());
            Dscp::default()
        })
    }

    pub(super) fn mss_clamp(&mut self, text: Option<Text>, mode: Mode) -> MssClamp {
        if let (Some(text), Mode::Ethernet) = (&text, mode) {
            let what =
                "`mss_clamp` is about IP packets: in frames no SYN is touched, and TCP that does not fit is cut".to_owned();
            let write = "nothing: remove `mss_clamp`, or mode: ip".to_owned();
            self.fail(text.at, what, "mss_clamp only with `mode: ip`".to_owned(), write);
        }
        self.choice("mss_clamp", text, &MssClamp::ALL, MssClamp::name)
    }
}
