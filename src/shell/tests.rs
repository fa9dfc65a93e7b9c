//! Laws of the shell reader. Called by the test runner only.

use proptest::prelude::*;

use super::*;

fn listed(command: &str) -> (Parse, Vec<String>) {
    let parsed = parse(command);
    let show =
        |c: &Command| c.argv.iter().map(|w| if w.exact { w.text.clone() } else { format!("<{}>", w.text) }).collect::<Vec<_>>().join(" ");
    (parsed.parse, parsed.commands().map(show).collect())
}

#[test]
fn commands_are_listed_with_what_they_wrap() {
    for (command, expected) in [
        ("a && b || c; d | e & f", vec!["a", "b", "c", "d", "e", "f"]),
        ("(a; { b; }) ; if c; then d; elif e; then f; else g; fi", vec!["a", "b", "c", "d", "e", "f", "g"]),
        ("while a; do b; done; until c; do d; done", vec!["a", "b", "c", "d"]),
        ("case x in a) b;; *) c;; esac", vec!["b", "c"]),
        ("coproc a b", vec!["a b"]),
        ("! time -p a", vec!["time -p a", "a"]),
        ("a >(b) <(c)", vec!["a <>()> <<()>", "b", "c"]),
        ("x=$(a) y=`b` c", vec!["c", "a", "b"]),
        ("cat <<E\n$(a)\nE\nb", vec!["cat", "a", "b"]),
        ("sh -c 'a \"$(b)\"'", vec!["sh -c a \"$(b)\"", "a <\"$(b)\">", "b"]),
        ("bash -lc 'sh -c \"a b\"'", vec!["bash -lc sh -c \"a b\"", "sh -c a b", "a b"]),
        ("bash -c -e a", vec!["bash -c -e a", "a"]),
        ("eval a 'b; c'", vec!["eval a b; c", "a b", "c"]),
        ("env -i A=b -- c", vec!["env -i A=b -- c", "-- c"]),
        ("env -i A=b c d", vec!["env -i A=b c d", "c d"]),
        ("sudo -u root nice -n 5 nohup a", vec!["sudo -u root nice -n 5 nohup a", "nice -n 5 nohup a", "nohup a", "a"]),
        ("timeout -k 5 10 a", vec!["timeout -k 5 10 a", "a"]),
        ("command -p a; command -v b", vec!["command -p a", "a", "command -v b"]),
        ("exec -a n a", vec!["exec -a n a", "a"]),
        ("find . -type f -exec a {} + -ok b \\;", vec!["find . -type f -exec a {} + -ok b ;", "a <{}>", "b"]),
        ("ssh -p 22 h a b", vec!["ssh -p 22 h a b", "a b"]),
        ("docker exec -it c a b", vec!["docker exec -it c a b", "a b"]),
        ("busybox a b", vec!["busybox a b", "a b"]),
        ("git rev-parse --show-toplevel", vec!["git rev-parse --show-toplevel"]),
        ("watch -n 1 'a; b'", vec!["watch -n 1 a; b", "a", "b"]),
        ("\"/usr/bin/env\" a", vec!["/usr/bin/env a", "a"]),
        ("a\\\nb c\\\n d", vec!["ab c d"]),
        ("i\\\nf a; then b; fi", vec!["a", "b"]),
        ("a 'b\\\nc'", vec!["a b\\\nc"]),
        ("a # b\nc", vec!["a", "c"]),
        ("a b#c", vec!["a b#c"]),
        ("bash <<'E'\na\nE", vec!["bash", "a"]),
    ] {
        assert_eq!(listed(command), (Parse::Complete, expected.into_iter().map(str::to_owned).collect()), "{command}");
    }
}

