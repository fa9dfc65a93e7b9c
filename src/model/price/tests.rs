use super::*;
use proptest::prelude::*;

const DAY: i64 = 86_400_000;

fn table(text: &str) -> PriceTable {
    PriceTable::parse(text.as_bytes()).expect("a table")
}

fn in_and_out(input: u64, output: u64) -> Usage {
    Usage { input, output, ..Usage::default() }
}

#[test]
fn embedded_table_gives_what_claude_code_itself_computes() {
    // captures: 3,600 in, 102 out, 3,000 cache read, 150 cache write = 0.0229875 USD.
    let u = Usage { input: 3600, output: 102, cache_read: 3000, cache_write: 150, ..Usage::default() };
    let t = PriceTable::embedded();
    assert_eq!(t.cost("claude-opus-4-8", u, 0), Some(22_987_500));
    assert_eq!(t.cost("claude-opus-4-8", Usage { cache_write_1h: 50, ..u }, 0), Some(22_987_500 + 50 * (10_000 - 6_250)));
    assert_eq!(t.cost("nobody-knows-1", u, 0), None);
    assert_eq!((t.model_count(), t.digest.len()), (16, 64));
}

#[test]
fn names_are_resolved_by_rule_and_never_by_prefix() {
    let t = PriceTable::embedded();
    let known = |m: &str| t.cost(m, in_and_out(1, 0), 0).is_some();
    for m in [
        "claude-opus-4-8",
        "claude-opus-4-8[1m]",
        "Claude-Opus-4-8",
        "anthropic/claude-opus-4-8",
        "openrouter/anthropic/claude-opus-4-8:thinking",
        "claude-sonnet-4-5-20250929",
        "claude-sonnet-4-5@20250929",
        "claude-sonnet-4-5-2025-09-29",
        "claude-sonnet-4-20250514",
        "claude-3-5-haiku-latest",
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "anthropic.claude-opus-4-1-20250805-v1:0",
    ] {
        assert!(known(m), "{m}: {:?}", names(m));
    }
    for m in ["claude-opus-4-8-mini", "claude-opus-4", "claude", "", "[1m]", "opus", "claude-opus-4-80", "notanthropic.claude-fable-5"] {
        assert_eq!(known(m), m == "claude-opus-4", "{m}: {:?}", names(m));
    }
}

#[test]
fn the_price_of_the_day_holds() {
    let t = table(
        r#"{"source": "t", "prices": [
            {"model": "m", "from": "1970-01-11", "usd_per_million": {"input": 2, "output": 2}},
            {"model": "m", "from": "1970-01-03", "usd_per_million": {"input": 1, "output": 1}}]}"#,
    );
    let at = |day: i64| t.cost("m", in_and_out(1_000_000, 0), day * DAY);
    assert_eq!(
        [at(0), at(1), at(2), at(9), at(10), at(10_000)],
        [None, None, Some(1_000_000_000), Some(1_000_000_000), Some(2_000_000_000), Some(2_000_000_000)]
    );
    assert_eq!(t.cost("m", in_and_out(1, 0), 10 * DAY - 1), Some(1_000), "the last millisecond of the old price");
}

#[test]
fn a_kind_of_token_without_a_price_makes_the_cost_unknown() {
    let t = table(r#"{"source": "t", "prices": [{"model": "m", "usd_per_million": {"input": 1, "output": 1, "cache_write": 1}}]}"#);
    let cost = |u: Usage| t.cost("m", u, 0);
    assert_eq!(cost(in_and_out(1, 1)), Some(2_000));
    assert_eq!(cost(Usage { cache_read: 1, ..Usage::default() }), None);
    assert_eq!(cost(Usage { cache_write: 1, ..Usage::default() }), Some(1_000));
    assert_eq!(cost(Usage { cache_write: 1, cache_write_1h: 1, ..Usage::default() }), None);
}

#[test]
fn fractions_of_a_billionth_are_rounded_once_a_call_and_overflow_is_unknown() {
    let t = table(
        r#"{"source": "t", "prices": [{"model": "m", "usd_per_million": {"input": 0.0375, "output": "0.000001"}},
            {"model": "dear", "usd_per_million": {"input": 1000000, "output": 1}}]}"#,
    );
    assert_eq!(t.cost("m", in_and_out(1, 0), 0), Some(38), "37.5 billionths");
    assert_eq!(t.cost("m", in_and_out(2, 0), 0), Some(75));
    assert_eq!(t.cost("m", in_and_out(0, 499), 0), Some(0));
    assert_eq!(t.cost("m", in_and_out(0, 500), 0), Some(1));
    assert_eq!(t.cost("dear", in_and_out(u64::MAX, 0), 0), None);
}

#[test]
fn errors_say_where_and_what() {
    let one = |p: &str| format!(r#"{{"source": "t", "prices": [{p}]}}"#);
    let price = |rest: &str| one(&format!(r#"{{"model": "m", "usd_per_million": {{"input": 1, "output": 1}}{rest}}}"#));
    let rate = |input: &str| one(&format!(r#"{{"model": "m", "usd_per_million": {{"input": {input}, "output": 1}}}}"#));
    let ok = r#"{"model": "m", "usd_per_million": {"input": 1, "output": 1}}"#;
    for (text, says) in [
        ("[]".to_owned(), "not a price table"),
        (r#"{"source": "t", "prices": [], "x": 1}"#.to_owned(), "unknown field `x`"),
        (one(r#"{"model": "m", "input": 5000, "output": 1}"#), "unknown field `input`"),
        (price(r#", "from": "2026-1-1""#), "prices[0] (\"m\").from: \"2026-1-1\"; expected a day"),
        (price(r#", "from": "2026-02-30""#), "expected a day"),
        (rate("-1"), "usd_per_million.input: -1; expected dollars"),
        (rate("\"1e3\""), "expected dollars"),
        (rate("0.0000001"), "expected dollars"),
        (rate("1000001"), "expected dollars"),
        (rate("\"\""), "expected dollars"),
        (one(&format!("{ok}, {ok}")), "each first day of a model once"),
        (one(r#"{"model": "", "usd_per_million": {"input": 1, "output": 1}}"#), "1 to 256 bytes"),
        (format!(r#"{{"source": "t", "aliases": {{"a": "b"}}, "prices": [{ok}]}}"#), "aliases.\"a\": \"b\"; expected the name of a model"),
        (format!(r#"{{"source": "t", "aliases": {{"m": "m"}}, "prices": [{ok}]}}"#), "a name without a price of its own"),
    ] {
        let e = PriceTable::parse(text.as_bytes()).expect_err(&text).to_string();
        assert!(e.contains(says), "{text}: {e}");
    }
}

proptest! {
    #[test]
    fn any_bytes_give_a_table_or_an_error_and_any_name_is_looked_up(bytes in proptest::collection::vec(any::<u8>(), 0..200), name in "\\PC{0,40}") {
        let _ = PriceTable::parse(&bytes);
        let _ = PriceTable::embedded().cost(&name, in_and_out(1, 1), 0);
    }

    /// What a sum of calls costs is the sum of their costs, where the price is whole billionths a token.
    #[test]
    fn costs_add_up(a in 0u64..1_000_000, b in 0u64..1_000_000) {
        let t = PriceTable::embedded();
        let cost = |n| t.cost("claude-haiku-4-5", in_and_out(n, n), 0).unwrap_or(0);
        prop_assert_eq!(cost(a) + cost(b), cost(a + b));
    }
}
