//! Addresses: scheme, host and port, where every reader would agree on them.
//!
//! Invariants:
//! - a name is lower-case ASCII without its last dot; what readers could read in two ways is [`Host::Unclear`], never a name;
//! - an IP address in any spelling (`0x7f.1`, `2130706433`, `[::ffff:127.0.0.1]`) is that address, and says whether it was spelled plainly.
//!
//! Called by `policy-egress` and `policy-cedar`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where a call would connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// In lower case; empty where the program has none (`ssh`, `nc`).
    pub scheme: String,
    pub host: Host,
    pub port: Option<u16>,
    /// As it was written, for reasons.
    pub written: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Name(String),
    Ip {
        ip: IpAddr,
        plain: bool,
    },
    /// Why it cannot be told.
    Unclear(&'static str),
}

/// The ports that schemes and programs mean when none is given.
pub fn default_port(scheme: &str) -> Option<u16> {
    Some(match scheme {
        "http" | "ws" => 80,
        "https" | "wss" | "" => 443,
        "ssh" | "git+ssh" | "ssh+git" | "sftp" | "scp" => 22,
        "ftp" => 21,
        "ftps" => 990,
        "git" => 9418,
        "rsync" => 873,
        "telnet" => 23,
        _ => return None,
    })
}

impl Destination {
    /// An address with a scheme; one without gets `scheme`.
    pub fn of_url(text: &str, scheme: &str) -> Self {
        // What stands behind a slash or a mark is no longer the scheme: `evil.example/?x=https://good.example`.
        let (scheme, rest) = match text.split_once("://").filter(|(s, _)| !s.contains(['/', '?', '#'])) {
            Some((s, rest)) if !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) => {
                (s.to_ascii_lowercase(), rest)
            }
            Some(_) => return Self::unclear(text, "it has no scheme that can be read"),
            None => (scheme.to_owned(), text),
        };
        // pip and npm put the version control before the scheme.
        let scheme = scheme.strip_prefix("git+").map_or(scheme.clone(), str::to_owned);
        let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
        // why: readers take a backslash for a slash or for a letter, decode `%`, or cut at blanks and control characters.
        if let Some(bad) = authority.chars().find(|c| !(c.is_ascii_alphanumeric() || "-._~:@[]!&'()+,;=".contains(*c))) {
            let why = if bad.is_ascii() { "it has characters that readers take in different ways" } else { NOT_ASCII };
            return Self::unclear(text, why);
        }
        let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
        Self::of_authority(&scheme, host, text)
    }

    /// `host`, `host:port` or `[ip]:port`.
    pub fn of_authority(scheme: &str, authority: &str, written: &str) -> Self {
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((inside, rest)) => match (v6(inside), rest.strip_prefix(':')) {
                (Some(host), Some(port)) => (host, Some(port)),
                (Some(host), None) if rest.is_empty() => (host, None),
                _ => return Self::unclear(written, "what stands in the brackets is no IP address"),
            },
            None => {
                let (host, port) = authority.split_once(':').map_or((authority, None), |(h, p)| (h, Some(p)));
                (read(host), port)
            }
        };
        let port = match port {
            None | Some("") => None,
            Some(p) => match p.parse() {
                Ok(n) if p.bytes().all(|b| b.is_ascii_digit()) => Some(n),
                _ => return Self::unclear(written, "its port is not a number"),
            },
        };
        Self { scheme: scheme.to_owned(), host, port, written: written.to_owned() }
    }

    /// A host alone, as `ssh` and `nc` take it.
    pub fn of_host(scheme: &str, host: &str, port: Option<u16>) -> Self {
        let host_only = host.trim_start_matches('[').trim_end_matches(']');
        let read = if host_only.contains(':') { v6(host_only).unwrap_or(Host::Unclear("it is no host")) } else { read(host) };
        Self { scheme: scheme.to_owned(), host: read, port, written: host.to_owned() }
    }

    fn unclear(written: &str, why: &'static str) -> Self {
        Self { scheme: String::new(), host: Host::Unclear(why), port: None, written: written.to_owned() }
    }

    pub fn port_or_default(&self) -> Option<u16> {
        self.port.or_else(|| default_port(&self.scheme))
    }
}

