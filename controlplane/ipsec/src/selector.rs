//! Traffic selectors as people write them: `10.1.0.0/16`, `fd00::1`, `10.0.0.1-10.0.0.9[udp/53]`, `::/0[6/80-90]`.

use std::net::IpAddr;

use adit_proto::ike::{AddressRange, IpSelector, PortRange};
use ipnet::IpNet;

const PROTOCOLS: [(&str, u8); 6] = [("icmp", 1), ("tcp", 6), ("udp", 17), ("icmpv6", 58), ("ipv6-icmp", 58), ("sctp", 132)];

/// Reads one selector.
///
/// # Errors
/// It is none; the text says what stands where it should not.
pub fn parse(text: &str) -> Result<IpSelector, String> {
    let (addresses, rest) = match text.trim().strip_suffix(']').and_then(|text| text.split_once('[')) {
        Some((addresses, rest)) => (addresses, Some(rest)),
        None => (text.trim(), None),
    };
    let addresses = range(addresses).ok_or_else(|| {
        format!("`{text}` is no network, address or range of addresses: write 10.1.0.0/16, fd00::1 or 10.0.0.1-10.0.0.9")
    })?;
    let Some(rest) = rest else { return Ok(IpSelector::any_of(addresses)) };
    let (protocol, ports) = rest.split_once('/').map_or((rest, None), |(protocol, ports)| (protocol, Some(ports)));
    let named = PROTOCOLS.iter().find(|(name, _)| protocol.eq_ignore_ascii_case(name)).map(|(_, number)| *number);
    let protocol = named.or_else(|| protocol.parse().ok()).ok_or_else(|| format!("`{protocol}` in `{text}` is no protocol"))?;
    let ports = match ports {
        None => PortRange::ANY,
        Some(ports) => port_range(ports).ok_or_else(|| format!("`{ports}` in `{text}` is no port or range of ports"))?,
    };
    if protocol == 0 && ports != PortRange::ANY {
        return Err(format!("`{text}` has ports, but no protocol that they are of"));
    }
    Ok(IpSelector { protocol, ports, addresses })
}

fn range(text: &str) -> Option<AddressRange> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(AddressRange::host(address));
    }
    let (first, last) = match text.parse::<IpNet>() {
        Ok(net) => (net.network(), net.broadcast()),
        Err(_) => {
            let (first, last) = text.split_once('-')?;
            (first.trim().parse().ok()?, last.trim().parse().ok()?)
        }
    };
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => Some(AddressRange::V4 { first, last }),
        (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => Some(AddressRange::V6 { first, last }),
        _ => None,
    }
}

fn port_range(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(PortRange { first, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_read_as_they_are_shown() {
        for text in ["10.1.0.0/16", "fd00::/64", "10.0.0.1-10.0.0.9", "10.1.0.0/16[17/53]", "::/0[6/80-90]", "0.0.0.0/0[1]"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse("10.0.0.7[UDP/53]").unwrap().to_string(), "10.0.0.7/32[17/53]");
        assert_eq!(parse(" 10.1.2.3/16 ").unwrap().to_string(), "10.1.0.0/16");
    }

    #[test]
    fn what_is_none_is_refused_in_words() {
        for text in ["", "10.0.0.0/33", "10.0.0.9-10.0.0.1", "10.0.0.1-::1", "example.org", "10.0.0.1[", "10.0.0.1[ppp]"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("10.0.0.1[tcp/90-80]").unwrap_err().contains("`90-80`"));
        assert!(parse("10.0.0.1[0/80]").unwrap_err().contains("no protocol that they are of"));
    }
}
