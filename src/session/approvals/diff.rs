//! A unified diff of two short texts, bounded in work and in length. Pure; called for the showing of an approval.

/// Lines around a change.
const CONTEXT: usize = 3;
/// Cells of the table that finds the common lines; over it everything in between counts as replaced.
const WORK_MAX: usize = 1_000_000;
/// Longest diff in lines and in bytes.
pub const LINES_MAX: usize = 400;
pub const BYTES_MAX: usize = 32 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Same,
    Gone,
    New,
}

/// The diff in unified form without a file header, and whether something was left out of it. Empty when nothing differs.
pub fn unified(old: &str, new: &str) -> (String, bool) {
    let (a, b): (Vec<&str>, Vec<&str>) = (lines(old), lines(new));
    let steps = script(&a, &b);
    let mut out = Writer::default();
    let mut at = 0;
    // Positions in `a` and `b` before step `at`.
    let (mut i, mut j) = (0, 0);
    while at < steps.len() {
        if steps[at] == Step::Same {
            (at, i, j) = (at + 1, i + 1, j + 1);
            continue;
        }
        let before = steps[..at].iter().rev().take(CONTEXT).take_while(|s| **s == Step::Same).count();
        let begin = at - before;
        let end = hunk_end(&steps, at);
        let (first_a, first_b) = (i - before, j - before);
        let hunk = &steps[begin..end];
        let len = |gone: Step| hunk.iter().filter(|s| **s != gone).count();
        let (len_a, len_b) = (len(Step::New), len(Step::Gone));
        let start = |first: usize, len: usize| if len == 0 { first } else { first + 1 };
        out.line(&format!("@@ -{},{len_a} +{},{len_b} @@", start(first_a, len_a), start(first_b, len_b)));
        let (mut x, mut y) = (first_a, first_b);
        for s in hunk {
            match s {
                Step::Same => out.line(&format!(" {}", a[x])),
                Step::Gone => out.line(&format!("-{}", a[x])),
                Step::New => out.line(&format!("+{}", b[y])),
            }
            x += usize::from(*s != Step::New);
            y += usize::from(*s != Step::Gone);
        }
        (at, i, j) = (end, x, y);
    }
    (out.text, out.cut)
}

/// Behind the last step of the hunk that has a change at `at`: changes at most twice the context apart are one hunk.
fn hunk_end(steps: &[Step], at: usize) -> usize {
    let (mut last, mut n) = (at, at);
    while n < steps.len() && n - last <= 2 * CONTEXT {
        if steps[n] != Step::Same {
            last = n;
        }
        n += 1;
    }
    (last + 1 + CONTEXT).min(steps.len())
}

fn lines(text: &str) -> Vec<&str> {
    if text.is_empty() { Vec::new() } else { text.strip_suffix('\n').unwrap_or(text).split('\n').collect() }
}

/// From `a` to `b` in steps: the longest common subsequence, after equal ends are taken off.
fn script(a: &[&str], b: &[&str]) -> Vec<Step> {
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[head..], &b[head..]);
    let tail = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[..a.len() - tail], &b[..b.len() - tail]);
    let mut out = vec![Step::Same; head];
    let width = b.len() + 1;
    if (a.len() + 1).saturating_mul(width) > WORK_MAX {
        out.extend(std::iter::repeat_n(Step::Gone, a.len()));
        out.extend(std::iter::repeat_n(Step::New, b.len()));
    } else {
        // common[i][j]: length of the longest common subsequence of a[i..] and b[j..].
        let mut common = vec![0u32; (a.len() + 1) * width];
        for i in (0..a.len()).rev() {
            for j in (0..b.len()).rev() {
                common[i * width + j] = if a[i] == b[j] {
                    common[(i + 1) * width + j + 1] + 1
                } else {
                    common[(i + 1) * width + j].max(common[i * width + j + 1])
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < a.len() || j < b.len() {
            if i < a.len() && j < b.len() && a[i] == b[j] {
                out.push(Step::Same);
                (i, j) = (i + 1, j + 1);
            } else if j == b.len() || (i < a.len() && common[(i + 1) * width + j] >= common[i * width + j + 1]) {
                out.push(Step::Gone);
                i += 1;
            } else {
                out.push(Step::New);
                j += 1;
            }
        }
    }
    out.extend(std::iter::repeat_n(Step::Same, tail));
    out
}

#[derive(Default)]
struct Writer {
    text: String,
    lines: usize,
    cut: bool,
}

impl Writer {
    fn line(&mut self, line: &str) {
        if self.cut || self.lines >= LINES_MAX || self.text.len() + line.len() + 1 > BYTES_MAX {
            self.cut = true;
            return;
        }
        self.text.push_str(line);
        self.text.push('\n');
        self.lines += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_reads_as_diffs_do() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n";
        let new = "1\n2\nthree\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n";
        assert_eq!(unified(old, new).0, "@@ -1,6 +1,6 @@\n 1\n 2\n-3\n+three\n 4\n 5\n 6\n@@ -10,3 +10,4 @@\n 10\n 11\n 12\n+13\n");
        assert_eq!(unified("", "a\nb").0, "@@ -0,0 +1,2 @@\n+a\n+b\n");
        assert_eq!(unified("same\n", "same\n"), (String::new(), false));
    }

    #[test]
    fn large_texts_are_bounded() {
        let many = |c: &str| (0..5_000).map(|n| format!("{c}{n}\n")).collect::<String>();
        let (text, cut) = unified(&many("a"), &many("b"));
        assert!(cut && text.lines().count() == LINES_MAX && text.len() <= BYTES_MAX);
        let (text, cut) = unified("", &"x".repeat(BYTES_MAX));
        assert!(cut && text.len() < 100, "{text}");
    }

    /// What a reader of the diff would make of the old text.
    fn applied(old: &str, diff: &str) -> Vec<String> {
        let a = lines(old);
        let (mut out, mut at): (Vec<String>, usize) = (Vec::new(), 0);
        for l in diff.lines() {
            if let Some(h) = l.strip_prefix("@@ -") {
                let mut numbers = h.split([',', ' ']).map(|n| n.trim_start_matches('+').parse::<usize>().unwrap_or(0));
                let (first, len) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
                let begin = if len == 0 { first } else { first - 1 };
                out.extend(a[at..begin].iter().map(|l| (*l).to_owned()));
                at = begin;
                continue;
            }
            let (mark, text) = l.split_at(1);
            match mark {
                "-" => at += 1,
                "+" => out.push(text.to_owned()),
                _ => {
                    assert_eq!(a[at], text);
                    out.push(text.to_owned());
                    at += 1;
                }
            }
        }
        out.extend(a[at..].iter().map(|l| (*l).to_owned()));
        out
    }

    proptest! {
        #[test]
        fn applying_it_gives_the_new_text(old in proptest::collection::vec("[abc]", 0..30), new in proptest::collection::vec("[abc]", 0..30)) {
            let (old, new) = (old.join("\n"), new.join("\n"));
            let (diff, cut) = unified(&old, &new);
            prop_assert!(!cut);
            prop_assert_eq!(applied(&old, &diff), lines(&new).iter().map(|l| (*l).to_owned()).collect::<Vec<_>>());
        }
    }
}