const NOT_ASCII: &str = "it has letters outside of ASCII, which can look like others; give it in Punycode (xn--…)";

/// A host without brackets.
pub fn read(host: &str) -> Host {
    if !host.is_ascii() {
        return Host::Unclear(NOT_ASCII);
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if name.is_empty() || name.len() > 253 {
        return Host::Unclear("it has no host");
    }
    if name.split('.').any(|l| l.is_empty() || l.len() > 63) || name.contains(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))) {
        return Host::Unclear("it is no name of a host");
    }
    // why by the last part: that is how readers of addresses tell numbers from names.
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) || (last.starts_with("0x") && last[2..].bytes().all(|b| b.is_ascii_hexdigit())) {
        return match v4(&name) {
            Some(ip) => Host::Ip { plain: ip.to_string() == host, ip: IpAddr::V4(ip) },
            None => Host::Unclear("it ends in a number and is no IP address"),
        };
    }
    Host::Name(name)
}

/// One to four parts, each decimal, octal (`0…`) or hexadecimal (`0x…`); the last fills what is left.
fn v4(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() > 4 {
        return None;
    }
    let number = |s: &str| match s.strip_prefix("0x") {
        Some("") => Some(0),
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None if s.len() > 1 && s.starts_with('0') => u64::from_str_radix(s, 8).ok(),
        None => s.parse::<u64>().ok(),
    };
    let mut ip: u64 = 0;
    for (i, part) in parts.iter().enumerate() {
        let n = number(part)?;
        let last = i + 1 == parts.len();
        let bits = if last { 8 * (5 - parts.len()) } else { 8 };
        if n >= 1 << bits {
            return None;
        }
        ip = if last { (ip << bits) | n } else { (ip << 8) | n };
    }
    u32::try_from(ip).ok().map(Ipv4Addr::from)
}

fn v6(text: &str) -> Option<Host> {
    let ip: Ipv6Addr = text.parse().ok()?;
    let segments = ip.segments();
    // An address of the old kind in one of the new: written over, or reached through a translator.
    let inner = match segments {
        [0, 0, 0, 0, 0, 0xffff, a, b] | [0x64, 0xff9b, 0, 0, 0, 0, a, b] => Some((a, b)),
        [0, 0, 0, 0, 0, 0, a, b] if a != 0 => Some((a, b)),
        [0x2002, a, b, ..] => Some((a, b)),
        _ => None,
    };
    Some(match inner {
        Some((a, b)) => Host::Ip { ip: IpAddr::V4(Ipv4Addr::from((u32::from(a) << 16) | u32::from(b))), plain: false },
        None => Host::Ip { plain: ip.to_string() == text, ip: IpAddr::V6(ip) },
    })
}

