//! The shell parser: never panics, stays within its caps, and what it understood whole means the same when every word of it is quoted.

#![no_main]

use beadle_fuzz::model::Parse;
use beadle_fuzz::shell::{MAX_COMMANDS, parse, parse_argv};
use libfuzzer_sys::fuzz_target;

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let parsed = parse(&text);
    assert!(parsed.found.len() <= MAX_COMMANDS);
    assert_eq!(parsed.parse == Parse::Complete, parsed.reason.is_none());
    assert_eq!(parsed, parse(&text), "the same text reads the same");
    for c in parsed.commands() {
        assert!(!c.argv.is_empty());
        // Not the other way round: `xargs rm` has words that only its input knows.
        assert!(!c.exact || c.argv.iter().chain(&c.env).all(|w| w.exact), "{c:?}");
    }
    if parsed.parse == Parse::Complete {
        for c in parsed.commands().filter(|c| c.exact && c.origin.is_empty() && c.env.is_empty() && c.redirects.is_empty()) {
            let line = c.argv.iter().map(|w| quote(&w.text)).collect::<Vec<_>>().join(" ");
            let again = parse(&line);
            // Quoting makes it longer, and over the cap nothing is read.
            if again.parse == Parse::Failed && line.len() > 8 << 10 {
                continue;
            }
            assert_eq!(again.found.first().map(|f| &f.command.argv), Some(&c.argv), "{line}");
        }
    }
    let argv: Vec<String> = text.split('\n').map(str::to_owned).collect();
    assert!(parse_argv(&argv).found.len() <= MAX_COMMANDS);
});
