//! Configuration files: any text is read or refused with a place, and a project that is not trusted only tightens.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use beadle_fuzz::config::{Loaded, PROJECT_RULES, Sources, load};
use beadle_fuzz::take::Take;
use libfuzzer_sys::fuzz_target;

struct Dir {
    user: PathBuf,
    work: PathBuf,
}

static DIR: LazyLock<Dir> = LazyLock::new(|| {
    let root = std::env::temp_dir().join(format!("beadle-fuzz-config-{}", std::process::id()));
    let work = root.join("work");
    std::fs::create_dir_all(&work).unwrap_or_else(|e| panic!("{e}"));
    Dir { user: root.join("user.toml"), work }
});

fn resolve(with_project: bool) -> Option<Loaded> {
    let sources = Sources { user: Some(&DIR.user), cwd: with_project.then_some(&DIR.work), env: &|_| None, trusted: &|_, _| false };
    match load(&sources) {
        Ok(l) => Some(l),
        Err(e) => {
            assert!(!e.to_string().is_empty() && e.code().starts_with("BDL-"));
            None
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut take = Take(data);
    let (project, user) = (take.text(), take.text());
    std::fs::write(&DIR.user, user).unwrap_or_else(|e| panic!("{e}"));
    std::fs::write(DIR.work.join("beadle.toml"), project).unwrap_or_else(|e| panic!("{e}"));
    let Some(base) = resolve(false) else { return };
    let Some(with) = resolve(true) else { return };
    let (a, b) = (&base.config, &with.config);
    // Every policy of the operator stands as it was, in its place; what came is marked, and allows nothing.
    assert!(b.policies.len() >= a.policies.len() && b.policies[..a.policies.len()] == a.policies[..], "{a:?} {b:?}");
    for p in &b.policies[a.policies.len()..] {
        assert!(p.tighten_only, "{p:?}");
        assert!(p.config.get("allow").is_none() || p.name != PROJECT_RULES, "{p:?}");
    }
    assert!(b.default >= a.default, "{:?} {:?}", a.default, b.default);
    for (old, new) in base.settings.iter().zip(&with.settings) {
        assert_eq!(old.key, new.key);
        // Settings of the host are never a project's.
        assert!(!old.key.starts_with("host.") || old.value == new.value, "{old:?} {new:?}");
        if let (Some(o), Some(n), true) = (old.value.as_u64(), new.value.as_u64(), old.key.starts_with("limits.")) {
            assert!(n <= o, "{old:?} {new:?}");
        }
    }
});
