//! `WebFetch(domain:…)`: the host of an address.
//!
//! Invariants: a host is known only where every URL reader would agree on it; else nothing is allowed and every ask or
//! deny rule could be meant. Called by `policy` (compiling) and `judge`.

use crate::Fit;
use crate::notation::Fault;

/// A compiled `domain:` specifier, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    name: Box<str>,
    /// `*.name`: its subdomains only.
    below: bool,
}

impl Domain {
    pub fn parse(specifier: &str, at: usize) -> Result<Self, Fault> {
        let Some(name) = specifier.strip_prefix("domain:") else {
            return Err(Fault::new(at, "domain:<host>, as in WebFetch(domain:example.org)"));
        };
        let at = at + "domain:".len();
        let (name, below) = match name.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (name, false),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if let Some(bad) = name.find(|c| !plain(c)) {
            let what = if name[bad..].starts_with('/') {
                "a host alone; paths are not matched"
            } else {
                "a host in ASCII (Punycode), or *.<host>"
            };
            return Err(Fault::new(at + usize::from(below) * 2 + bad, what));
        }
        if name.is_empty() || name.starts_with('.') || name.ends_with('.') {
            return Err(Fault::new(at, "a host such as example.org or *.example.org"));
        }
        Ok(Self { name: name.to_ascii_lowercase().into(), below })
    }

    /// For ask and deny: the host itself and everything under it.
    pub fn hits(&self, url: &str) -> Fit {
        match host(url) {
            None => Fit::May,
            Some(h) if self.is_under(h) || (!self.below && h.eq_ignore_ascii_case(&self.name)) => Fit::Yes,
            Some(_) => Fit::No,
        }
    }

    /// For allow: exactly the host, or with `*.` exactly its subdomains.
    pub fn covers(&self, url: &str) -> bool {
        host(url).is_some_and(|h| if self.below { self.is_under(h) } else { h.eq_ignore_ascii_case(&self.name) })
    }

    fn is_under(&self, host: &str) -> bool {
        let cut = host.len().checked_sub(self.name.len());
        cut.is_some_and(|cut| cut > 1 && host.as_bytes()[cut - 1] == b'.' && host[cut..].eq_ignore_ascii_case(&self.name))
    }
}

/// The host of an http(s) address, or `None` where readers may differ about it.
fn host(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return None;
    }
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    // Backslashes, percent signs, blanks and look-alike letters are read differently by different programs.
    if authority.contains(|c: char| !(c.is_ascii_alphanumeric() || "-._~:@[]!&'()+,;=".contains(c))) {
        return None;
    }
    let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
    let host = match host.strip_prefix('[') {
        Some(_) => &host[..=host.find(']')?],
        None => host.split_once(':').map_or(host, |(h, _)| h),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (url, want) in [
            ("https://example.org/x", Some("example.org")),
            ("HTTP://user:pw@Example.org:8080?x", Some("Example.org")),
            ("https://example.org.", Some("example.org")),
            ("https://[::1]:80/", Some("[::1]")),
            ("https://good.org@evil.net/", Some("evil.net")),
            ("https://evil.net\\@good.org/", None),
            ("https://ex%61mple.org", None),
            ("https://\u{435}xample.org", None),
            ("https://$HOST/", None),
            ("ftp://example.org", None),
            ("example.org", None),
            ("https:///x", None),
        ] {
            assert_eq!(host(url), want, "{url}");
        }
    }

    #[test]
    fn faults() {
        for s in ["example.org", "domain:", "domain:a/b", "domain:*", "domain:*.", "domain:ex*mple.org", "domain:\u{e9}.org"] {
            assert!(Domain::parse(s, 9).is_err(), "{s}");
        }
    }
}
