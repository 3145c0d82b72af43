//! The rules of a full tunnel in the kernel ([`crate::routing_rules`]).

use std::net::Ipv4Addr;

use futures::TryStreamExt;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange};
use rtnetlink::packet_route::{AddressFamily, IpProtocol};
use rtnetlink::{Error, IpVersion};
use rustix::io::Errno;

use super::{Netlink, NetlinkError, failed, is};
use crate::routing_rules::{Kind, MARK, Rule, TABLE};

/// The table of the machine's own routes, and the interface that packets of the machine itself come from.
const MAIN: u32 = 254;
const LOOPBACK: &str = "lo";

impl Netlink {
    /// The rules of ours that there are.
    pub(super) async fn rules(&self) -> Result<Vec<Rule>, Error> {
        let mut found = Vec::new();
        for (version, v6) in [(IpVersion::V4, false), (IpVersion::V6, true)] {
            let all: Vec<RuleMessage> = match self.handle.rule().get(version).execute().try_collect().await {
                // The protocol is switched off, or the kernel knows no rules.
                Err(error) if is(&error, Errno::OPNOTSUPP) || is(&error, Errno::AFNOSUPPORT) => continue,
                all => all?,
            };
            found.extend(all.iter().filter_map(|message| read(message, v6)));
        }
        Ok(found)
    }

    /// Takes away what led into the tunnel: it is gone.
    pub async fn remove_rules(&self) {
        for rule in self.rules().await.unwrap_or_default() {
            if let Err(error) = self.remove_rule(&rule).await {
                tracing::warn!("{error}: it leads into an empty table and does no harm");
            }
        }
    }

    pub(super) async fn add_rule(&self, rule: &Rule) -> Result<(), NetlinkError> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = write(rule);
        match request.execute().await {
            Err(error) if is(&error, Errno::EXIST) => Ok(()),
            added => added.map_err(failed(format!("adding the routing rule {}", rule.priority()))),
        }
    }

    pub(super) async fn remove_rule(&self, rule: &Rule) -> Result<(), NetlinkError> {
        match self.handle.rule().del(write(rule)).execute().await {
            Err(error) if is(&error, Errno::NOENT) => Ok(()),
            removed => removed.map_err(failed(format!("removing the routing rule {}", rule.priority()))),
        }
    }
}

fn write(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.action = RuleAction::ToTable;
    let mut attributes = vec![RuleAttribute::Priority(rule.priority())];
    match rule.kind {
        Kind::Ports(port) => {
            message.header.dst_len = 32;
            attributes.extend([
                RuleAttribute::Table(MAIN),
                RuleAttribute::Destination(Ipv4Addr::BROADCAST.into()),
                RuleAttribute::IpProtocol(IpProtocol::Udp),
                RuleAttribute::SourcePortRange(RulePortRange { start: port, end: port }),
            ]);
        }
        Kind::Port(port) => attributes.extend([
            RuleAttribute::Table(MAIN),
            RuleAttribute::Iifname(LOOPBACK.to_owned()),
            RuleAttribute::IpProtocol(IpProtocol::Udp),
            RuleAttribute::SourcePortRange(RulePortRange { start: port, end: port }),
        ]),
        Kind::Specific => attributes.extend([RuleAttribute::Table(MAIN), RuleAttribute::SuppressPrefixLen(0)]),
        Kind::Rest => {
            message.header.flags = RuleFlags::Invert;
            attributes.extend([RuleAttribute::Table(TABLE), RuleAttribute::FwMark(MARK), RuleAttribute::FwMask(u32::MAX)]);
        }
    }
    message.attributes = attributes;
    message
}

/// A rule that has a priority of ours and says what ours says.
fn read(message: &RuleMessage, v6: bool) -> Option<Rule> {
    let attribute = |find: fn(&RuleAttribute) -> Option<u32>| message.attributes.iter().find_map(find);
    let priority = attribute(|one| if let RuleAttribute::Priority(number) = one { Some(*number) } else { None })?;
    if !Rule::is_ours(priority) {
        return None;
    }
    let port = attribute(|one| if let RuleAttribute::SourcePortRange(range) = one { Some(range.start.into()) } else { None });
    let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
    let kinds = [Kind::Ports(port), Kind::Port(port), Kind::Specific, Kind::Rest];
    let rule = kinds.into_iter().map(|kind| Rule { v6, kind }).find(|rule| rule.priority() == priority)?;
    let wanted = write(&rule);
    let same = wanted.attributes.iter().all(|attribute| message.attributes.contains(attribute));
    (same && wanted.header.flags.contains(RuleFlags::Invert) == message.header.flags.contains(RuleFlags::Invert)).then_some(rule)
}
