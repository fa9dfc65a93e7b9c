//! Operators: what must prove that a person loosens something, and the proving.
//!
//! The role `operator` says only that a process belongs to no session. A program that left a session's tree (cron, docker,
//! systemd-run) has it too. So what widens rights can be made to need more: a code typed at a terminal, or a signature.
//!
//! Invariants:
//! - a challenge is for one subject, is answered once, right or wrong, and lives 60 s of the boot clock;
//! - a code is written on the terminal's screen by the daemon itself, with what it is for; whoever asked never reads it from us;
//! - a code holds for the process, terminal and terminal session that it was made for; a signature for its key's name only;
//! - what cannot be established is a refusal; nothing here is needed to deny, stop or tighten.
//!
//! Caps: 256 open challenges, 32 keys, 1,000 remembered names of wrong answers.
//!
//! Called by `api` (checks); `cli` derives keys with [`key`].

pub mod key;
mod keys;
mod throttle;

use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Confirm;
use crate::model::{Clock, Entropy, OperatorKey, Subject, printable};
use crate::process::{self, Peer, ProcessId, Terminal};
use crate::store::Store;
use throttle::Throttle;

pub use keys::KEYS_MAX;

/// How long a challenge may be answered, in milliseconds.
pub const CHALLENGE_MS: u64 = 60_000;
/// Most challenges that wait for their answer; the oldest goes first.
const CHALLENGES_MAX: usize = 256;
/// Most characters of one value on the screen.
const SHOWN_MAX: usize = 400;

/// Why something is not done. Codes are stable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this needs a confirmation: {}", .0.subject.action)]
    Challenge(Box<Challenge>),
    #[error("the answer is not of the form <challenge>:code:<digits> or <challenge>:key:<name>:<signature>; use the command line")]
    Form,
    #[error("challenge {0} is not open: it was answered, is over 60 s old, or never was; ask again")]
    NotOpen(String),
    #[error("the answer belongs to another request: it was given for {asked:?}; ask again")]
    OtherSubject { asked: String },
    #[error("the code was made for another terminal or process; ask again")]
    OtherTerminal,
    #[error("the code is wrong; ask again")]
    WrongCode,
    #[error("the signature of key {0} is wrong, as with a wrong passphrase; ask again")]
    WrongSignature(String),
    #[error("too many wrong answers for {who}; wait {seconds} s and ask again")]
    TooSoon { who: String, seconds: u64 },
    #[error("operator.confirm is \"key\" and there is no key; add one at a terminal with `beadle operator key add <name>`")]
    NoKeys,
    #[error("there is no operator key {0:?}; see `beadle operator key ls`")]
    NoKey(String),
    #[error("operator key {0:?} is there already; choose another name, or remove it first")]
    KeyTaken(String),
    #[error("operator key {0:?}: a name is 1 to 64 of a-z A-Z 0-9 - _ .")]
    KeyName(String),
    #[error("the key is not an ed25519 public key in hex, or is a weak one; use `beadle operator key add`")]
    KeyForm,
    #[error("{KEYS_MAX} operator keys are there, the limit; remove one first")]
    TooManyKeys,
    #[error("the salt or the costs of an operator key are out of bounds; add the key again with `beadle operator key add`")]
    Derivation,
    #[error("a passphrase has {min} to {max} bytes", min = key::PASSPHRASE_MIN, max = key::PASSPHRASE_MAX)]
    Passphrase,
    #[error("the stored list of operator keys cannot be read ({0}); run `beadle verify`")]
    Stored(String),
    #[error(transparent)]
    Process(#[from] process::Error),
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Self::Challenge(_) => "BDL-OPERATOR-001",
            Self::Form => "BDL-OPERATOR-002",
            Self::NotOpen(_) => "BDL-OPERATOR-003",
            Self::OtherSubject { .. } => "BDL-OPERATOR-004",
            Self::OtherTerminal => "BDL-OPERATOR-005",
            Self::WrongCode => "BDL-OPERATOR-006",
            Self::WrongSignature(_) => "BDL-OPERATOR-007",
            Self::TooSoon { .. } => "BDL-OPERATOR-008",
            Self::NoKeys => "BDL-OPERATOR-009",
            Self::NoKey(_) => "BDL-OPERATOR-010",
            Self::KeyTaken(_) => "BDL-OPERATOR-011",
            Self::KeyName(_) => "BDL-OPERATOR-012",
            Self::KeyForm => "BDL-OPERATOR-013",
            Self::TooManyKeys => "BDL-OPERATOR-014",
            Self::Derivation => "BDL-OPERATOR-015",
            Self::Passphrase => "BDL-OPERATOR-016",
            Self::Stored(_) => "BDL-OPERATOR-017",
            Self::Process(e) => e.code(),
            Self::Store(e) => e.code(),
        }
    }
}

