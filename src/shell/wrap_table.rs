//! The table of plain wrappers: which options they take before the command that they run.
//!
//! A wrapper whose options are not all here is read as well as can be, and the result is then not complete.
//!
//! Called by `wrap`.

/// Where a wrapper runs its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    Shell,
    Apart,
    Remote,
}

/// How a wrapper's command line is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spec {
    /// Letters of options without a value, and with one.
    pub flags: &'static str,
    pub valued: &'static str,
    pub long: &'static [&'static str],
    pub long_valued: &'static [&'static str],
    /// Operands before the command.
    pub skip: usize,
    /// Takes `NAME=value` before the command.
    pub assign: bool,
    /// The verbs that run a command; empty when the program always does.
    pub verbs: &'static [&'static str],
    /// Options with which it runs nothing.
    pub quiet: &'static [&'static str],
    /// Why the result is never complete.
    pub unknown: Option<&'static str>,
    /// Options that give the directory.
    pub dir: &'static [&'static str],
    pub place: Stand,
    /// The words are code, joined by blanks.
    pub code: bool,
    /// More words come at run time.
    pub open: bool,
}

impl Spec {
    pub(super) const NONE: Self = Self {
        flags: "",
        valued: "",
        long: &[],
        long_valued: &[],
        skip: 0,
        assign: false,
        verbs: &[],
        quiet: &[],
        unknown: None,
        dir: &[],
        place: Stand::Apart,
        code: false,
        open: false,
    };
}

/// Why a wrapper's reading is a guess.
pub(super) const UNKNOWN: &str = "a wrapper whose options are not known";
const STDIN: Option<&str> = Some("arguments come from stdin");
const RUNNER: Spec = Spec {
    flags: "qvypcs",
    valued: "",
    long: &["quiet", "verbose", "yes", "silent", "no-install", "offline", "frozen", "locked", "no-sync", "isolated"],
    long_valued: &["package", "with", "python", "from", "extra", "group", "workspace"],
    unknown: None,
    ..Spec::NONE
};