#[test]
fn what_the_text_does_not_show_is_partial() {
    for command in [
        "for PATH in /x; do ls; done",
        "read PATH",
        "printf -v PATH x",
        "declare -i x='a[$(b)]'",
        "declare -n x=PATH",
        "GIT_DIR=x git status",
        "$x",
        "\"$x\" a",
        "g* push",
        "{git,push}",
        "~/bin/x",
        "$(a)",
        "sh -c \"$x\"",
        "eval \"$x\"",
        "eval $(a)",
        ". f",
        "source f",
        "alias a=b",
        "f() { a; }; f",
        "ls | xargs rm",
        "a | sh",
        "sh",
        "bash -s a",
        "python3 -c 'x'",
        "python3",
        "perl -ne x f",
        "node -e x",
        "awk 'BEGIN{system(\"a\")}'",
        "sed s/a/b/e f",
        "sed -f x f",
        "PATH=/x; ls",
        "PATH=/x ls",
        "export LD_PRELOAD=x",
        "IFS=x",
        "env PATH=x ls",
        "sudo $x a",
        "env \"$x\" a",
        "nice --odd a",
        "find . $x",
        "find $x",
        "git -c core.pager=x log",
        "git -c alias.a='!b' a",
        "git clone ext::x",
        "tar --to-command=x -xf a",
        "rg --pre x y",
        "parallel a",
        "crontab f",
        "enable -f x y",
        "hash -p a b",
        "$((x)) ",
        "echo $((x))",
        "[[ $x -eq 1 ]]",
        "echo ${!x}",
        "echo ${x@P}",
        "declare \"a[$x]=1\"",
        "zsh -c a",
        "fish -c a",
        "xargs -a f rm",
        "fd -x rm",
        "vim -c x f",
        "let x=y",
        "read 'a[$(b)]'",
        "printf -v 'a[$(b)]' c",
        "test -v 'a[$(b)]'",
        "docker run img",
        "env -S 'a b'",
        "find . -exec {} \\;",
        "shopt -s expand_aliases",
        "trap \"$x\" EXIT",
    ] {
        assert_eq!(parse(command).parse, Parse::Partial, "{command}");
    }
}

#[test]
fn innocent_commands_are_complete() {
    for command in [
        "ls -la",
        "cargo test -- --nocapture",
        "git commit -m \"$(cat <<'EOF'\nIt's (done) `x`\nEOF\n)\"",
        "grep -rn 'a|b' src | head -20",
        "echo \"$HOME\"",
        "rm \"$f\"",
        "for f in *.rs; do wc -l \"$f\"; done",
        "sed -n '1,200p' src/a.rs",
        "sed -i 's/foo/bar/g' f",
        "awk '{print $1}' f",
        "find . -name '*.rs' -not -path './target/*'",
        "python3 -m pytest -q",
        "python3 x.py",
        "node x.js",
        "npm run build",
        "npm test",
        "make -j4",
        "cd a && ls",
        "A=1 b",
        "git log --oneline | head",
        "git -C a status",
        "git push",
        "test -f a && b",
        "[ -n \"$x\" ]",
        "command -v a >/dev/null 2>&1",
        "cat <<'EOF' > f\n$(x)\nEOF",
        "printf '%s\\n' a",
        "export A=b",
        "docker ps",
        "kubectl get pods",
        "curl -s https://a.org",
        "tar -xzf a.tgz",
        "echo $((1+2))",
        "if ! a; then b; fi",
        "set -euo pipefail",
        "uv run pytest",
        "bash scripts/x.sh",
        "git config --get user.name",
    ] {
        assert_eq!(parse(command).parse, Parse::Complete, "{command}: {:?}", parse(command).reason);
    }
}

#[test]
fn what_readers_may_differ_on_is_failed() {
    for command in [
        "",
        "if",
        "a |",
        "a \"b",
        "echo \\$'a\\' ; rm x; echo 'b'",
        "echo $$'a\\'; b; '",
        "echo $(true # ) '\n b #'\n)",
        "!(a)",
        "@(a|b)",
        "a {x}>f b",
        "${ a; }",
        "${x:-<(a)}",
        "cat <<E\nx",
        "a\0b",
        "$[1]",
        "$((a); b)",
        "\"${x:-'}\"",
        "99999999999>a b",
        "select x in a; do b; done",
        "cat <<E\na\\\nE\n",
        "a$\\\n(b)",
    ] {
        let expected = if command.is_empty() { Parse::Complete } else { Parse::Failed };
        assert_eq!(parse(command).parse, expected, "{command:?}");
    }
}