/// What is asked of a person before something is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Challenge {
    pub id: String,
    pub subject: Subject,
    pub expires_in_ms: u64,
    pub how: How,
}

#[derive(Debug, Clone, PartialEq)]
pub enum How {
    /// Type the code that stands on this terminal.
    Terminal(Terminal),
    /// Sign with one of these keys.
    Key(Vec<OperatorKey>),
}

/// How strict one request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// As `operator.confirm` says.
    Configured,
    /// A signature where there are keys, else a terminal: for the keys themselves.
    Keys,
}

/// What was proved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proof {
    /// Of the key's owner.
    pub name: Option<String>,
    /// `tty:/dev/pts/3` or `key:alice`; `None` where nothing had to be proved.
    pub via: Option<String>,
    /// The public key that signed (hex).
    pub key: Option<String>,
}

struct Open {
    id: String,
    digest: [u8; 32],
    action: String,
    expires_ms: u64,
    wants: Wants,
}

enum Wants {
    Code { code: String, terminal: Terminal },
    Signature,
}

/// Open challenges and keys. One a daemon.
pub struct Operators {
    confirm: Confirm,
    store: Store,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    open: Mutex<Vec<Open>>,
    keys: Mutex<Vec<OperatorKey>>,
    throttle: Mutex<Throttle>,
    /// Held over a change of the keys, whose record is written before they count.
    changing: tokio::sync::Mutex<()>,
}