/// The table line of a program, by its file name.
pub(super) fn spec_of(name: &str) -> Option<Spec> {
    Some(match name {
        "command" => Spec { flags: "pvV", quiet: &["v", "V"], place: Stand::Shell, ..Spec::NONE },
        "builtin" | "noglob" | "nocorrect" | "-" => Spec { place: Stand::Shell, ..Spec::NONE },
        "exec" => Spec { flags: "cl", valued: "a", ..Spec::NONE },
        "nohup" | "setarch" | "linux64" | "linux32" | "catchsegv" | "fakeroot" | "eatmydata" | "unbuffer" | "chronic" | "winpty"
        | "rlwrap" | "stdoutisatty" => Spec { flags: "p", long: &["help", "version"], ..Spec::NONE },
        "coproc" | "then" | "do" | "else" => Spec { place: Stand::Shell, ..Spec::NONE },
        "repeat" => Spec { skip: 1, ..Spec::NONE },
        "nice" => Spec { flags: "0123456789", valued: "n", long_valued: &["adjustment"], ..Spec::NONE },
        "ionice" => Spec {
            flags: "t",
            valued: "cnpPu",
            long: &["ignore"],
            long_valued: &["class", "classdata", "pid", "pgid", "uid"],
            quiet: &["p", "pid"],
            ..Spec::NONE
        },
        "chrt" => Spec {
            flags: "abfiormRv",
            valued: "TPDp",
            long: &["batch", "fifo", "idle", "other", "rr", "all-tasks"],
            quiet: &["p"],
            skip: 1,
            ..Spec::NONE
        },
        "taskset" => Spec { flags: "ac", valued: "p", long: &["all-tasks", "cpu-list"], quiet: &["p"], skip: 1, ..Spec::NONE },
        "numactl" => Spec {
            flags: "aHsl",
            valued: "miNCpw",
            long: &["localalloc", "all"],
            long_valued: &["membind", "interleave", "cpunodebind", "physcpubind", "preferred"],
            ..Spec::NONE
        },
        "setsid" => Spec { flags: "cfw", long: &["ctty", "fork", "wait"], ..Spec::NONE },
        "stdbuf" => Spec { valued: "ioe", long_valued: &["input", "output", "error"], ..Spec::NONE },
        "time" | "gtime" => Spec {
            flags: "pvaqhVl",
            valued: "fo",
            long: &["portability", "verbose", "append", "quiet"],
            long_valued: &["format", "output"],
            ..Spec::NONE
        },
        "timeout" | "gtimeout" => Spec {
            flags: "fpv",
            valued: "ks",
            long: &["foreground", "preserve-status", "verbose"],
            long_valued: &["kill-after", "signal"],
            skip: 1,
            ..Spec::NONE
        },
        "sudo" => Spec {
            flags: "AbBEHkKlnNPSsiVv",
            valued: "CcDghpRrTtUu",
            long: &[
                "askpass",
                "background",
                "preserve-env",
                "set-home",
                "non-interactive",
                "preserve-groups",
                "stdin",
                "reset-timestamp",
                "login",
                "shell",
                "list",
                "validate",
            ],
            long_valued: &[
                "close-from",
                "chdir",
                "group",
                "host",
                "prompt",
                "chroot",
                "role",
                "command-timeout",
                "type",
                "other-user",
                "user",
            ],
            assign: true,
            dir: &["D", "chdir", "R", "chroot", "i", "login"],
            ..Spec::NONE
        },
        "doas" => Spec { flags: "nLs", valued: "aCu", ..Spec::NONE },
        "pkexec" | "gksudo" | "kdesudo" => Spec { long: &["disable-internal-agent", "keep-cwd"], long_valued: &["user"], ..Spec::NONE },
        "chroot" => Spec { long: &["skip-chdir"], long_valued: &["userspec", "groups"], skip: 1, place: Stand::Remote, ..Spec::NONE },
        "unshare" => Spec {
            flags: "cfimnpruUTC",
            valued: "RwSG",
            long: &[
                "fork",
                "mount",
                "uts",
                "ipc",
                "net",
                "pid",
                "user",
                "cgroup",
                "time",
                "map-root-user",
                "map-current-user",
                "map-auto",
                "mount-proc",
                "keep-caps",
            ],
            long_valued: &["root", "wd", "setuid", "setgid", "propagation"],
            dir: &["R", "root", "w", "wd"],
            ..Spec::NONE
        },
        "nsenter" => Spec {
            flags: "amuinpCUTFrw",
            valued: "tSG",
            long: &["all", "mount", "uts", "ipc", "net", "pid", "cgroup", "user", "time", "no-fork", "root", "wd"],
            long_valued: &["target", "setuid", "setgid"],
            place: Stand::Remote,
            ..Spec::NONE
        },
        "setpriv" | "capsh" | "bwrap" | "firejail" | "prlimit" | "systemd-run" | "systemd-inhibit" | "cgexec" | "runcon" | "proot"
        | "torsocks" | "proxychains" | "proxychains4" => Spec { unknown: Some(UNKNOWN), ..Spec::NONE },
        "strace" | "ltrace" | "valgrind" | "perf" | "gdb" | "lldb" | "rr" | "heaptrack" | "hyperfine" | "bench" | "entr" | "parallel"
        | "dbus-run-session" | "xvfb-run" | "concurrently" | "nodemon" | "watchexec" | "direnv" | "mise" | "asdf" | "dotenv"
        | "doppler" | "op" | "aws-vault" | "nix-shell" | "nix" | "conda" | "mamba" | "micromamba" | "expect" | "socat" | "ncat"
        | "start-stop-daemon" | "daemonize" | "dtach" | "abduco" | "byobu" | "xterm" | "gnome-terminal" | "konsole" | "alacritty"
        | "caffeinate" | "sg" | "newgrp" | "ssh-agent" | "dbus-launch" | "gosu" | "su-exec" | "setuidgid" | "chpst" | "softlimit"
        | "tini" | "dumb-init" | "vagrant" | "wsl" | "rtk" | "ccache" | "sccache" | "distcc" | "faketime" | "lxc" | "incus"
        | "machinectl" | "flatpak" | "flatpak-spawn" | "toolbox" | "distrobox" | "ld.so" | "dlv" | "systemd-nspawn" | "trickle"
        | "cpulimit" | "schedtool" | "tsocks" | "retry" | "lockrun" | "heroku" | "fly" | "gcloud" | "apptainer" | "singularity"
        | "devbox" | "devcontainer" | "envdir" | "envchain" | "chamber" | "vault" | "sops" => {
            Spec { unknown: Some(UNKNOWN), open: true, ..Spec::NONE }
        }
        "xargs" | "gxargs" => Spec {
            flags: "0rtpxo",
            valued: "aEeIiLlnPsd",
            long: &["null", "no-run-if-empty", "verbose", "interactive", "exit", "open-tty"],
            long_valued: &["arg-file", "delimiter", "replace", "max-lines", "max-args", "max-procs", "max-chars"],
            unknown: STDIN,
            open: true,
            ..Spec::NONE
        },
        "watch" => Spec {
            flags: "bcdegtpwx",
            valued: "nq",
            long: &["beep", "color", "errexit", "chgexit", "no-title", "precise", "no-wrap"],
            long_valued: &["interval", "equexit"],
            code: true,
            ..Spec::NONE
        },
        "npx" | "bunx" | "pnpx" | "uvx" | "pipx" => Spec { verbs: if matches!(name, "pipx") { &["run"] } else { &[] }, ..RUNNER_CODE },
        "npm" | "pnpm" | "yarn" | "bun" => Spec { verbs: &["exec", "x", "dlx"], ..RUNNER_CODE },
        "uv" | "poetry" | "pipenv" | "hatch" | "rye" | "pdm" | "pixi" => Spec { verbs: &["run"], ..RUNNER },
        "bundle" | "rbenv" | "pyenv" | "nodenv" => Spec { verbs: &["exec"], ..RUNNER },
        _ if name.starts_with("ld-linux") || name.starts_with("ld-musl") || name.starts_with("qemu-") => {
            Spec { unknown: Some(UNKNOWN), open: true, ..Spec::NONE }
        }
        "rustup" => Spec { verbs: &["run"], skip: 1, ..RUNNER },
        _ => return None,
    })
}

/// Runners with an option (`-c`, `--call`) that takes code.
const RUNNER_CODE: Spec = Spec { flags: "qvyps", unknown: None, ..RUNNER };
