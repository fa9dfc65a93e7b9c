//! Prices by model and date, read from a data file that a user can replace.
//!
//! Invariants:
//! - unknown is not zero: a model, a day or a kind of token without a price has no cost;
//! - no model is priced by a guess: a name is looked up as it is written, then by the rules of [`names`], never by a prefix;
//! - exact: prices are whole numbers of 10⁻¹² dollars a token, sums are 128 bits wide and rounded once a call, to the nearest
//!   billionth; what does not fit is no cost.
//!
//! Called by `config` (reading and checking a file) and `session` (pricing a call).

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Number;

use super::usage::{Nanousd, Usage};

/// Most prices of one table.
pub const PRICES_MAX: usize = 10_000;
/// Most aliases of one table.
pub const ALIASES_MAX: usize = 10_000;
/// Longest name of a model, in bytes.
const NAME_MAX: usize = 256;
/// Highest price, in dollars per million tokens.
const USD_MAX: u64 = 1_000_000;
/// 10⁻¹² dollars a token in one dollar per million tokens.
const PICO: u64 = 1_000_000;

const EMBEDDED: &str = include_str!("prices.json");

/// What is wrong with a price table: where, what was found, what is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    #[error("not a price table: {0}")]
    Shape(String),
    #[error("{place}: {found}; expected {expected}")]
    Value { place: String, found: String, expected: &'static str },
    #[error("{what}: {count}, over the limit of {max}")]
    TooMany { what: &'static str, count: usize, max: usize },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    source: String,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    prices: Vec<FilePrice>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePrice {
    model: String,
    #[serde(default)]
    from: Option<String>,
    usd_per_million: FileRates,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRates {
    input: Amount,
    output: Amount,
    #[serde(default)]
    cache_read: Option<Amount>,
    #[serde(default)]
    cache_write: Option<Amount>,
    #[serde(default)]
    cache_write_1h: Option<Amount>,
}

/// Dollars as a number or as a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Amount {
    Number(Number),
    Text(String),
}

/// 10⁻¹² dollars a token, by kind; what is absent is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rates {
    input: u64,
    output: u64,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    cache_write_1h: Option<u64>,
}

impl Rates {
    fn cost(&self, u: Usage) -> Option<Nanousd> {
        let hour = u.cache_write_1h.min(u.cache_write);
        let part = |tokens: u64, rate: Option<u64>| match tokens {
            0 => Some(0),
            n => u128::from(n).checked_mul(u128::from(rate?)),
        };
        let parts = [
            part(u.input, Some(self.input))?,
            part(u.output, Some(self.output))?,
            part(u.cache_read, self.cache_read)?,
            part(u.cache_write - hour, self.cache_write)?,
            part(hour, self.cache_write_1h)?,
        ];
        let sum = parts.into_iter().try_fold(0u128, u128::checked_add)?;
        // why i64: the store keeps signed numbers.
        let nano = (sum.checked_add(500)?) / 1_000;
        i64::try_from(nano).ok()?;
        u64::try_from(nano).ok()
    }
}

/// Prices by model and date.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PriceTable {
    /// When and where the prices were read.
    pub source: String,
    /// BLAKE3 of the file, hex: what each priced call names.
    pub digest: String,
    /// By model, each with its first day in days since 1970 (UTC), oldest first.
    models: HashMap<String, Vec<(i64, Rates)>>,
    aliases: HashMap<String, String>,
}

impl PriceTable {
    /// The table inside the binary.
    pub fn embedded() -> Self {
        // why: the file is part of the source and its reading is a test; an unreadable table means unknown prices.
        Self::parse(EMBEDDED.as_bytes()).unwrap_or_default()
    }