#[test]
fn caps_hold() {
    for (command, parse_is) in [
        (format!("echo {}", "x".repeat(MAX_BYTES)), Parse::Failed),
        ("a;".repeat(1025), Parse::Failed),
        (format!("{}a{}", "{ ".repeat(65), ";}".repeat(65)), Parse::Failed),
        (format!("{}a{}", "{ ".repeat(40), ";}".repeat(40)), Parse::Complete),
        (format!("{}a{}", "$(".repeat(70), ")".repeat(70)), Parse::Failed),
        (format!("{}a", "sudo ".repeat(80)), Parse::Failed),
        (format!("{}a {}", "eval ".repeat(60), "b ".repeat(7000)), Parse::Failed),
        (format!("{}a{}", "( ".repeat(11), " )".repeat(11)), Parse::Failed),
    ] {
        assert_eq!(parse(&command).parse, parse_is, "{}", &command[..command.len().min(60)]);
    }
}

/// Wraps a command so that it still runs.
fn wrapped() -> impl Strategy<Value = String> {
    fn quote(text: &str) -> String {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
    let leaf = Just("git push".to_owned());
    leaf.prop_recursive(6, 12, 1, |inner| {
        (0usize..22, inner).prop_map(|(how, c)| match how {
            0 => format!("sh -c {}", quote(&c)),
            1 => format!("bash -lc {}", quote(&c)),
            2 => format!("echo $({c})"),
            3 => format!("echo \"$({c})\""),
            4 => format!("true && {c}"),
            5 => format!("ls | {c}"),
            6 => format!("env A=b sh -c {}", quote(&c)),
            7 => format!("xargs -I{{}} sh -c {}", quote(&c)),
            8 => format!("find . -exec sh -c {} \\;", quote(&c)),
            9 => format!("timeout 5 bash -c {}", quote(&c)),
            10 => format!("( {c}\n)"),
            11 => format!("{{ {c}\n}}"),
            12 => format!("if true; then {c}\nfi"),
            13 => format!("for i in 1 2; do {c}\ndone"),
            14 => format!("eval {}", quote(&c)),
            15 => format!("cat <({c})"),
            16 => format!("x=$({c})"),
            17 => format!("nohup sudo -u a nice sh -c {}", quote(&c)),
            18 => format!("while false; do :; done; {c}"),
            19 => format!("! case a in a) {c}\n;; esac"),
            20 => format!("f() {{ {c}\n}}; f"),
            _ => format!("echo ${{x:-$({c})}}"),
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_without_a_panic(text in "\\PC{0,120}") {
        let _ = parse(&text);
    }

    #[test]
    fn any_shell_like_text_is_read_without_a_panic(parts in proptest::collection::vec(prop::sample::select(vec![
        "$(", "${", "$((", ")", "}", "))", "`", "'", "\"", "\\", "\n", " ", ";", "&", "|", "<", ">", "<<", "<<E", "E", "(", "{ ", "if ", "then ", "fi", "case x in ", "esac", "do ", "done", "for x in ", "while ", "[[ ", " ]]", "a", "b=", "a[", "]", "$", "#", "~", "*", "{a,b}", "1", "99999999999", "!", "@(", "function f ", "coproc ", "time ", "sh -c ", "eval ", "é", "\t", "\r", "\u{a0}", "xargs ", "find . -exec ", "env ", "sudo ", "git -c ", "$'", "\\x41", "ssh h ", "docker run ",
    ]), 0..60)) {
        let _ = parse(&parts.concat());
    }

    #[test]
    fn a_command_in_wrappers_is_listed_or_the_reading_is_not_complete(command in wrapped()) {
        let parsed = parse(&command);
        let there = parsed.commands().any(|c| c.argv.len() == 2 && c.argv[0].text == "git" && c.argv[1].text == "push");
        prop_assert!(there || parsed.parse != Parse::Complete, "{command}");
    }
}
