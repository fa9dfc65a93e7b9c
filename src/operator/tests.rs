use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::model::{Actor, KeyDerivation, OsEntropy};
use crate::store::{OperatorKeyRemoved, Options};

/// A boot clock that stands still until it is moved.
#[derive(Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn wall_ms(&self) -> i64 {
        0
    }

    fn boot_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

struct House {
    _dir: tempfile::TempDir,
    store: Store,
    clock: Arc<Hand>,
    operators: Operators,
    peer: Peer,
    _link: (UnixStream, UnixStream),
}

async fn house(confirm: Confirm) -> House {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Options::default()).unwrap();
    let clock = Arc::new(Hand::default());
    let operators = Operators::load(confirm, store.clone(), clock.clone(), Arc::new(OsEntropy)).await.unwrap();
    let link = UnixStream::pair().unwrap();
    let peer = Peer::of(&link.0).unwrap();
    House { _dir: dir, store, clock, operators, peer, _link: link }
}

fn secret(passphrase: &str) -> (key::Secret, KeyDerivation) {
    let derivation = KeyDerivation { salt: "00".repeat(16), memory_kib: 19 << 10, passes: 2, lanes: 1 };
    (key::derive(passphrase.as_bytes(), &derivation).unwrap(), derivation)
}

fn record(name: &str, passphrase: &str) -> OperatorKey {
    let (secret, derivation) = secret(passphrase);
    OperatorKey { name: name.into(), derivation, public: secret.public(), added_at: 0, by: Actor::host() }
}

impl House {
    fn ask(&self, subject: &Subject) -> Challenge {
        match self.operators.check(Need::Configured, &self.peer, &[], subject, None) {
            Err(Error::Challenge(c)) => *c,
            other => panic!("{other:?}"),
        }
    }

    fn answer(&self, subject: &Subject, answer: &str) -> Result<Proof> {
        self.operators.check(Need::Configured, &self.peer, &[], subject, Some(answer))
    }
}

#[tokio::test]
async fn a_signature_is_taken_once_in_time_and_for_its_subject() {
    let h = house(Confirm::Key).await;
    let subject = Subject::new("approve a call").with("approval", "s:1");
    assert!(matches!(h.answer(&subject, "x"), Err(Error::NoKeys)));
    h.operators.add(record("alice", "correct horse battery"), true).await.unwrap();
    let (alice, _) = secret("correct horse battery");
    let (mallory, _) = secret("another passphrase");

    let c = h.ask(&subject);
    let good = format!("{}:key:alice:{}", c.id, alice.sign(&c.id, &subject));
    assert_eq!(
        h.answer(&subject, &good).unwrap(),
        Proof { name: Some("alice".into()), via: Some("key:alice".into()), key: Some(alice.public()) }
    );
    assert!(matches!(h.answer(&subject, &good), Err(Error::NotOpen(_))), "a replay");

    let c = h.ask(&subject);
    let other = Subject::new("approve a call").with("approval", "s:2");
    let good = format!("{}:key:alice:{}", c.id, alice.sign(&c.id, &subject));
    assert!(matches!(h.answer(&other, &good), Err(Error::OtherSubject { .. })));
    assert!(matches!(h.answer(&subject, &good), Err(Error::NotOpen(_))), "a wrong use spends it");

    let c = h.ask(&subject);
    h.clock.0.fetch_add(CHALLENGE_MS, Ordering::SeqCst);
    assert!(matches!(h.answer(&subject, &format!("{}:key:alice:{}", c.id, alice.sign(&c.id, &subject))), Err(Error::NotOpen(_))));

    let c = h.ask(&subject);
    assert!(matches!(h.answer(&subject, &format!("{}:key:bob:00", c.id)), Err(Error::NoKey(_))));
    let c = h.ask(&subject);
    assert!(matches!(h.answer(&subject, &format!("{}:code:000000", c.id)), Err(Error::Form)));
    for _ in 0..4 {
        let c = h.ask(&subject);
        assert!(matches!(
            h.answer(&subject, &format!("{}:key:alice:{}", c.id, mallory.sign(&c.id, &subject))),
            Err(Error::WrongSignature(_))
        ));
    }
    let c = h.ask(&subject);
    let good = format!("{}:key:alice:{}", c.id, alice.sign(&c.id, &subject));
    assert!(matches!(h.answer(&subject, &good), Err(Error::TooSoon { seconds: 1, .. })));
    h.clock.0.fetch_add(1000, Ordering::SeqCst);
    let c = h.ask(&subject);
    assert!(h.answer(&subject, &format!("{}:key:alice:{}", c.id, alice.sign(&c.id, &subject))).is_ok());
}