    /// Reads a table. Errors name the entry, what was found and what is expected.
    pub fn parse(bytes: &[u8]) -> Result<Self, PriceError> {
        let file: File = serde_json::from_slice(bytes).map_err(|e| PriceError::Shape(e.to_string()))?;
        for (what, count, max) in [("prices", file.prices.len(), PRICES_MAX), ("aliases", file.aliases.len(), ALIASES_MAX)] {
            if count > max {
                return Err(PriceError::TooMany { what, count, max });
            }
        }
        let mut models: HashMap<String, Vec<(i64, Rates)>> = HashMap::new();
        for (i, p) in file.prices.iter().enumerate() {
            let place = |field: &str| format!("prices[{i}] ({:?}).{field}", p.model.chars().take(64).collect::<String>());
            name(&p.model, || place("model"))?;
            let from = p.from.as_deref().map_or(Ok(i64::MIN), |d| day(d, || place("from")))?;
            let r = &p.usd_per_million;
            let rate = |field: &str, a: &Amount| amount(a, || place(&format!("usd_per_million.{field}")));
            let maybe = |field: &str, a: &Option<Amount>| a.as_ref().map(|a| rate(field, a)).transpose();
            let rates = Rates {
                input: rate("input", &r.input)?,
                output: rate("output", &r.output)?,
                cache_read: maybe("cache_read", &r.cache_read)?,
                cache_write: maybe("cache_write", &r.cache_write)?,
                cache_write_1h: maybe("cache_write_1h", &r.cache_write_1h)?,
            };
            let of = models.entry(p.model.clone()).or_default();
            if of.iter().any(|(day, _)| *day == from) {
                let found = p.from.as_deref().unwrap_or("no first day").to_owned();
                return Err(PriceError::Value { place: place("from"), found, expected: "each first day of a model once" });
            }
            of.push((from, rates));
        }
        models.values_mut().for_each(|of| of.sort_by_key(|(day, _)| *day));
        for (alias, model) in &file.aliases {
            let place = || format!("aliases.{:?}", alias.chars().take(64).collect::<String>());
            name(alias, place)?;
            let wrong = |found: String, expected| PriceError::Value { place: place(), found, expected };
            if models.contains_key(alias) {
                return Err(wrong("a model that has a price".to_owned(), "a name without a price of its own"));
            }
            if !models.contains_key(model) {
                let found = format!("{:?}", model.chars().take(64).collect::<String>());
                return Err(wrong(found, "the name of a model in `prices`"));
            }
        }
        let digest = blake3::hash(bytes).to_hex().to_string();
        Ok(Self { source: file.source, digest, models, aliases: file.aliases.into_iter().collect() })
    }

    /// How many models have a price.
    pub fn model_count(&self) -> usize {
        self.models.len()
    }

    /// Cost of `usage` on `model` at a time in milliseconds (UTC), or `None` where a price is not known.
    pub fn cost(&self, model: &str, usage: Usage, at: i64) -> Option<Nanousd> {
        let today = at.div_euclid(86_400_000);
        let rates = self.rates(model)?.iter().rev().find(|(from, _)| *from <= today)?;
        rates.1.cost(usage)
    }

    /// The table as it holds at a time in milliseconds.
    pub const fn at(&self, at: i64) -> PricesAt<'_> {
        PricesAt { table: self, at }
    }

    fn rates(&self, model: &str) -> Option<&Vec<(i64, Rates)>> {
        let find = |name: &str| self.models.get(name).or_else(|| self.models.get(self.aliases.get(name)?));
        names(model).iter().find_map(|n| find(n))
    }
}

/// A table and the time at which calls are priced by it.
#[derive(Debug, Clone, Copy)]
pub struct PricesAt<'a> {
    pub table: &'a PriceTable,
    /// Milliseconds since 1970, UTC.
    pub at: i64,
}

impl PricesAt<'_> {
    /// Cost of `usage` on `model`, or `None` where a price is not known.
    pub fn cost(&self, model: &str, usage: Usage) -> Option<Nanousd> {
        self.table.cost(model, usage, self.at)
    }
}

