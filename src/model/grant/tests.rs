//! Grants as words: one canonical form, nothing wider than it says.

use proptest::prelude::*;

use super::*;

fn grants(words: &[&str]) -> Grants {
    Grants::parse(words).unwrap()
}

fn wants(words: &[&str]) -> Wants {
    let (w, unknown) = Wants::parse(words.iter().copied());
    assert!(unknown.is_empty(), "{unknown:?}");
    w
}

fn one(word: &str) -> Grant {
    super::word(word).unwrap().remove(0)
}

#[test]
fn words_have_one_form_and_order() {
    let g = grants(&["http:POST,GET:api.example.com:443", "random", "kv", "http:DELETE:api.example.com", "fs:read:/a/b", "env:HOME", "kv"]);
    assert_eq!(g.words(), ["kv", "random", "env:HOME", "fs:read:/a/b", "http:GET,POST,DELETE:api.example.com"]);
    let json = serde_json::to_string(&g).unwrap();
    assert_eq!(serde_json::from_str::<Grants>(&json).unwrap(), g);
    assert_eq!(Grants::default().words(), Vec::<String>::new());
}

#[test]
fn what_is_no_grant_is_refused_with_its_word_and_the_next_step() {
    for w in [
        "",
        "kv:",
        "KV",
        "net",
        "env",
        "env:",
        "env:1A",
        "env:A B",
        "env:*",
        "secret:",
        "secret:a/b",
        "secret:..",
        "fs:read",
        "fs:read:",
        "fs:read:a",
        "fs:read:/",
        "fs:read:/a/../b",
        "fs:read:/a//b",
        "fs:read:/a/",
        "fs:exec:/a",
        "fs:read:*",
        "http:GET",
        "http:get:a.b",
        "http::a.b",
        "http:GET:",
        "http:GET:A.b",
        "http:GET:a.b.",
        "http:GET:a b",
        "http:GET:*.com",
        "http:GET:*",
        "http:GET:a.*.b",
        "http:GET:a.b:0",
        "http:GET:a.b:70000",
        "http:GET:a.b:+1",
        "http:GET:a.b:",
        "http:GET:localhost",
        "http:GET:x.localhost",
        "http:GET:2130706433",
        "http:GET:127.1",
        "http:GET:0x7f.1",
        "http:GET:0x7f000001",
        "http:GET:[::ffff:127.0.0.1]",
        "http:GET:169.254.169.254",
        "http:GET:[fe80::1]",
        "http:GET:0.0.0.0:80",
        "http:GET:224.0.0.1",
        "http:GET:[::]:80",
        "http:GET:[fd00:ec2::254]",
        "http:GET:100.100.100.200",
        "http:GET:user@a.b",
        "http:GET:a.b/path",
        "kv\n",
    ] {
        let e = w.parse::<Grants>().expect_err(w);
        let text = e.to_string();
        assert!(text.contains(&format!("{w:?}")) || w.len() > 64, "{w}: {text}");
        assert!(["write", "give", "put", "fs:"].iter().any(|next| text.contains(next)), "{text}");
        assert!(e.code().starts_with("BDL-GRANT-"));
    }
    for w in ["http:GET:127.0.0.1:8080", "http:GET:[::1]:8080", "http:GET:10.0.0.5", "http:GET:a_b.example.com", "http:GET:*.example.com"] {
        assert_eq!(w.parse::<Grants>().unwrap().words(), [w]);
    }
    let many: Vec<String> = (0..=GRANTS_MAX).map(|n| format!("env:A{n}")).collect();
    assert_eq!(Grants::parse(&many), Err(GrantError::TooMany(GRANTS_MAX + 1)));
}

#[test]
fn a_grant_covers_the_same_and_the_narrower_and_nothing_else() {
    for (have, want, covers) in [
        ("kv", "kv", true),
        ("kv", "clock", false),
        ("env:A", "env:A", true),
        ("env:A", "env:AB", false),
        ("fs:read:/a", "fs:read:/a/b/c", true),
        ("fs:read:/a", "fs:read:/ab", false),
        ("fs:read:/a/b", "fs:read:/a", false),
        ("fs:read:/a", "fs:write:/a", false),
        ("fs:write:/a", "fs:read:/a/b", true),
        ("http:GET:a.example.com", "http:GET:a.example.com:443", true),
        ("http:GET:a.example.com", "http:GET:a.example.com:8443", false),
        ("http:GET:a.example.com", "http:POST:a.example.com", false),
        ("http:GET:*.example.com", "http:GET:a.b.example.com", true),
        ("http:GET:*.example.com", "http:GET:*.example.com", true),
        ("http:GET:*.example.com", "http:GET:*.b.example.com", true),
        ("http:GET:*.example.com", "http:GET:example.com", false),
        ("http:GET:*.example.com", "http:GET:badexample.com", false),
        ("http:GET:a.example.com", "http:GET:*.example.com", false),
    ] {
        assert_eq!(grants(&[have]).covers(&one(want)), covers, "{have} {want}");
    }
}