#[tokio::test]
async fn nothing_is_asked_for_where_nothing_is_configured_but_keys_guard_keys() {
    let h = house(Confirm::None).await;
    let subject = Subject::new("x");
    assert_eq!(h.answer(&subject, "anything").unwrap(), Proof::default());
    // A first key needs a terminal: this test has none that a daemon could ask on.
    assert!(matches!(h.operators.check(Need::Keys, &h.peer, &[], &subject, None), Err(Error::Process(_))));
    h.operators.add(record("alice", "correct horse battery"), true).await.unwrap();
    assert!(matches!(h.operators.add(record("bob", "a second passphrase"), true).await, Err(Error::NotOpen(_))), "only one is the first");
    assert!(matches!(h.operators.add(record("alice", "a second passphrase"), false).await, Err(Error::KeyTaken(_))));
    assert!(matches!(h.operators.add(record("a:b", "a second passphrase"), false).await, Err(Error::KeyName(_))));
    assert!(
        matches!(h.operators.check(Need::Keys, &h.peer, &[], &subject, None), Err(Error::Challenge(c)) if matches!(c.how, How::Key(_)))
    );

    let again = Operators::load(Confirm::Key, h.store.clone(), h.clock.clone(), Arc::new(OsEntropy)).await.unwrap();
    assert_eq!(again.keys(), h.operators.keys());
    again.remove(OperatorKeyRemoved { name: "alice".into(), by: Actor::host() }).await.unwrap();
    let kinds: Vec<String> = h.store.host_entries(1, 100).unwrap().iter().map(|e| e.event.kind().to_owned()).collect();
    assert_eq!(kinds, ["opened", "operator_key_added", "confirm_changed", "operator_key_removed"]);
}

#[tokio::test]
async fn open_challenges_have_a_cap_and_the_oldest_goes() {
    let h = house(Confirm::Key).await;
    h.operators.add(record("alice", "correct horse battery"), true).await.unwrap();
    let (alice, _) = secret("correct horse battery");
    let subject = Subject::new("x");
    let first = h.ask(&subject);
    let second = h.ask(&subject);
    for _ in 0..CHALLENGES_MAX - 1 {
        h.ask(&subject);
    }
    assert_eq!(lock(&h.operators.open).len(), CHALLENGES_MAX);
    assert!(matches!(h.answer(&subject, &format!("{}:key:alice:{}", first.id, alice.sign(&first.id, &subject))), Err(Error::NotOpen(_))));
    assert!(h.answer(&subject, &format!("{}:key:alice:{}", second.id, alice.sign(&second.id, &subject))).is_ok());
}

#[test]
fn what_stands_on_the_screen_cannot_act_on_it() {
    let subject = Subject::new("approve a call").with("command", format!("echo \x1b[2J\n{}", "x".repeat(1000)));
    let text = on_screen(&subject, "123456");
    assert!(!text.replace("\r\n", "").chars().any(char::is_control), "{text:?}");
    assert!(text.contains("123456") && text.len() < 700, "{text}");
    assert!(same(b"12", b"12") && !same(b"12", b"13") && !same(b"12", b"123"));
}
