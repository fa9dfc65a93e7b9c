//! Confirmations: the code that the daemon writes on the terminal, or a signature by a key that a passphrase gives.
//!
//! - a passphrase is read without echo, or from the descriptor named by `BEADLE_PASSPHRASE_FD`; never from an argument or a variable;
//! - once a passphrase is in this process, no other process of the same user may read its memory;
//! - what is signed is what the daemon says it will do, shown before the passphrase is asked for.
//!
//! Called by every verb that may loosen something.

use std::io::Read;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use zeroize::Zeroizing;

use super::Context;
use super::ask::Terminal;
use super::exit::{Coded, Exit, UsageError};
use super::printer::Tone;
use super::text::{brief, safe};
use crate::api::client::{self, Client};
use crate::api::types::{ChallengeDoc, OperatorKeyDoc};
use crate::model::KeyDerivation;
use crate::operator::key::{self, PASSPHRASE_MAX, Secret};

/// Names the descriptor that passphrases are read from, one a line.
const DESCRIPTOR: &str = "BEADLE_PASSPHRASE_FD";
/// Names whose key signs, where there are several.
const OPERATOR: &str = "BEADLE_OPERATOR";
/// Characters of a value that are shown.
const SHOWN: usize = 400;

/// Sends a request; where the daemon wants a confirmation first, gets it from the person and sends the request again.
///
/// `terminal` is one that is read already: two readers would share out what is typed.
pub async fn confirmed<T>(
    cx: &mut Context,
    terminal: Option<&mut Terminal>,
    send: impl AsyncFn(&Client) -> Result<T, client::Error>,
) -> anyhow::Result<T> {
    let client = cx.client()?;
    match send(&client).await {
        Err(client::Error::Confirm(challenge)) => {
            let answer = answer(cx, terminal, &challenge).await?;
            Ok(send(&client.with_answer(answer)).await?)
        }
        other => Ok(other?),
    }
}

/// The answer to a challenge, from whoever sits here.
async fn answer(cx: &mut Context, terminal: Option<&mut Terminal>, c: &ChallengeDoc) -> anyhow::Result<String> {
    let mut opened = None;
    let mut terminal = match terminal {
        Some(t) => Some(t),
        None => {
            opened = Terminal::open();
            opened.as_mut()
        }
    };
    let answer = if c.keys.is_empty() {
        let terminal = terminal.as_mut().ok_or_else(no_terminal)?;
        terminal.forget();
        let on = c.terminal.as_deref().unwrap_or("the terminal");
        cx.printer.notice(Tone::Question, &format!("type the code that stands on {}:", safe(on)))?;
        let line = terminal.line().await.ok_or_else(no_terminal)?;
        format!("{}:code:{}", c.challenge, line.trim())
    } else {
        cx.printer.notice(Tone::Question, &format!("{}:", safe(&c.subject.action)))?;
        for (name, value) in &c.subject.fields {
            cx.printer.notice(Tone::Plain, &format!("  {}: {}", safe(name), brief(value, SHOWN)))?;
        }
        let signer = signer(cx, &mut terminal, &c.keys).await?;
        let what = format!("passphrase of {}:", safe(&signer.name));
        let passphrase = passphrase(cx, &mut terminal, &what).await?;
        let secret = derived(&passphrase, &signer.derivation)?;
        format!("{}:key:{}:{}", c.challenge, signer.name, secret.sign(&c.challenge, &c.subject))
    };
    drop(opened);
    Ok(answer)
}

