//! Hosts as grants and URLs name them, and what an address is, however it is written.
//!
//! Called by `grant`, and by `plugin` before it connects.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whom a plugin may talk to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostName {
    Name(String),
    /// Every name below this one.
    Below(String),
    Address(IpAddr),
}

impl HostName {
    /// The host of a URL or of a grant. Names come in lower case, without a dot at the end; an IPv6 address in brackets.
    pub fn parse(s: &str) -> Result<Self, &'static str> {
        if let Some(inner) = s.strip_prefix('[').and_then(|s| s.strip_suffix(']')) {
            return inner.parse::<Ipv6Addr>().map(|a| Self::Address(IpAddr::V6(a))).map_err(|_| "has no IPv6 address in its brackets");
        }
        if let Ok(a) = s.parse::<Ipv4Addr>() {
            return Ok(Self::Address(IpAddr::V4(a)));
        }
        let (name, below) = s.strip_prefix("*.").map_or((s, false), |n| (n, true));
        let label = |l: &str| {
            let inner = l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
            (1..=63).contains(&l.len()) && inner && !l.starts_with('-') && !l.ends_with('-')
        };
        if name.is_empty() || name.len() > 253 || !name.split('.').all(label) {
            return Err("has a host that is not a plain name in lower case (other alphabets as punycode)");
        }
        let last = name.rsplit('.').next().unwrap_or_default();
        // why: resolvers read `2130706433`, `127.1` and `0x7f.1` as addresses.
        if last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") {
            return Err("has a host that resolvers could read as an address");
        }
        if name == "localhost" || name.ends_with(".localhost") {
            return Err("names localhost: give the address, such as 127.0.0.1, with its port");
        }
        if below && !name.contains('.') {
            return Err("has a wildcard over a whole top-level domain");
        }
        Ok(if below { Self::Below(name.to_owned()) } else { Self::Name(name.to_owned()) })
    }

    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Below(top), Self::Name(n) | Self::Below(n)) => {
                (matches!(other, Self::Below(_)) && n == top) || n.strip_suffix(top.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            (a, b) => a == b,
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(n) => f.write_str(n),
            Self::Below(n) => write!(f, "*.{n}"),
            Self::Address(IpAddr::V4(a)) => write!(f, "{a}"),
            Self::Address(IpAddr::V6(a)) => write!(f, "[{a}]"),
        }
    }
}

/// What an address is, in any of the forms in which IPv6 carries an IPv4 one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Anywhere on the internet.
    Public,
    Loopback,
    /// Of a private network: only where an operator wrote this very address.
    Private,
    /// Link-local, multicast, unspecified, reserved, or a cloud's metadata: never.
    Never,
}

impl Reach {
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => Self::of_v4(a),
            IpAddr::V6(a) => match carried(a) {
                Some(Carried::Mapped(inner)) => Self::of_v4(inner),
                // why not as private: a gateway that turns them into IPv4 is no service anybody means by such an address.
                Some(Carried::Translated(inner)) if Self::of_v4(inner) != Self::Public => Self::Never,
                _ => Self::of_v6(a),
            },
        }
    }

    fn of_v4(a: Ipv4Addr) -> Self {
        let [o0, o1, o2, _] = a.octets();
        // Metadata services outside the link-local block: Alibaba, Oracle, Azure.
        let metadata = [[100, 100, 100, 200], [192, 0, 0, 192], [168, 63, 129, 16]].contains(&a.octets());
        if metadata || a.is_link_local() || o0 == 0 || o0 >= 224 || (o0, o1, o2) == (192, 0, 0) {
            return Self::Never;
        }
        if a.is_loopback() {
            return Self::Loopback;
        }
        let shared = o0 == 100 && (o1 & 0xc0) == 64;
        let benchmark = o0 == 198 && (o1 & 0xfe) == 18;
        if a.is_private() || shared || benchmark || a.is_documentation() || (o0, o1, o2) == (192, 88, 99) {
            return Self::Private;
        }
        Self::Public
    }

    fn of_v6(a: Ipv6Addr) -> Self {
        if a.is_loopback() {
            return Self::Loopback;
        }
        let s = a.segments();
        // Amazon's metadata lies in the unique-local block.
        let metadata = s == [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254];
        if metadata || a.is_unspecified() || a.is_multicast() || (s[0] & 0xffc0) == 0xfe80 {
            return Self::Never;
        }
        // Unique-local, site-local, documentation, discard, and all that is not global unicast.
        let global = (s[0] & 0xe000) == 0x2000 || (s[0], s[1]) == (0x64, 0xff9b);
        if !global || (s[0], s[1]) == (0x2001, 0x0db8) || (s[0] == 0x3fff && s[1] < 0x1000) {
            return Self::Private;
        }
        Self::Public
    }
}

/// An IPv4 address inside an IPv6 one.
enum Carried {
    /// The kernel itself takes it for the IPv4 address.
    Mapped(Ipv4Addr),
    /// A gateway does: 6to4, Teredo, NAT64, ISATAP, the old compatible form.
    Translated(Ipv4Addr),
}

fn carried(a: Ipv6Addr) -> Option<Carried> {
    let s = a.segments();
    let v4 = |hi: u16, lo: u16| Ipv4Addr::from((u32::from(hi) << 16) | u32::from(lo));
    match s {
        [0, 0, 0, 0, 0, 0xffff, hi, lo] => Some(Carried::Mapped(v4(hi, lo))),
        [0, 0, 0, 0, 0xffff, 0, hi, lo] => Some(Carried::Translated(v4(hi, lo))),
        [0, 0, 0, 0, 0, 0, hi, lo] if (hi, lo) != (0, 0) && (hi, lo) != (0, 1) => Some(Carried::Translated(v4(hi, lo))),
        [0x64, 0xff9b, 0, 0, 0, 0, hi, lo] => Some(Carried::Translated(v4(hi, lo))),
        // The local-use prefix of NAT64 may hold the address at several places; none of them is public.
        [0x64, 0xff9b, 1, ..] => Some(Carried::Translated(Ipv4Addr::UNSPECIFIED)),
        [0x2002, hi, lo, ..] => Some(Carried::Translated(v4(hi, lo))),
        [0x2001, 0, _, _, _, _, hi, lo] => Some(Carried::Translated(v4(!hi, !lo))),
        [_, _, _, _, 0 | 0x200, 0x5efe, hi, lo] => Some(Carried::Translated(v4(hi, lo))),
        _ => None,
    }
}
