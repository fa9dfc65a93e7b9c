//! What the demo plays on: a small git repository with a test that fails, and the model's script.
//!
//! Called by `cli` (`beadle demo`) and the tests. Nothing here needs a network, or programs beyond sh, git and coreutils.

/// The scripted model's part (`examples/scripts/demo.json`).
pub const SCRIPT: &str = include_str!("../../examples/scripts/demo.json");

/// The demo's configuration: two policies (`examples/demo.toml`).
pub const CONFIG: &str = include_str!("../../examples/demo.toml");

/// What the user asks for.
pub const PROMPT: &str = "The test of greet.sh fails. Fix it, commit, push, and clean up.";

/// Files of the repository: path below its root, text.
pub fn workspace_files() -> &'static [(&'static str, &'static str)] {
    &[
        ("README.md", "# greet\n\n`sh greet.sh NAME` greets NAME; without a name it greets the world.\n`sh test.sh` checks it.\n"),
        ("greet.sh", "#!/bin/sh\n# greet.sh [NAME]: prints a greeting.\necho \"Hello, $1!\"\n"),
        (
            "test.sh",
            "#!/bin/sh\n# Checks greet.sh; prints what differs and fails.\ncheck() {\n  got=$(sh greet.sh $2)\n  if [ \"$got\" = \"$1\" ]; then echo \"ok: $1\"; else echo \"FAILED: wanted '$1', got '$got'\"; exit 1; fi\n}\ncheck \"Hello, Ada!\" Ada\ncheck \"Hello, world!\"\necho \"all tests passed\"\n",
        ),
        (".env", "# Not a real secret.\nDEPLOY_TOKEN=example-0000\n"),
        (".gitignore", "build/\n.env\n"),
        ("build/greet-0.1.tar", "not a real archive\n"),
    ]
}

/// The git commands that make those files a repository with one commit and a remote `origin` inside its own `.git`, to be
/// run in its root, in order; each is the arguments after `git`.
pub fn git_setup() -> &'static [&'static [&'static str]] {
    &[
        &["init", "-q", "-b", "main"],
        &["config", "user.name", "Demo"],
        &["config", "user.email", "demo@example.org"],
        &["config", "commit.gpgsign", "false"],
        &["config", "core.hooksPath", "/dev/null"],
        &["add", "-A"],
        &["commit", "-q", "-m", "greet 0.1"],
        &["init", "-q", "--bare", "-b", "main", ".git/origin.git"],
        &["remote", "add", "origin", ".git/origin.git"],
    ]
}