async fn signer<'a>(
    cx: &mut Context,
    terminal: &mut Option<&mut Terminal>,
    keys: &'a [OperatorKeyDoc],
) -> anyhow::Result<&'a OperatorKeyDoc> {
    let names = || keys.iter().map(|k| safe(&k.name)).collect::<Vec<_>>().join(", ");
    let named = |name: &str| keys.iter().find(|k| k.name == name);
    let unknown = |name: &str| UsageError(format!("there is no operator key {}; there are {}", safe(name), names()));
    if let Ok(name) = std::env::var(OPERATOR) {
        return Ok(named(&name).ok_or_else(|| unknown(&name))?);
    }
    if let [only] = keys {
        return Ok(only);
    }
    let terminal =
        terminal.as_mut().ok_or_else(|| UsageError(format!("there are several keys ({}); name yours in {OPERATOR}", names())))?;
    terminal.forget();
    cx.printer.notice(Tone::Question, &format!("whose key? {}:", names()))?;
    let name = terminal.line().await.ok_or_else(no_terminal)?;
    Ok(named(name.trim()).ok_or_else(|| unknown(name.trim()))?)
}

/// A passphrase from the descriptor, else from the terminal.
async fn passphrase(cx: &mut Context, terminal: &mut Option<&mut Terminal>, what: &str) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    // why: another process of this user must not look for it in our memory; failing that, it is asked for all the same.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if let Some(fd) = std::env::var_os(DESCRIPTOR) {
        return from_descriptor(fd.to_str().and_then(|t| t.parse().ok()));
    }
    let terminal = terminal.as_mut().ok_or_else(no_terminal)?;
    let hidden = terminal.hide().ok_or_else(no_terminal)?;
    cx.printer.notice(Tone::Question, what)?;
    let line = terminal.line_or_interrupt().await;
    drop(hidden);
    // The end of the line was not shown either.
    cx.printer.notice(Tone::Plain, "")?;
    let line = line.ok_or_else(|| UsageError("no passphrase was typed".into()))?;
    Ok(Zeroizing::new(line.into_bytes()))
}

/// Up to the end of the line, byte by byte: what follows is the next passphrase.
fn from_descriptor(fd: Option<i32>) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let bad = |why: &str| UsageError(format!("{DESCRIPTOR}: {why}; give the number of a descriptor that is open for reading, as in 3"));
    let fd = fd.filter(|n| *n >= 0).ok_or_else(|| bad("not a number"))?;
    // SAFETY: the caller named this descriptor for us; it is only borrowed, so it is never closed here. A number that is not open makes the read fail.
    let mut file = ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(fd) });
    let mut out = Zeroizing::new(Vec::with_capacity(PASSPHRASE_MAX + 1));
    let mut byte = [0u8; 1];
    while out.len() <= PASSPHRASE_MAX && file.read(&mut byte).map_err(|e| bad(&e.to_string()))? == 1 && byte[0] != b'\n' {
        out.push(byte[0]);
    }
    Ok(out)
}

/// A new key's passphrase: typed twice at a terminal, which is given back for what is asked next.
pub async fn new_key(cx: &mut Context, name: &str, derivation: &KeyDerivation) -> anyhow::Result<(Secret, Option<Terminal>)> {
    let mut opened = if std::env::var_os(DESCRIPTOR).is_some() { None } else { Some(Terminal::open().ok_or_else(no_terminal)?) };
    let mut terminal = opened.as_mut();
    let what = format!("a new passphrase for {}, at least {} bytes:", safe(name), key::PASSPHRASE_MIN);
    let first = passphrase(cx, &mut terminal, &what).await?;
    if terminal.is_some() {
        let again = passphrase(cx, &mut terminal, "the same again:").await?;
        if *first != *again {
            return Err(UsageError("the two passphrases differ; nothing was added".into()).into());
        }
    }
    Ok((derived(&first, derivation)?, opened))
}

fn derived(passphrase: &[u8], derivation: &KeyDerivation) -> anyhow::Result<Secret> {
    Ok(key::derive(passphrase, derivation).map_err(|e| Coded { exit: Exit::Usage, code: e.code().to_owned(), message: e.to_string() })?)
}

fn no_terminal() -> UsageError {
    UsageError(format!("there is no terminal to ask on; run this at one (or give the passphrase on a descriptor named by {DESCRIPTOR})"))
}
