//! Settings of who may loosen something and who is told: `[operator]`, `[notify]`, `approvals.two_person`. Called by `build`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use url::{Host, Url};

use super::{Config, Error, Settings, file};

/// Longest item of `approvals.two_person` in bytes: a label's key and value, and the sign between.
const LABEL_MAX: usize = 64 + 1 + 256;

/// What must prove that a person loosens something. Ordered by strictness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confirm {
    /// The role `operator` is enough.
    None,
    /// A code typed at a terminal that no session holds.
    Tty,
    /// A signature by a key that only a passphrase gives.
    Key,
}

impl Confirm {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tty => "tty",
            Self::Key => "key",
        }
    }
}

/// Who is told of calls that wait.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Notify {
    pub webhook: Option<Url>,
    pub secret_file: Option<PathBuf>,
    pub secret_env: Option<String>,
    pub timeout_ms: u64,
    pub desktop: bool,
}

impl Config {
    /// Whether calls of a session with these labels need two persons.
    pub fn needs_two(&self, labels: &BTreeMap<String, String>) -> bool {
        self.two_person.iter().filter_map(|t| t.split_once('=')).any(|(k, v)| labels.get(k).is_some_and(|have| v == "*" || v == have))
    }
}

pub(super) fn confirm(settings: &Settings) -> Result<Confirm, Error> {
    Ok(match text(settings, "operator.confirm")? {
        "tty" => Confirm::Tty,
        "key" => Confirm::Key,
        _ => Confirm::None,
    })
}

pub(super) fn two_person(settings: &Settings) -> Result<Vec<String>, Error> {
    const KEY: &str = "approvals.two_person";
    let (value, origin) = settings.get(KEY).ok_or_else(|| Error::Embedded { key: KEY.to_owned() })?;
    let list: Vec<String> = value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect();
    let fits = |t: &String| t.len() <= LABEL_MAX && t.split_once('=').is_some_and(|(k, v)| !k.is_empty() && !v.is_empty());
    if let Some(bad) = list.iter().find(|t| !fits(t)) {
        let found = super::value::cut(bad);
        return Err(Error::BadSetting { key: KEY, found, origin: origin.to_string(), expected: "labels as \"key=value\" or \"key=*\"" });
    }
    let confirm = confirm(settings)?;
    if !list.is_empty() && confirm != Confirm::Key {
        return Err(Error::TwoPersonWithoutKeys { origin: origin.to_string(), confirm: confirm.as_str() });
    }
    Ok(list)
}

pub(super) fn notify(settings: &Settings) -> Result<Notify, Error> {
    let missing = |key: &str| Error::Embedded { key: key.to_owned() };
    let value = |key: &str| settings.get(key).map(|(v, _)| v).ok_or_else(|| missing(key));
    let bad = |key: &'static str, expected| {
        let (found, origin) = settings.get(key).map(|(v, o)| (v.as_str().unwrap_or_default(), o.to_string())).unwrap_or_default();
        // why: an address may hold a token; only its beginning is needed to find the line.
        Error::BadSetting { key, found: found.chars().take(24).collect(), origin, expected }
    };
    let webhook = match text(settings, "notify.webhook")? {
        "" => None,
        given => Some(address(given).ok_or_else(|| {
            bad("notify.webhook", "an https:// address without user name or password (http:// only to 127.0.0.1, [::1] or localhost)")
        })?),
    };
    let secret_env = Some(text(settings, "notify.secret_env")?).filter(|n| !n.is_empty()).map(str::to_owned);
    // why: no other variable reaches the daemon, whose environment is cleaned when it is started.
    if secret_env.as_ref().is_some_and(|n| !n.starts_with("BEADLE_")) {
        return Err(bad("notify.secret_env", "the name of a variable that begins with BEADLE_"));
    }
    Ok(Notify {
        webhook,
        secret_file: file(settings, "notify.secret_file")?,
        secret_env,
        timeout_ms: value("notify.timeout_ms")?.as_u64().ok_or_else(|| missing("notify.timeout_ms"))?,
        desktop: value("notify.desktop")?.as_bool().ok_or_else(|| missing("notify.desktop"))?,
    })
}

fn text<'a>(settings: &'a Settings, key: &str) -> Result<&'a str, Error> {
    settings.get(key).and_then(|(v, _)| v.as_str()).ok_or_else(|| Error::Embedded { key: key.to_owned() })
}

pub(super) fn address(given: &str) -> Option<Url> {
    let url = Url::parse(given).ok()?;
    let loopback = match url.host()? {
        Host::Domain(d) => d == "localhost",
        Host::Ipv4(ip) => IpAddr::V4(ip).is_loopback(),
        Host::Ipv6(ip) => IpAddr::V6(ip).is_loopback(),
    };
    let plain = url.username().is_empty() && url.password().is_none();
    (plain && (url.scheme() == "https" || (url.scheme() == "http" && loopback))).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_stays_on_this_machine() {
        for good in ["https://example.org/x?y", "http://127.0.0.1:8080/", "http://[::1]/", "http://localhost/"] {
            assert!(address(good).is_some(), "{good}");
        }
        for bad in [
            "http://example.org/",
            "https://me:pw@example.org/",
            "ftp://example.org",
            "http://127.0.0.1.example.org/",
            "x",
            "file:///etc/passwd",
        ] {
            assert!(address(bad).is_none(), "{bad}");
        }
    }
}
