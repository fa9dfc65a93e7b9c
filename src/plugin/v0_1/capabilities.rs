//! The capabilities as guests import them: each checks both keys, does its small work, and answers a typed error.
//!
//! Called by guests, while a question is put to them.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::super::capability::{MAX_BYTES, Uses};
use super::super::kv::{Call, KvError};
use super::super::state::State;
use super::{clock, env, kv, random, secret};
use crate::model::Grant;

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
        self.using(&Grant::Clock).map_err(clock::Error::Denied)?;
        Ok(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }

    fn monotonic_ns(&mut self) -> Result<u64, clock::Error> {
        static BEGUN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        self.using(&Grant::Clock).map_err(clock::Error::Denied)?;
        Ok(u64::try_from(BEGUN.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

impl random::Host for State {
    fn bytes(&mut self, len: u32) -> Result<Vec<u8>, random::Error> {
        self.using(&Grant::Random).map_err(random::Error::Denied)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > MAX_BYTES {
            return Err(random::Error::OverLimit(format!("{len} random bytes at once; the limit is {MAX_BYTES}")));
        }
        let mut bytes = vec![0; len];
        getrandom::fill(&mut bytes).map_err(|e| random::Error::Unavailable(e.to_string()))?;
        Ok(bytes)
    }
}

impl env::Host for State {
    fn get(&mut self, name: String) -> Result<Option<String>, env::Error> {
        self.using(&Grant::Env(Some(name.clone()))).map_err(env::Error::Denied)?;
        match std::env::var_os(&name).map(std::ffi::OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) if text.len() <= MAX_BYTES => Ok(Some(text)),
            Some(_) => Err(env::Error::Unavailable(format!("the variable {name} is no text of at most {MAX_BYTES} bytes"))),
        }
    }
}

impl secret::Host for State {
    fn get(&mut self, name: String) -> Result<String, secret::Error> {
        let uses = self.using(&Grant::Secret(Some(name.clone()))).map_err(secret::Error::Denied)?;
        let value = uses.secrets.get(&name).map_err(secret::Error::Unavailable)?;
        uses.log.hide(&value);
        Ok(value)
    }
}