impl Operators {
    /// Reads the keys, and writes down when `operator.confirm` is another than at the start before.
    pub async fn load(confirm: Confirm, store: Store, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Result<Self> {
        let keys = keys::stored(&store)?;
        keys::note_confirm(&store, confirm).await?;
        Ok(Self {
            confirm,
            store,
            clock,
            entropy,
            open: Mutex::new(vec![]),
            keys: Mutex::new(keys),
            throttle: Mutex::new(Throttle::default()),
            changing: tokio::sync::Mutex::new(()),
        })
    }

    pub fn confirm(&self) -> Confirm {
        self.confirm
    }

    /// Lets a request through, or says what is to be proved first. Blocks: looks at processes and writes on a terminal.
    ///
    /// `answer` is what the peer gave for an earlier challenge: `<challenge>:code:<digits>` or `<challenge>:key:<name>:<signature>`.
    pub fn check(&self, need: Need, peer: &Peer, shims: &[ProcessId], subject: &Subject, answer: Option<&str>) -> Result<Proof> {
        let keys = lock(&self.keys).clone();
        let by_key = match (need, self.confirm) {
            (Need::Configured, Confirm::None) => return Ok(Proof::default()),
            (Need::Configured, Confirm::Key) if keys.is_empty() => return Err(Error::NoKeys),
            (Need::Configured, Confirm::Key) => true,
            (Need::Configured, Confirm::Tty) => false,
            (Need::Keys, _) => !keys.is_empty(),
        };
        match answer {
            Some(answer) => self.judge(answer, peer, shims, subject, by_key, &keys),
            None => Err(Error::Challenge(Box::new(self.challenge(peer, shims, subject, by_key, keys)?))),
        }
    }

    fn challenge(&self, peer: &Peer, shims: &[ProcessId], subject: &Subject, by_key: bool, keys: Vec<OperatorKey>) -> Result<Challenge> {
        let mut nonce = [0u8; 32];
        self.entropy.fill(&mut nonce);
        let id = key::hex(&nonce);
        let (how, wants) = if by_key {
            (How::Key(keys), Wants::Signature)
        } else {
            let terminal = process::terminal_of(peer, shims)?;
            self.in_time(&name_of(&terminal))?;
            let code = self.code();
            terminal.write(&on_screen(subject, &code))?;
            (How::Terminal(terminal.clone()), Wants::Code { code, terminal })
        };
        let now = self.clock.boot_ms();
        let mut open = lock(&self.open);
        open.retain(|o| o.expires_ms > now);
        if open.len() >= CHALLENGES_MAX {
            open.remove(0);
        }
        let (digest, action) = (subject.digest(), subject.action.clone());
        open.push(Open { id: id.clone(), digest, action, expires_ms: now + CHALLENGE_MS, wants });
        Ok(Challenge { id, subject: subject.clone(), expires_in_ms: CHALLENGE_MS, how })
    }

    fn judge(
        &self,
        answer: &str,
        peer: &Peer,
        shims: &[ProcessId],
        subject: &Subject,
        by_key: bool,
        keys: &[OperatorKey],
    ) -> Result<Proof> {
        let parts: Vec<&str> = answer.splitn(4, ':').collect();
        let id = *parts.first().ok_or(Error::Form)?;
        let open = {
            let mut all = lock(&self.open);
            let at = all.iter().position(|o| o.id == id);
            // why removed before it is judged: one answer, right or wrong.
            at.map(|i| all.remove(i)).filter(|o| o.expires_ms > self.clock.boot_ms())
        };
        let open = open.ok_or_else(|| Error::NotOpen(printable(&id.chars().take(16).collect::<String>())))?;
        if open.digest != subject.digest() {
            return Err(Error::OtherSubject { asked: open.action });
        }
        match (&open.wants, parts.as_slice()) {
            (Wants::Code { code, terminal }, [_, "code", given]) if !by_key => {
                let who = name_of(terminal);
                self.in_time(&who)?;
                if process::terminal_of(peer, shims)? != *terminal {
                    return Err(Error::OtherTerminal);
                }
                if !same(code.as_bytes(), given.trim().as_bytes()) {
                    lock(&self.throttle).wrong(&who, self.clock.boot_ms());
                    return Err(Error::WrongCode);
                }
                lock(&self.throttle).right(&who);
                Ok(Proof { name: None, via: Some(who), key: None })
            }
            (Wants::Signature, [_, "key", name, signature]) if by_key => {
                let key = keys.iter().find(|k| k.name == *name).ok_or_else(|| Error::NoKey(name.chars().take(80).collect()))?;
                let who = format!("key:{name}");
                self.in_time(&who)?;
                if !key::is_signed(key, &open.id, subject, signature) {
                    lock(&self.throttle).wrong(&who, self.clock.boot_ms());
                    return Err(Error::WrongSignature(key.name.clone()));
                }
                lock(&self.throttle).right(&who);
                Ok(Proof { name: Some(key.name.clone()), via: Some(who), key: Some(key.public.clone()) })
            }
            _ => Err(Error::Form),
        }
    }

    fn in_time(&self, who: &str) -> Result<()> {
        match lock(&self.throttle).wait_ms(who, self.clock.boot_ms()) {
            0 => Ok(()),
            ms => Err(Error::TooSoon { who: who.to_owned(), seconds: ms.div_ceil(1000) }),
        }
    }

    /// Six digits, each equally likely.
    fn code(&self) -> String {
        const RANGE: u32 = 1_000_000;
        loop {
            let mut bytes = [0u8; 4];
            self.entropy.fill(&mut bytes);
            let n = u32::from_le_bytes(bytes);
            // why again: the rest above the last whole range would favour small codes.
            if n < u32::MAX - u32::MAX % RANGE {
                return format!("{:06}", n % RANGE);
            }
        }
    }
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // why: what is held is whole after every statement; refusing all confirmations would be worse.
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name_of(t: &Terminal) -> String {
    format!("tty:{}", t.path.display())
}

/// What the daemon writes on the terminal.
fn on_screen(subject: &Subject, code: &str) -> String {
    let mut out = format!("\r\nbeadle: {}\r\n", printable(&subject.action));
    for (name, value) in &subject.fields {
        let shown = printable(value);
        let cut: String = shown.chars().take(SHOWN_MAX).collect();
        let mark = if cut.len() < shown.len() { "…" } else { "" };
        out.push_str(&format!("  {}: {cut}{mark}\r\n", printable(name)));
    }
    out.push_str(&format!("  the code for exactly this, good for {} s: {code}\r\n", CHALLENGE_MS / 1000));
    out
}

/// Equality that takes as long wherever the first difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0u8, |d, (x, y)| d | (x ^ y)) == 0
}

#[cfg(test)]
mod tests;