/// Whether a host is this machine, its own network, or a name that only local resolvers know.
pub fn is_private(host: &Host) -> bool {
    match host {
        Host::Name(name) => {
            !name.contains('.')
                || ["localhost", "local", "internal", "lan", "home", "corp", "intranet", "arpa"]
                    .iter()
                    .any(|t| name.strip_suffix(t).is_some_and(|rest| rest.ends_with('.')))
        }
        Host::Ip { ip: IpAddr::V4(ip), .. } => {
            let [a, b, ..] = ip.octets();
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 198 && (b == 18 || b == 19))
        }
        Host::Ip { ip: IpAddr::V6(ip), .. } => {
            let first = ip.segments()[0];
            ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80
        }
        Host::Unclear(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(url: &str) -> String {
        match Destination::of_url(url, "http").host {
            Host::Name(n) => n,
            Host::Ip { ip, plain } => format!("{ip}{}", if plain { "" } else { " (spelled otherwise)" }),
            Host::Unclear(_) => "?".to_owned(),
        }
    }

    #[test]
    fn hosts_are_read_as_programs_read_them() {
        for (url, want) in [
            ("https://Example.ORG/x", "example.org"),
            ("https://example.org./x", "example.org"),
            ("https://example.org../x", "?"),
            ("https://good.com@evil.com/x", "evil.com"),
            ("https://good.com:80@evil.com:81/x", "evil.com"),
            ("https://evil.com#@good.com", "evil.com"),
            ("https://evil.com?@good.com", "evil.com"),
            ("https://evil.com/@good.com", "evil.com"),
            ("https://evil.com\\@good.com", "?"),
            ("https://good.com%2f@evil.com", "?"),
            ("https://ex%61mple.org", "?"),
            ("https://\u{435}xample.org", "?"),
            ("https://example\u{3002}org", "?"),
            ("https://xn--xample-2of.org", "xn--xample-2of.org"),
            ("https://exa mple.org", "?"),
            ("https://{a,b}.org", "?"),
            ("https://127.0.0.1", "127.0.0.1"),
            ("https://2130706433", "127.0.0.1 (spelled otherwise)"),
            ("https://0x7f000001", "127.0.0.1 (spelled otherwise)"),
            ("https://0177.0.0.1", "127.0.0.1 (spelled otherwise)"),
            ("https://127.1", "127.0.0.1 (spelled otherwise)"),
            ("https://0x7f.0.1", "127.0.0.1 (spelled otherwise)"),
            ("https://127.0.0.1.", "127.0.0.1 (spelled otherwise)"),
            ("https://256.1.1.1", "?"),
            ("https://1.2.3.4.5", "?"),
            ("https://a.0x7f", "?"),
            ("https://[::1]:80", "::1"),
            ("https://[0:0::1]", "::1 (spelled otherwise)"),
            ("https://[::ffff:127.0.0.1]", "127.0.0.1 (spelled otherwise)"),
            ("https://[64:ff9b::7f00:1]", "127.0.0.1 (spelled otherwise)"),
            ("https://[fe80::1%25eth0]", "?"),
            ("https://[x]", "?"),
            ("https:///x", "?"),
            ("https://:80", "?"),
            ("https://a.org:99999", "?"),
            ("https://a.org:8 0", "?"),
            ("https://a.org:+80", "?"),
            ("git+https://a.org/x", "a.org"),
            ("a.org/x", "a.org"),
        ] {
            assert_eq!(host(url), want, "{url}");
        }
        assert_eq!(Destination::of_url("https://a.org:8443/", "").port, Some(8443));
        assert_eq!(Destination::of_url("ssh://a.org/", "").port_or_default(), Some(22));
    }

    #[test]
    fn private_places() {
        for (url, want) in [
            ("http://localhost", true),
            ("http://a.localhost", true),
            ("http://printer", true),
            ("http://x.internal", true),
            ("http://169.254.169.254", true),
            ("http://10.1.2.3", true),
            ("http://0", true),
            ("http://0x0a000001", true),
            ("http://[fd00::1]", true),
            ("http://[::]", true),
            ("http://100.64.0.1", true),
            ("http://1.1.1.1", false),
            ("http://example.org", false),
            ("http://notlocal.example", false),
            ("http://[2606:4700::1]", false),
        ] {
            assert_eq!(is_private(&Destination::of_url(url, "").host), want, "{url}");
        }
    }

    proptest! {
        #[test]
        fn every_spelling_of_an_address_is_that_address(n: u32) {
            let ip = IpAddr::V4(Ipv4Addr::from(n));
            let [a, b, c, d] = n.to_be_bytes();
            for text in [
                format!("{n}"), format!("0x{n:x}"), format!("0{n:o}"), format!("{a}.{b}.{c}.{d}"), format!("{a}.{}", n & 0xff_ffff),
                format!("0x{a:x}.0{b:o}.{}", n & 0xffff), format!("[::ffff:{a}.{b}.{c}.{d}]"), format!("user@{a}.{b}.{c}.{d}:80"),
            ] {
                let d = Destination::of_url(&format!("http://{text}/x"), "");
                prop_assert!(matches!(d.host, Host::Ip { ip: i, .. } if i == ip), "{} {:?}", text, d);
            }
        }

        #[test]
        fn nothing_panics_and_names_are_plain(text in "\\PC{0,40}") {
            if let Host::Name(n) = Destination::of_url(&text, "https").host {
                prop_assert!(n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b)));
            }
        }
    }
}
