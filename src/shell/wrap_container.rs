//! Containers and clusters: what `docker run`, `kubectl exec` and the like run.
//!
//! Called by `wrap`.

use super::wrap::{DYNAMIC, Effect, OPTIONS, Place, options, run};
use super::wrap_table::Spec;
use crate::model::Word;

/// Containers: `exec`, `run`, and the same below `compose`.
pub(super) fn container(name: &str, argv: &[Word]) -> Vec<Effect> {
    const SPEC: Spec = Spec {
        flags: "itdTPq",
        valued: "vewupmhlcnfH",
        long: &[
            "rm",
            "init",
            "interactive",
            "tty",
            "detach",
            "privileged",
            "no-deps",
            "service-ports",
            "read-only",
            "build",
            "quiet-pull",
            "stdin",
        ],
        long_valued: &[
            "name",
            "env",
            "volume",
            "workdir",
            "user",
            "publish",
            "network",
            "net",
            "mount",
            "memory",
            "cpus",
            "hostname",
            "label",
            "platform",
            "env-file",
            "entrypoint",
            "pull",
            "restart",
            "gpus",
            "shm-size",
            "ulimit",
            "tmpfs",
            "add-host",
            "dns",
            "cap-add",
            "cap-drop",
            "security-opt",
            "device",
            "container",
            "namespace",
            "file",
            "index",
            "context",
            "pod-running-timeout",
            "ipc",
            "pid",
            "expose",
            "link",
        ],
        ..Spec::NONE
    };
    let Some(verb) = argv.iter().skip(1).position(|w| matches!(w.text.as_str(), "exec" | "run")).map(|n| n + 1) else {
        return if argv[1..].iter().take(2).all(|w| w.exact) { Vec::new() } else { vec![Effect::Unknown(DYNAMIC)] };
    };
    let mut out = Vec::new();
    let known = argv[1..verb].iter().all(|w| matches!(w.text.as_str(), "compose" | "container"));
    let opts = options(argv, verb + 1, &SPEC);
    if opts.unsure || !known || opts.has(&["entrypoint"]) {
        out.push(Effect::Unknown(OPTIONS));
    }
    let mut at = (opts.at + 1).min(argv.len());
    if argv.get(at).is_some_and(|w| w.text == "--") {
        at += 1;
    } else if argv.get(at).is_some_and(|w| w.text.starts_with('-')) {
        // why: kubectl takes options behind the pod's name too.
        let more = options(argv, at, &SPEC);
        out.push(Effect::Unknown(OPTIONS));
        at = more.at;
    }
    let label = format!("{name} {}", argv[verb].text);
    if at < argv.len() {
        out.push(run(&label, &argv[at..], Place::Remote));
    } else {
        out.push(Effect::Unknown("a container's own command is not shown"));
    }
    out
}
