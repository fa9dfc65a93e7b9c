//! A policy that misbehaves in the way its configuration names, a plain word. For tests of the plugin engine only.
//!
//! `loop`, `slow`, `trap`, `memory`, `recursion`, `big-reason`, `big-rule`, `big-input`, `not-json`, `not-object`, `rewrite`,
//! `flood-log`, `count`, `spin-input`; with `configure-` before `loop`, `trap` and `memory` it happens at load; `refuse` is
//! refused; `allow` behaves. On `wasm32-wasip2` also `print`, `sleep`, `environment`, `connect`, `clock`,
//! `random`, `http`, `handles`, `poll-far`, `input`, `print-flood`, `exit`, `listen`, `datagram`, `resolve`.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use beadle_plugin::{Call, Decision, Description, Policy, Session, export_policy, log};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// The policy; holds its way to misbehave.
pub struct Hostile(String);

impl Policy for Hostile {
    fn describe() -> Description {
        Description::new("hostile", "0.0.1", "Misbehaves on demand.").wanting("kv", "to see that nothing is granted")
    }

    fn configure(config: &str) -> Result<Self, String> {
        // As JSON of a host's configuration, `{"way":"loop"}`, or the bare word.
        let way = match config.split_once("\"way\":\"") {
            Some((_, rest)) => rest.split('"').next().unwrap_or_default(),
            None => config.trim_matches(['"', '{', '}']),
        };
        match way {
            "refuse" => return Err("key `way` is \"refuse\"; expected \"any \\ other\"\nword".to_owned()),
            "configure-loop" => endless(),
            "configure-trap" => panic!("asked to"),
            "configure-memory" => hoard(),
            _ => {}
        }
        COUNT.fetch_add(1, Ordering::Relaxed);
        Ok(Self(way.to_owned()))
    }

    fn decide(&self, session: &Session, call: &Call) -> Decision {
        match self.0.as_str() {
            "loop" => endless(),
            "slow" => {
                for _ in 0..20_000_000 {
                    black_box(COUNT.fetch_add(1, Ordering::Relaxed));
                }
                Decision::allow()
            }
            // Only for calls that say so: the others are served.
            "spin-input" if call.input.contains("spin") => endless(),
            "trap" => panic!("asked to"),
            "memory" => hoard(),
            "recursion" => Decision::deny(dive(call.at_ms).to_string()),
            "big-reason" => Decision::deny("r".repeat(4097)),
            "big-rule" => Decision::deny("x").because("r".repeat(1025)),
            "big-input" => Decision::allow().with_input(format!("{{\"a\":\"{}\"}}", "x".repeat(1 << 20))),
            "not-json" => Decision::allow().with_input("{"),
            "not-object" => Decision::allow().with_input("[]"),
            "rewrite" => Decision::allow().with_input(r#"{"command":"true"}"#),
            "flood-log" => {
                for _ in 0..100_000 {
                    log::write(log::Level::Warn, &"spam\u{1b}[31m ".repeat(1000));
                }
                Decision::allow()
            }
            "count" => Decision::new(beadle_plugin::Effect::Allow, COUNT.fetch_add(1, Ordering::Relaxed).to_string()),
            "echo" => Decision::deny(format!("{session:?} {call:?}")),
            #[cfg(target_env = "p2")]
            way => wasi(way),
            #[cfg(not(target_env = "p2"))]
            _ => Decision::allow(),
        }
    }
}

export_policy!(Hostile);

fn endless() -> ! {
    loop {
        black_box(COUNT.fetch_add(1, Ordering::Relaxed));
    }
}

fn hoard() -> ! {
    let mut all = Vec::new();
    loop {
        all.push(black_box(vec![1u8; 1 << 20]));
    }
}

fn dive(n: u64) -> u64 {
    let page = black_box([n; 64]);
    if n == u64::MAX { 0 } else { dive(n + 1) + page[63] }
}

/// What a language runtime may do with WASI, reported as the reason.
#[cfg(target_env = "p2")]
fn wasi(way: &str) -> Decision {
    use std::time::{Duration, Instant, SystemTime};
    let said = match way {
        "print" => {
            println!("to standard output");
            eprintln!("to standard error");
            String::new()
        }
        "sleep" => {
            let start = Instant::now();
            std::thread::sleep(Duration::from_secs(3600));
            format!("{:?}", start.elapsed())
        }
        "environment" => format!(
            "{:?} {:?} {:?}",
            std::env::args().collect::<Vec<_>>(),
            std::env::vars().collect::<Vec<_>>(),
            std::fs::read_dir("/").map(|_| ())
        ),
        "connect" => format!("{:?}", std::net::TcpStream::connect("127.0.0.1:1").map(|_| ())),
        "clock" => format!("{}", SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()),
        "http" => {
            let request = http::wasi::http::outgoing::Request::new();
            drop(request.subscribe());
            format!("{:?}", http::wasi::http::outgoing::send(request))
        }
        "handles" => {
            for n in 0u64.. {
                std::mem::forget(http::wasi::clocks::monotonic_clock::subscribe_duration(n));
            }
            String::new()
        }
        "poll-far" => {
            // A hundred years ahead, ten thousand times.
            for _ in 0..10_000 {
                http::wasi::clocks::monotonic_clock::subscribe_duration(100 * 365 * 86_400 * 1_000_000_000).block();
            }
            "woke".to_owned()
        }
        "input" => {
            let mut line = String::new();
            format!("{:?} {line:?}", std::io::stdin().read_line(&mut line))
        }
        "print-flood" => {
            (0..100_000).for_each(|_| println!("{}", "spam ".repeat(500)));
            String::new()
        }
        "exit" => std::process::exit(0),
        "listen" => format!("{:?}", std::net::TcpListener::bind("127.0.0.1:0").map(|_| ())),
        "datagram" => format!("{:?}", std::net::UdpSocket::bind("127.0.0.1:0").map(|_| ())),
        "resolve" => {
            use std::net::ToSocketAddrs;
            format!("{:?}", ("localhost", 80).to_socket_addrs().map(|_| ()))
        }
        "random" => {
            use std::hash::{BuildHasher, RandomState};
            RandomState::new().hash_one(1).to_string()
        }
        _ => String::new(),
    };
    Decision::new(beadle_plugin::Effect::Allow, said)
}

/// A part of WASI that the host does not have; shaped like HTTP, whose messages can be waited for by `wasi:io`.
#[cfg(target_env = "p2")]
mod http {
    wit_bindgen::generate!({
        inline: "
            package test:http;
            world client { import wasi:http/outgoing@0.2.6; import wasi:clocks/monotonic-clock@0.2.6; }
            package wasi:io@0.2.6 {
                interface poll {
                    resource pollable { ready: func() -> bool; block: func(); }
                    poll: func(in: list<borrow<pollable>>) -> list<u32>;
                }
            }
            package wasi:clocks@0.2.6 {
                interface monotonic-clock {
                    use wasi:io/poll@0.2.6.{pollable};
                    type instant = u64;
                    type duration = u64;
                    now: func() -> instant;
                    resolution: func() -> duration;
                    subscribe-instant: func(when: instant) -> pollable;
                    subscribe-duration: func(when: duration) -> pollable;
                }
            }
            package wasi:http@0.2.6 {
                interface outgoing {
                    use wasi:io/poll@0.2.6.{pollable};
                    resource request { constructor(); subscribe: func() -> pollable; }
                    send: func(r: request) -> result<_, string>;
                }
            }
        ",
        generate_all,
    });
}
