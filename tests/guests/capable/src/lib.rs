//! A policy that uses capabilities as the call tells it, and answers with what came of it; and a sink that posts. For tests only.
//!
//! The call's command is JSON, or has JSON after `probe `: a list of steps, each a list of texts. The decision is `allow`, its reason a
//! JSON list of one text a step: `ok …`, `denied …`, `over-limit …`, `unavailable …`. Configured with `{"count": true}`, every other call
//! is counted, in `kv` and in a global, and the reason is `kv=… global=…`.

use std::sync::atomic::{AtomicU64, Ordering};

use beadle_plugin::capability::{Error, clock, env, fs, http, kv, random, secret};
use beadle_plugin::{Batch, Call, Decision, Description, Effect, Outcome, Sink, Want};
use serde_json::Value;

/// What such a policy wants when it wants everything.
pub const WANTS: [&str; 8] = ["kv", "clock", "random", "env:*", "secret:*", "fs:read:*", "fs:write:*", "http:GET,POST:*"];

static GLOBAL: AtomicU64 = AtomicU64::new(0);

/// Answers a call.
pub fn decide(config: &str, call: &Call) -> Decision {
    let input: Value = serde_json::from_str(&call.input).unwrap_or_default();
    let command = input.get("command").and_then(Value::as_str).unwrap_or_default();
    let script = command.strip_prefix("probe ").unwrap_or(command).trim_matches('\'');
    match serde_json::from_str::<Vec<Vec<String>>>(script) {
        Ok(steps) => {
            let told: Vec<String> = steps.iter().map(|s| tell(step(s))).collect();
            Decision::new(Effect::Allow, Value::from(told).to_string())
        }
        Err(_) if config.contains("count") => {
            let global = GLOBAL.fetch_add(1, Ordering::Relaxed) + 1;
            match count() {
                Ok(n) => Decision::new(Effect::Allow, format!("kv={n} global={global}")),
                Err(e) => Decision::deny(format!("not counted: {e}")),
            }
        }
        Err(_) => Decision::abstain(),
    }
}

fn count() -> Result<u64, Error> {
    let n = kv::get("n")?.and_then(|v| String::from_utf8(v).ok()?.parse().ok()).unwrap_or(0) + 1;
    kv::set("n", n.to_string().as_bytes())?;
    Ok(n)
}

fn tell(what: Result<String, Error>) -> String {
    match what {
        Ok(text) => format!("ok {text}"),
        Err(Error::Denied(word)) => format!("denied {word}"),
        Err(Error::OverLimit(why)) => format!("over-limit {why}"),
        Err(Error::Unavailable(why)) => format!("unavailable {why}"),
        Err(Error::NotFound) => "not-found".to_owned(),
        Err(Error::Invalid(why)) => format!("invalid {why}"),
        Err(Error::ForbiddenAddress(why)) => format!("forbidden-address {why}"),
        Err(Error::Timeout) => "timeout".to_owned(),
    }
}

