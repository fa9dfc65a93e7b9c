//! `*` (any run) and `?` (one character) in one name.

/// Whether the whole text fits; ASCII letters are compared without their case when `fold` says so.
pub fn fits(pattern: &str, text: &str, fold: bool) -> bool {
    let same = |a: char, b: char| a == b || (fold && a.eq_ignore_ascii_case(&b));
    let (mut p, mut t) = (pattern.chars(), text.chars());
    let mut back: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        let (before_p, before_t) = (p.clone(), t.clone());
        match (p.next(), t.next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                if p.as_str().is_empty() {
                    return true;
                }
                back = Some((p.clone(), before_t.clone()));
                t = before_t;
                continue;
            }
            (Some('?'), Some(_)) => continue,
            (Some(a), Some(b)) if same(a, b) => continue,
            _ => {}
        }
        let Some((star, mut at)) = back.take() else { return false };
        if at.next().is_none() {
            return false;
        }
        drop(before_p);
        (p, t) = (star.clone(), at.clone());
        back = Some((star, at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_marks() {
        for (pattern, text, want) in [
            ("", "", true),
            ("", "a", false),
            ("a", "a", true),
            ("*", "", true),
            ("*.pem", "x.pem", true),
            ("*.pem", ".pem", true),
            ("*.pem", "x.pem.bak", false),
            ("a*b*c", "axxbyybzc", true),
            ("a*b*c", "axxbyybz", false),
            ("?", "ä", true),
            ("??", "ä", false),
            ("id_*", "id_", true),
            ("*a*", "xxbxx", false),
            ("*a", "aab", false),
            ("*a", "aaba", true),
        ] {
            assert_eq!(fits(pattern, text, false), want, "{pattern} {text}");
        }
        assert!(fits("*.pem", "X.PEM", true) && !fits("*.pem", "X.PEM", false));
        assert!(!fits(&"*a".repeat(200), &"b".repeat(10_000), false));
    }
}