#[test]
fn what_is_missing_unused_and_new_is_named() {
    let w = wants(&["kv", "env:*", "fs:read:*", "http:GET,POST:*"]);
    assert_eq!(grants(&[]).missing(&w).words(), ["kv", "env:*", "fs:read:*", "http:GET,POST:*"]);
    let g = grants(&["kv", "env:A", "fs:write:/x", "http:GET:a.b", "secret:k", "http:PUT:a.b"]);
    assert_eq!(g.missing(&w).words(), ["http:POST:*"]);
    assert_eq!(g.unused(&w).words(), ["secret:k", "fs:write:/x", "http:PUT:a.b"]);
    assert!(w.cover(&one("http:GET:a.b:80")) && !w.cover(&one("fs:write:/x")));
    assert_eq!(w.beyond(&wants(&["kv", "env:A", "http:GET:*"])).words(), ["env:*", "fs:read:*", "http:POST:*"]);
    assert!(wants(&["kv", "env:A"]).beyond(&w).is_empty());
    let (known, unknown) = Wants::parse(["kv", "summarise"]);
    assert_eq!((known.words(), unknown[0].0.as_str()), (vec!["kv".to_owned()], "summarise"));
}

#[test]
fn one_method_of_several_can_be_taken_back() {
    let mut g = grants(&["http:GET,POST:a.b", "kv"]);
    assert_eq!(g.remove(&grants(&["http:POST:a.b", "clock"])).words(), ["clock"]);
    assert_eq!(g.words(), ["kv", "http:GET:a.b"]);
}

#[test]
fn addresses_are_known_in_every_form() {
    let of = |s: &str| Reach::of(s.parse().unwrap());
    for a in ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2002:101:101::1"] {
        assert_eq!(of(a), Reach::Public, "{a}");
    }
    for a in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(of(a), Reach::Loopback, "{a}");
    }
    for a in [
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "198.18.0.1",
        "192.0.2.1",
        "fc00::1",
        "fd12::1",
        "2001:db8::1",
        "fec0::1",
        "::ffff:10.0.0.1",
        "4000::1",
    ] {
        assert_eq!(of(a), Reach::Private, "{a}");
    }
    for a in [
        "169.254.169.254",
        "0.0.0.0",
        "0.1.2.3",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fe80::1",
        "ff02::1",
        "::",
        "fd00:ec2::254",
        "::ffff:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::1.1.1.1",
        "2002:a9fe:a9fe::1",
        "2002:7f00:1::",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "2001:0:1:2:3:4:80ff:fffe",
        "2606:4700::5efe:a00:1",
    ] {
        assert_eq!(of(a), Reach::Never, "{a}");
    }
}

fn any_word() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("kv".to_owned()),
        Just("clock".to_owned()),
        "(env|secret):[A-Z]{1,2}",
        "fs:(read|write)(:/[ab]){1,3}".prop_map(|s| s.replacen(":/", "#", 1).replace(":/", "/").replace('#', ":/")),
        "http:(GET|POST|GET,POST):(\\*\\.)?(a\\.)?[bc]\\.d(:8[01])?",
    ]
}

proptest! {
    #[test]
    fn canonical_words_read_back_and_covering_is_an_order(
        a in proptest::collection::vec(any_word(), 0..6),
        b in proptest::collection::vec(any_word(), 0..6),
    ) {
        let (x, y) = (Grants::parse(&a).unwrap(), Grants::parse(&b).unwrap());
        prop_assert_eq!(Grants::parse(x.words()).unwrap(), x.clone());
        let w = |g: &Grants| Wants::parse(g.words().iter().map(String::as_str)).0;
        prop_assert!(x.missing(&w(&x)).is_empty() && w(&x).beyond(&w(&x)).is_empty());
        // What is missing is not covered, and adding exactly that covers all.
        let missing = x.missing(&w(&y));
        let mut both = x.clone();
        both.add(&Grants::parse(missing.words()).unwrap()).unwrap();
        prop_assert!(both.missing(&w(&y)).is_empty());
        let y = &y;
        for p in x.iter() {
            for q in y.iter() {
                prop_assert!(y.iter().all(|r| !(p.covers(q) && q.covers(r)) || p.covers(r)));
                prop_assert!(!(p.covers(q) && q.covers(p)) || p == q);
            }
        }
    }

    #[test]
    fn no_text_panics(s in "\\PC{0,40}|(http|fs|env|secret):[\\PC:,./*\\[\\]]{0,40}") {
        if let Ok(g) = s.parse::<Grants>() {
            prop_assert_eq!(Grants::parse(g.words()).unwrap(), g);
        }
    }
}
