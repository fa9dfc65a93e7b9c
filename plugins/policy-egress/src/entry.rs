//! One entry of a list: `[scheme://]host[:port]`, where the host is a name, `*.name`, `*`, an IP address or a network.
//!
//! Invariant: doubt never loosens. For `allow` an entry means exactly what it says: the host itself, the default port, no odd spelling of
//! an address. For `ask` and `deny` it includes subdomains and any port. Called by `config` and `judge`.

use std::net::IpAddr;

use policy_kit::host::{Destination, Host, default_port, read};

#[derive(Debug)]
pub struct Entry {
    pub text: String,
    scheme: Option<String>,
    target: Target,
    port: Port,
}

#[derive(Debug)]
enum Target {
    Any,
    /// The host itself.
    Name(String),
    /// Its subdomains only.
    Below(String),
    Network(IpAddr, u8),
}

#[derive(Debug, PartialEq, Eq)]
enum Port {
    Default,
    Any,
    Is(u16),
}

impl Entry {
    pub fn parse(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected [scheme://]host[:port]: example.org, *.example.org, https://example.org:8443, *, 10.0.0.0/8, [::1]:*, in ASCII and without a path";
        let bad = || EXPECTED.to_owned();
        let (scheme, rest) = match text.split_once("://") {
            Some((s, rest)) if !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) => {
                (Some(s.to_ascii_lowercase()), rest)
            }
            Some(_) => return Err(bad()),
            None => (None, text),
        };
        if let Some((ip, bits)) = rest.split_once('/') {
            let ip: IpAddr = ip.parse().map_err(|_| bad())?;
            let most = if ip.is_ipv4() { 32 } else { 128 };
            let bits = bits.parse().ok().filter(|b| *b <= most).ok_or_else(bad)?;
            return Ok(Self { text: text.to_owned(), scheme, target: Target::Network(ip, bits), port: Port::Any });
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(inner) => {
                let (ip, after) = inner.split_once(']').filter(|(ip, _)| ip.parse::<IpAddr>().is_ok()).ok_or_else(bad)?;
                (ip, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(bad)?) })
            }
            None if rest.matches(':').count() > 1 => (rest, None),
            None => rest.split_once(':').map_or((rest, None), |(h, p)| (h, Some(p))),
        };
        let port = match port {
            None => Port::Default,
            Some("*") => Port::Any,
            Some(p) => Port::Is(p.parse().map_err(|_| bad())?),
        };
        let target = if host == "*" {
            Target::Any
        } else if let Ok(ip) = host.parse::<IpAddr>() {
            Target::Network(ip, if ip.is_ipv4() { 32 } else { 128 })
        } else {
            let (name, below) = host.strip_prefix("*.").map_or((host, false), |n| (n, true));
            match read(name) {
                Host::Name(n) if below => Target::Below(n),
                Host::Name(n) => Target::Name(n),
                _ => return Err(bad()),
            }
        };
        Ok(Self { text: text.to_owned(), scheme, target, port })
    }

    /// For allow: the host itself (with `*.` its subdomains), plainly spelled, at the entry's or the scheme's default port.
    pub fn covers(&self, d: &Destination) -> bool {
        let host = match (&self.target, &d.host) {
            (_, Host::Unclear(_)) => false,
            (Target::Any, Host::Name(_)) => true,
            (Target::Any, Host::Ip { plain, .. }) => *plain,
            (Target::Name(n), Host::Name(h)) => n == h,
            (Target::Below(n), Host::Name(h)) => is_below(h, n),
            (Target::Network(net, bits), Host::Ip { ip, plain: true }) => contains(*net, *bits, *ip),
            _ => false,
        };
        let port = match self.port {
            Port::Any => true,
            Port::Is(p) => d.port_or_default() == Some(p),
            Port::Default => d.port.is_none() || d.port == default_port(&d.scheme),
        };
        host && port && self.scheme.as_ref().is_none_or(|s| *s == d.scheme)
    }

    /// For ask and deny: the host and everything under it, at any port unless one is given, however it is spelled.
    pub fn hits(&self, d: &Destination) -> bool {
        let host = match (&self.target, &d.host) {
            (_, Host::Unclear(_)) => false,
            (Target::Any, _) => true,
            (Target::Name(n), Host::Name(h)) => n == h || is_below(h, n),
            (Target::Below(n), Host::Name(h)) => is_below(h, n),
            (Target::Network(net, bits), Host::Ip { ip, .. }) => contains(*net, *bits, *ip),
            // A name that everyone resolves to this machine.
            (Target::Network(net, bits), Host::Name(h)) if h == "localhost" || h.ends_with(".localhost") => {
                [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16])].iter().any(|ip| contains(*net, *bits, *ip))
            }
            _ => false,
        };
        let port = match self.port {
            Port::Is(p) => d.port_or_default().is_none_or(|q| q == p),
            _ => true,
        };
        host && port && self.scheme.as_ref().is_none_or(|s| d.scheme.is_empty() || *s == d.scheme)
    }
}

