//! The capabilities as guests import them: each checks both keys, does its small work, and answers a typed error.
//!
//! Called by guests, while a question is put to them.

use std::time::{Duration, Instant};

use super::super::capability::{MAX_BYTES, Uses};
use super::super::fs::{self as files, FsError};
use super::super::http::{self as requests, HttpError};
use super::super::kv::{Call, KvError};
use super::super::machine::{NoAnswer, Sent};
use super::super::pool;
use super::super::state::State;
use super::{clock, env, fs, http, kv, random, secret};
use crate::model::Grant;
use crate::model::grant::FsAccess;

/// Files and folders that one call may touch.
const MAX_FILES: u32 = 256;
/// How long before the deadline of its call a request ends, so that the plugin can still answer.
const MARGIN: Duration = Duration::from_millis(10);

impl State {
    /// The call's capabilities, when this one may be used; else the word that is missing.
    fn using(&mut self, what: &Grant) -> Result<&mut Uses, String> {
        match self.uses.as_deref_mut() {
            Some(uses) => uses.allow(what).map(|()| uses),
            None => Err(what.to_string()),
        }
    }

    fn kv<T>(&mut self, f: impl FnOnce(&mut Call) -> Result<T, KvError>) -> Result<T, kv::Error> {
        let uses = self.using(&Grant::Kv).map_err(kv::Error::Denied)?;
        uses.state().and_then(f).map_err(|e| match e {
            KvError::OverLimit(what) => kv::Error::OverLimit(what),
            KvError::Unavailable(why) => kv::Error::Unavailable(why),
        })
    }
}

impl kv::Host for State {
    fn get(&mut self, key: String) -> Result<Option<Vec<u8>>, kv::Error> {
        self.kv(|c| Ok(c.get(&key).cloned()))
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), kv::Error> {
        self.kv(|c| c.set(key, value))
    }

    fn delete(&mut self, key: String) -> Result<bool, kv::Error> {
        self.kv(|c| Ok(c.delete(&key)))
    }

    fn list_keys(&mut self, prefix: String) -> Result<Vec<String>, kv::Error> {
        self.kv(|c| Ok(c.list(&prefix)))
    }
}

impl clock::Host for State {
    fn now_ms(&mut self) -> Result<u64, clock::Error> {
        Ok(self.using(&Grant::Clock).map_err(clock::Error::Denied)?.around.machine.wall_ms())
    }

    fn monotonic_ns(&mut self) -> Result<u64, clock::Error> {
        Ok(self.using(&Grant::Clock).map_err(clock::Error::Denied)?.around.machine.monotonic_ns())
    }
}

impl random::Host for State {
    fn bytes(&mut self, len: u32) -> Result<Vec<u8>, random::Error> {
        let uses = self.using(&Grant::Random).map_err(random::Error::Denied)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > MAX_BYTES {
            return Err(random::Error::OverLimit(format!("{len} random bytes at once; the limit is {MAX_BYTES}")));
        }
        let mut bytes = vec![0; len];
        uses.around.machine.random(&mut bytes).map_err(random::Error::Unavailable)?;
        Ok(bytes)
    }
}

impl env::Host for State {
    fn get(&mut self, name: String) -> Result<Option<String>, env::Error> {
        let uses = self.using(&Grant::Env(Some(name.clone()))).map_err(env::Error::Denied)?;
        match uses.around.machine.variable(&name).map(std::ffi::OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) if text.len() <= MAX_BYTES => Ok(Some(text)),
            Some(_) => Err(env::Error::Unavailable(format!("the variable {name} is no text of at most {MAX_BYTES} bytes"))),
        }
    }
}

impl secret::Host for State {
    fn get(&mut self, name: String) -> Result<String, secret::Error> {
        let uses = self.using(&Grant::Secret(Some(name.clone()))).map_err(secret::Error::Denied)?;
        let value = uses.around.secrets.get(&name).map_err(secret::Error::Unavailable)?;
        uses.log.hide(&value);
        Ok(value)
    }
}

