//! Whom a configured peer may be: one identity, or several.

use std::fmt;
use std::str::FromStr;

use super::{Identity, IdentityError};

/// What a peer's identity must be.
///
/// `*.example.org` stands for every name below example.org, `*@example.org` for every user there, `CN=*` in a distinguished
/// name for any value, and `*` alone for anybody. Anything else is one identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Anybody who can authenticate.
    Any,
    One(Identity),
    /// All domain names that end so; begins with a dot.
    Below(String),
    /// All e-mail addresses at this domain.
    At(String),
}

impl Pattern {
    /// Whether this identity is one of those that are meant.
    pub fn matches(&self, identity: &Identity) -> bool {
        match (self, identity) {
            (Pattern::Any, _) => true,
            (Pattern::One(Identity::Dn(pattern)), Identity::Dn(dn)) => pattern.covers(dn),
            (Pattern::One(one), identity) => one == identity,
            (Pattern::Below(suffix), Identity::Fqdn(name)) => ends_with(name, suffix),
            (Pattern::At(domain), Identity::Email(address)) => match address.rsplit_once('@') {
                Some((user, its_domain)) => !user.is_empty() && its_domain.eq_ignore_ascii_case(domain),
                None => false,
            },
            (Pattern::Below(_) | Pattern::At(_), _) => false,
        }
    }

    /// The one identity that is meant, if it is one.
    pub fn exact(&self) -> Option<&Identity> {
        match self {
            Pattern::One(Identity::Dn(dn)) if dn.has_wildcard() => None,
            Pattern::One(identity) => Some(identity),
            Pattern::Any | Pattern::Below(_) | Pattern::At(_) => None,
        }
    }

    /// What kind of identity is meant, for messages: of two that look alike it is what differs.
    pub fn kind(&self) -> &'static str {
        match self {
            Pattern::Any => "anybody",
            Pattern::One(identity) => identity.kind(),
            Pattern::Below(_) => "domain name",
            Pattern::At(_) => "e-mail address",
        }
    }
}

/// Whether there is more of the name in front of the suffix.
fn ends_with(name: &str, suffix: &str) -> bool {
    let split = name.len().checked_sub(suffix.len()).filter(|at| *at > 0);
    split.and_then(|at| name.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}

impl From<Identity> for Pattern {
    fn from(identity: Identity) -> Pattern {
        Pattern::One(identity)
    }
}

impl FromStr for Pattern {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Pattern, IdentityError> {
        let text = text.trim();
        // strongSwan's word for it is accepted.
        if text == "*" || text == "%any" {
            return Ok(Pattern::Any);
        }
        if let Some(domain) = text.strip_prefix("*@") {
            return Ok(Pattern::At(domain_name(domain)?));
        }
        if let Some(domain) = text.strip_prefix("*.") {
            return Ok(Pattern::Below(format!(".{}", domain_name(domain)?)));
        }
        text.parse().map(Pattern::One)
    }
}

fn domain_name(text: &str) -> Result<String, IdentityError> {
    match text.parse()? {
        Identity::Fqdn(name) => Ok(name),
        other => Err(IdentityError::FqdnCharacter { name: other.to_string(), character: '*' }),
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Any => f.write_str("*"),
            Pattern::One(identity) => identity.fmt(f),
            Pattern::Below(suffix) => write!(f, "*{suffix}"),
            Pattern::At(domain) => write!(f, "*@{domain}"),
        }
    }
}
