//! TOML with line numbers: every value knows where it stands, so that an error can name file, line, key and what was expected.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Error;

/// Largest configuration file in bytes.
pub const FILE_MAX: u64 = 1 << 20;

/// One parsed file. Line numbers count from 1.
pub struct Source<'a> {
    pub path: PathBuf,
    pub text: &'a str,
}

/// A value in its file.
#[derive(Clone, Copy)]
pub struct At<'s, 'a> {
    pub source: &'s Source<'a>,
    pub value: &'s Spanned<DeValue<'a>>,
}

impl<'a> Source<'a> {
    pub fn new(path: &Path, text: &'a str) -> Self {
        Self { path: path.to_owned(), text }
    }

    pub fn parse(&self) -> Result<DeTable<'a>, Error> {
        match DeTable::parse(self.text) {
            Ok(table) => Ok(table.into_inner()),
            Err(e) => Err(Error::Syntax {
                path: self.path.clone(),
                line: e.span().map_or(1, |s| self.line(s.start)),
                // why: only the message; the parser's own rendering would print the file's text.
                detail: e.message().to_owned(),
            }),
        }
    }

    pub fn line(&self, offset: usize) -> usize {
        let upto = offset.min(self.text.len());
        1 + self.text.as_bytes()[..upto].iter().filter(|b| **b == b'\n').count()
    }

    pub fn unknown(&self, offset: usize, key: String, known: &[&str]) -> Error {
        Error::UnknownKey { path: self.path.clone(), line: self.line(offset), key: cut(&key), known: known.join(", ") }
    }
}

impl<'s, 'a> At<'s, 'a> {
    pub fn line(&self) -> usize {
        self.source.line(self.value.span().start)
    }

    pub fn wrong(&self, key: &str, expected: impl Into<String>) -> Error {
        let found = match self.value.get_ref() {
            DeValue::String(s) => format!("{:?}", cut(s)),
            DeValue::Integer(i) => i.to_string(),
            DeValue::Float(f) => f.to_string(),
            DeValue::Boolean(b) => b.to_string(),
            other => format!("a value of type {}", other.type_str()),
        };
        Error::WrongValue { path: self.source.path.clone(), line: self.line(), key: cut(key), found, expected: expected.into() }
    }

    pub fn text(&self, key: &str) -> Result<&'s str, Error> {
        self.value.get_ref().as_str().ok_or_else(|| self.wrong(key, "a string"))
    }

    pub fn flag(&self, key: &str) -> Result<bool, Error> {
        self.value.get_ref().as_bool().ok_or_else(|| self.wrong(key, "true or false"))
    }

    pub fn number(&self, key: &str, min: u64, max: u64) -> Result<u64, Error> {
        let n = self.value.get_ref().as_integer().and_then(|i| u64::from_str_radix(i.as_str(), i.radix()).ok());
        n.filter(|n| (min..=max).contains(n)).ok_or_else(|| self.wrong(key, format!("a whole number from {min} to {max}")))
    }

    pub fn word(&self, key: &str, words: &[&'static str]) -> Result<&'static str, Error> {
        let given = self.value.get_ref().as_str();
        let found = words.iter().find(|w| given == Some(**w));
        found.copied().ok_or_else(|| self.wrong(key, format!("one of {}", words.join(", "))))
    }

    pub fn items(&self, key: &str, max: usize) -> Result<Vec<At<'s, 'a>>, Error> {
        let list = self.value.get_ref().as_array().ok_or_else(|| self.wrong(key, "a list"))?;
        if list.len() > max {
            return Err(self.wrong(key, format!("at most {max} items, not {}", list.len())));
        }
        Ok(list.iter().map(|value| At { source: self.source, value }).collect())
    }

    pub fn texts(&self, key: &str, max: usize) -> Result<Vec<String>, Error> {
        let items = self.items(key, max).map_err(|_| self.wrong(key, format!("a list of at most {max} strings")))?;
        items.iter().map(|i| i.text(key).map(str::to_owned)).collect()
    }

    pub fn table(&self, key: &str) -> Result<&'s DeTable<'a>, Error> {
        self.value.get_ref().as_table().ok_or_else(|| self.wrong(key, "a table"))
    }

    /// Keys of a table with their values and offsets; a key outside `known` is an error.
    pub fn fields(&self, key: &str, known: &[&str]) -> Result<Vec<(&'s str, At<'s, 'a>)>, Error> {
        let mut out = Vec::new();
        for (name, value) in self.table(key)? {
            let at = At { source: self.source, value };
            if !known.contains(&name.get_ref().as_ref()) {
                return Err(self.source.unknown(name.span().start, format!("{key}.{}", name.get_ref()), known));
            }
            out.push((name.get_ref().as_ref(), at));
        }
        Ok(out)
    }

    /// The same but for tables, which are left to others.
    pub fn plain_fields(&self, key: &str, known: &[&str]) -> Result<Vec<(&'s str, At<'s, 'a>)>, Error> {
        let mut out = Vec::new();
        for (name, value) in self.table(key)?.iter().filter(|(_, v)| !matches!(v.get_ref(), DeValue::Table(_))) {
            if !known.contains(&name.get_ref().as_ref()) {
                return Err(self.source.unknown(name.span().start, format!("{key}.{}", name.get_ref()), known));
            }
            out.push((name.get_ref().as_ref(), At { source: self.source, value }));
        }
        Ok(out)
    }

    /// As JSON: dates become strings; numbers that JSON has not are errors.
    pub fn json(&self, key: &str) -> Result<Json, Error> {
        Ok(match self.value.get_ref() {
            DeValue::String(s) => Json::from(s.as_ref()),
            DeValue::Boolean(b) => Json::from(*b),
            DeValue::Integer(i) => {
                Json::from(i64::from_str_radix(i.as_str(), i.radix()).map_err(|_| self.wrong(key, "a 64-bit whole number"))?)
            }
            DeValue::Float(f) => {
                let n = f.as_str().parse::<f64>().ok().and_then(serde_json::Number::from_f64);
                Json::Number(n.ok_or_else(|| self.wrong(key, "a finite number"))?)
            }
            DeValue::Datetime(d) => Json::from(d.to_string()),
            DeValue::Array(list) => {
                let one = |value| At { source: self.source, value }.json(key);
                Json::Array(list.iter().map(one).collect::<Result<_, _>>()?)
            }
            DeValue::Table(table) => {
                let one = |(k, value): (&Spanned<_>, _)| {
                    let k: &std::borrow::Cow<'_, str> = k.get_ref();
                    Ok((k.to_string(), At { source: self.source, value }.json(&format!("{key}.{k}"))?))
                };
                Json::Object(table.iter().map(one).collect::<Result<_, Error>>()?)
            }
        })
    }
}

/// A value from a file, short enough for an error line.
pub fn cut(s: &str) -> String {
    const MAX: usize = 80;
    let mut out: String = s.chars().take(MAX).collect();
    if s.chars().nth(MAX).is_some() {
        out.push('…');
    }
    out
}