fn is_below(host: &str, name: &str) -> bool {
    host.strip_suffix(name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

fn contains(net: IpAddr, bits: u8, ip: IpAddr) -> bool {
    match (net, ip) {
        (IpAddr::V4(n), IpAddr::V4(i)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            u32::from(n) & mask == u32::from(i) & mask
        }
        (IpAddr::V6(n), IpAddr::V6(i)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            u128::from(n) & mask == u128::from(i) & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn allow_means_what_is_written_and_deny_more() {
        for (entry, url, covers, hits) in [
            ("example.org", "https://example.org/x", true, true),
            ("example.org", "http://example.org/x", true, true),
            ("example.org", "https://a.example.org", false, true),
            ("example.org", "https://badexample.org", false, false),
            ("example.org", "https://example.org.evil.net", false, false),
            ("example.org", "https://example.org:8443", false, true),
            ("example.org", "https://example.org:443", true, true),
            ("example.org:8443", "https://example.org:8443", true, true),
            ("example.org:8443", "https://example.org", false, false),
            ("example.org:*", "https://example.org:1", true, true),
            ("https://example.org", "http://example.org", false, false),
            ("*.example.org", "https://a.b.example.org", true, true),
            ("*.example.org", "https://example.org", false, false),
            ("*", "https://any.example", true, true),
            ("*", "https://0x7f.1", false, true),
            ("10.0.0.0/8", "http://10.2.3.4:99", true, true),
            ("10.0.0.0/8", "http://0x0a020304", false, true),
            ("10.0.0.0/8", "http://11.2.3.4", false, false),
            ("0.0.0.0/0", "http://8.8.8.8", true, true),
            ("127.0.0.1", "http://localhost", false, true),
            ("[::1]:80", "http://[::1]/", true, true),
            ("EXAMPLE.org", "https://Example.ORG.", true, true),
        ] {
            let (e, d) = (Entry::parse(entry).expect(entry), Destination::of_url(url, ""));
            assert_eq!((e.covers(&d), e.hits(&d)), (covers, hits), "{entry} {url}");
        }
    }

    #[test]
    fn faults() {
        for bad in [
            "",
            "example.org/x",
            "exa mple.org",
            "ex\u{e4}mple.org",
            "a..b",
            "*.*.org",
            "a*.org",
            "https://",
            "10.0.0.0/33",
            "a:b",
            "0x7f.1",
            "[x]",
        ] {
            assert!(Entry::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_allow_covers_deny_hits(name in "[a-z]{1,4}(\\.[a-z]{1,4}){1,2}", host in "[a-z]{1,4}(\\.[a-z]{1,4}){1,3}", port in proptest::option::of(1u16..)) {
            let d = Destination::of_url(&format!("https://{host}{}", port.map(|p| format!(":{p}")).unwrap_or_default()), "");
            for text in [name.clone(), format!("*.{name}"), host.clone(), "*".to_owned()] {
                let e = Entry::parse(&text).map_err(TestCaseError::fail)?;
                prop_assert!(!e.covers(&d) || e.hits(&d), "{} {}", text, host);
            }
        }
    }
}