fn step(words: &[String]) -> Result<String, Error> {
    let word = |n: usize| words.get(n).map(String::as_str).unwrap_or_default();
    let number = |n: usize| word(n).parse::<usize>().unwrap_or(0);
    match word(0) {
        "get" => Ok(kv::get(word(1))?.map_or_else(|| "none".to_owned(), |v| String::from_utf8_lossy(&v).into_owned())),
        "set" => kv::set(word(1), word(2).as_bytes()).map(|()| String::new()),
        // A value of so many bytes.
        "fill" => kv::set(word(1), &vec![b'x'; number(2)]).map(|()| String::new()),
        // So many keys of one byte each.
        "flood" => {
            for n in 0..number(1) {
                kv::set(&format!("flood{n}"), b"x")?;
            }
            Ok(String::new())
        }
        "raw" => kv::set(word(1), &[0xff, 0x00]).map(|()| String::new()),
        "delete" => Ok(kv::delete(word(1))?.to_string()),
        "keys" => Ok(kv::list_keys(word(1))?.join(" ")),
        "number" => Ok(kv::list_keys(word(1))?.len().to_string()),
        "count" => Ok(count()?.to_string()),
        "now" => Ok(clock::now_ms()?.to_string()),
        "mono" => Ok(clock::monotonic_ns()?.to_string()),
        "random" => Ok(random::bytes(u32::try_from(number(1)).unwrap_or(u32::MAX))?.iter().map(|b| format!("{b:02x}")).collect()),
        "env" => Ok(env::get(word(1))?.unwrap_or_else(|| "none".to_owned())),
        "secret" => secret::get(word(1)),
        "log" => {
            beadle_plugin::log::write(beadle_plugin::log::Level::Info, &secret::get(word(1))?);
            Ok(String::new())
        }
        "keep-secret" => kv::set(word(2), secret::get(word(1))?.as_bytes()).map(|()| String::new()),
        "read" => Ok(String::from_utf8_lossy(&fs::read(word(1))?).into_owned()),
        // The length alone.
        "size" => Ok(fs::read(word(1))?.len().to_string()),
        "write" => fs::write(word(1), word(2).as_bytes()).map(|()| String::new()),
        "bulk" => fs::write(word(1), &vec![b'x'; number(2)]).map(|()| String::new()),
        "list" => Ok(fs::list_entries(word(1))?.into_iter().map(|e| format!("{}:{:?}", e.name, e.kind)).collect::<Vec<_>>().join(" ")),
        "http" => {
            let request = http::Request { method: word(1).to_owned(), body: word(3).as_bytes().to_vec(), ..http::Request::get(word(2)) };
            let r = request.send()?;
            Ok(format!("{} {}", r.status, String::from_utf8_lossy(&r.body[..r.body.len().min(64)])))
        }
        "trap" => panic!("as told"),
        "spin" => loop {
            core::hint::black_box(&GLOBAL);
        },
        other => Err(Error::Unavailable(format!("there is no step {other:?}"))),
    }
}

/// Posts batches to the `url` of its configuration, with the secret `token` as the bearer.
pub struct Ships(String);

impl Sink for Ships {
    fn describe() -> Description {
        let mut d = Description::new("ships", "0.1.0", "Posts events to a receiver.");
        let want = |capability: &str| Want { capability: capability.to_owned(), reason: "to reach its receiver".to_owned() };
        d.wants.extend(["http:POST:*", "secret:token"].map(want));
        d
    }

    fn configure(config: &str) -> Result<Self, String> {
        let config: Value = serde_json::from_str(config).map_err(|e| e.to_string())?;
        config["url"].as_str().map(|u| Self(u.to_owned())).ok_or_else(|| "needs a url".to_owned())
    }

    fn write(&self, batch: &Batch) -> Outcome {
        match self.post(batch) {
            Ok(status) if status / 100 == 2 => Outcome::Accepted(batch.events.len() as u32),
            Ok(_) => Outcome::RetryAfter(100),
            Err(_) => Outcome::Accepted(0),
        }
    }
}

impl Ships {
    fn post(&self, batch: &Batch) -> Result<u16, Error> {
        let one = |e: &beadle_plugin::Event| {
            let body: Value = serde_json::from_str(&e.body).unwrap_or_default();
            serde_json::json!({ "data": { "session": e.session, "seq": e.seq, "kind": e.kind, "hash": e.hash, "body": body } })
        };
        let events: Vec<Value> = batch.events.iter().map(one).collect();
        let bearer = format!("Bearer {}", secret::get("token")?);
        Ok(http::Request::post(&self.0, Value::from(events).to_string()).with("authorization", bearer).send()?.status)
    }
}

/// Gives a crate a policy of this kind with these wants.
#[macro_export]
macro_rules! capable {
    ($wants:expr) => {
        struct Capable(String);

        impl beadle_plugin::Policy for Capable {
            fn describe() -> beadle_plugin::Description {
                let mut d = beadle_plugin::Description::new("capable", "0.1.0", "Uses capabilities as the call tells it.");
                let wants: &[&str] = &$wants;
                d.wants.extend(wants.iter().map(|w| beadle_plugin::Want { capability: (*w).to_owned(), reason: "the tests".to_owned() }));
                d
            }

            fn configure(config: &str) -> Result<Self, String> {
                Ok(Self(config.to_owned()))
            }

            fn decide(&self, _session: &beadle_plugin::Session, call: &beadle_plugin::Call) -> beadle_plugin::Decision {
                $crate::decide(&self.0, call)
            }
        }

        beadle_plugin::export_policy!(Capable);
    };
}