impl State {
    /// What a path may be used for, when it may.
    fn file(&mut self, access: FsAccess, path: &str, of_folder: bool) -> Result<&mut Uses, fs::Error> {
        let (what, grant) = files::asked(access, path, of_folder);
        files::plain(path).map_err(of_fs)?;
        let Some(uses) = self.uses.as_deref_mut() else { return Err(fs::Error::Denied(grant.to_string())) };
        uses.allow_by(&what, &grant).map_err(fs::Error::Denied)?;
        uses.files += 1;
        if uses.files > MAX_FILES {
            return Err(fs::Error::OverLimit(format!("{} files and folders; the limit of a call is {MAX_FILES}", uses.files)));
        }
        if Instant::now() >= uses.until {
            return Err(fs::Error::Unavailable("the deadline of the call was reached".to_owned()));
        }
        Ok(uses)
    }
}

/// The folders that a call may reach.
fn within(uses: &Uses) -> files::Within<'_> {
    files::Within { grants: &uses.rights.grants, own: &uses.around.own, root: uses.around.machine.root() }
}

fn of_fs(e: FsError) -> fs::Error {
    match e {
        FsError::NotFound => fs::Error::NotFound,
        FsError::OverLimit(what) => fs::Error::OverLimit(what),
        FsError::Unavailable(why) => fs::Error::Unavailable(why),
    }
}

impl fs::Host for State {
    fn read(&mut self, path: String) -> Result<Vec<u8>, fs::Error> {
        let uses = self.file(FsAccess::Read, &path, false)?;
        files::read(&within(uses), &path, uses.until).map_err(of_fs)
    }

    fn write(&mut self, path: String, content: Vec<u8>) -> Result<(), fs::Error> {
        let uses = self.file(FsAccess::Write, &path, false)?;
        files::write(&within(uses), &path, &content).map_err(of_fs)
    }

    fn list_entries(&mut self, path: String) -> Result<Vec<fs::Entry>, fs::Error> {
        let uses = self.file(FsAccess::Read, &path, true)?;
        let kind = |k| match k {
            files::Kind::File => fs::Kind::File,
            files::Kind::Folder => fs::Kind::Folder,
            files::Kind::Link => fs::Kind::Link,
            files::Kind::Other => fs::Kind::Other,
        };
        let found = files::list(&within(uses), &path).map_err(of_fs)?;
        Ok(found.into_iter().map(|(name, k)| fs::Entry { name, kind: kind(k) }).collect())
    }
}

fn of_http(e: HttpError) -> http::Error {
    match e {
        HttpError::OverLimit(what) => http::Error::OverLimit(what),
        HttpError::Invalid(why) => http::Error::Invalid(why),
        HttpError::ForbiddenAddress(why) => http::Error::ForbiddenAddress(why),
        HttpError::Timeout => http::Error::Timeout,
        HttpError::Unavailable(why) => http::Error::Unavailable(why),
    }
}

fn of_machine(e: NoAnswer) -> http::Error {
    match e {
        NoAnswer::Timeout => http::Error::Timeout,
        NoAnswer::Forbidden(why) => http::Error::ForbiddenAddress(why),
        NoAnswer::Unavailable(why) => http::Error::Unavailable(why),
    }
}

impl http::Host for State {
    fn send(&mut self, r: http::Request) -> Result<http::Response, http::Error> {
        let asked = requests::Asked { method: r.method, url: r.url, headers: r.headers, body: r.body };
        let ready = requests::prepare(asked).map_err(of_http)?;
        let uses = self.using(&ready.what).map_err(http::Error::Denied)?;
        uses.requests += 1;
        if uses.requests > requests::MAX_REQUESTS {
            let what = format!("{} requests; the limit of a call is {}", uses.requests, requests::MAX_REQUESTS);
            return Err(http::Error::OverLimit(what));
        }
        if !pool::give_way() {
            return Err(http::Error::Unavailable("too many calls of plugins wait for the network".to_owned()));
        }
        let sent = Sent { method: ready.method(), url: ready.url(), body: &ready.body };
        if let Some(answer) = uses.around.machine.answer(&sent) {
            let a = answer.map_err(of_machine)?;
            let headers = a.headers.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
            return Ok(http::Response { status: a.status, headers, body: a.body });
        }
        let until = uses.until.checked_sub(MARGIN).unwrap_or(uses.until);
        let a = uses.around.network.send(ready, until).map_err(of_http)?;
        Ok(http::Response { status: a.status, headers: a.headers, body: a.body })
    }
}