/// What a model may be listed as, in the order in which it is looked up:
///
/// 1. as the agent writes it;
/// 2. in lower case, without a mark in brackets (`[1m]`) or a tag after a colon (`:thinking`, `-v1:0`);
/// 3. without providers: what stands before the last `/`, and a region and maker before dots (`us.anthropic.`);
/// 4. without a date or `latest` at the end (`-20250929`, `-2025-09-29`, `@20250929`, `-latest`).
pub fn names(model: &str) -> Vec<String> {
    let mut out = vec![model.to_owned()];
    let mut next = |s: &str| {
        if !s.is_empty() && out.last().is_none_or(|l| l != s) {
            out.push(s.to_owned());
        }
    };
    let lower = model.trim().to_ascii_lowercase();
    let mut name = lower.as_str();
    if let Some(at) = name.find('[').filter(|_| name.ends_with(']')) {
        name = &name[..at];
    }
    next(name);
    if let Some((head, _)) = name.rsplit_once(':').filter(|(head, _)| !head.is_empty()) {
        name = head;
        // why: Bedrock's version, as in `-v1:0`.
        if let Some((head, version)) = name.rsplit_once("-v")
            && !version.is_empty()
            && version.bytes().all(|b| b.is_ascii_digit())
        {
            name = head;
        }
    }
    next(name);
    name = name.rsplit('/').next().unwrap_or(name);
    next(name);
    for maker in ["anthropic.", "openai.", "google.", "meta.", "mistral."] {
        if let Some(at) = name.find(maker).filter(|at| *at == 0 || name[..*at].ends_with('.')) {
            name = &name[at + maker.len()..];
            break;
        }
    }
    next(name);
    next(undated(name));
    out
}

fn undated(name: &str) -> &str {
    if let Some(head) = name.strip_suffix("-latest") {
        return head;
    }
    let digits = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_digit());
    if let Some((head, date)) = name.rsplit_once(['-', '@'])
        && digits(date, 8)
    {
        return head;
    }
    let mut parts = name.rsplitn(4, '-');
    let (day, month, year, head) = (parts.next(), parts.next(), parts.next(), parts.next());
    match (head, year, month, day) {
        (Some(head), Some(y), Some(m), Some(d)) if digits(y, 4) && digits(m, 2) && digits(d, 2) => head,
        _ => name,
    }
}

fn name(given: &str, place: impl Fn() -> String) -> Result<(), PriceError> {
    let good = !given.is_empty() && given.len() <= NAME_MAX && !given.chars().any(char::is_control);
    if good {
        return Ok(());
    }
    Err(PriceError::Value { place: place(), found: format!("a name of {} bytes", given.len()), expected: "1 to 256 bytes of plain text" })
}

/// Days since 1970 of a day such as `2026-01-31`.
fn day(text: &str, place: impl Fn() -> String) -> Result<i64, PriceError> {
    let epoch = chrono::NaiveDate::default();
    match chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        Ok(d) if text.len() == 10 => Ok(d.signed_duration_since(epoch).num_days()),
        _ => {
            let found = format!("{:?}", text.chars().take(40).collect::<String>());
            Err(PriceError::Value { place: place(), found, expected: "a day (UTC) as in \"2026-01-31\"" })
        }
    }
}

/// 10⁻¹² dollars a token from dollars per million tokens: at most six decimals, so nothing is rounded.
fn amount(a: &Amount, place: impl Fn() -> String) -> Result<u64, PriceError> {
    // why by its text: that is the number as it was written, a binary fraction is not.
    let text = match a {
        Amount::Number(n) => n.to_string(),
        Amount::Text(t) => t.clone(),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    // why: the shortest text of the number 5.0 is "5.0".
    let fraction = fraction.trim_end_matches('0');
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let read = || {
        if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 6 {
            return None;
        }
        let whole: u64 = whole.parse().ok().filter(|n| *n <= USD_MAX)?;
        let parts: u64 = format!("{fraction:0<6}").parse().ok()?;
        whole.checked_mul(PICO)?.checked_add(parts)
    };
    read().ok_or_else(|| PriceError::Value {
        place: place(),
        found: text.chars().take(40).collect(),
        expected: "dollars per million tokens, from 0 to 1000000 with at most 6 decimals",
    })
}

#[cfg(test)]
mod tests;
