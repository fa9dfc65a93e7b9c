//! Configuration files: any text is read or refused with a place, and a project that is not trusted only tightens.

#![no_main]

use std::path::{Path, PathBuf};

use beadle_fuzz::config::{Files, Found, Loaded, PROJECT_RULES, resolve};
use beadle_fuzz::take::Take;
use libfuzzer_sys::fuzz_target;

fn resolved(user: &str, project: Option<&Found>) -> Option<Loaded> {
    match resolve(&Files { user: Some((Path::new("/home/dev/beadle.toml"), user)), project }, &|_| None, &|_, _| false) {
        Ok(l) => Some(l),
        Err(e) => {
            assert!(!e.to_string().is_empty() && e.code().starts_with("BDL-"));
            None
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut take = Take(data);
    let (text, user) = (take.text(), take.text());
    let project = Found {
        dir: PathBuf::from("/home/dev/project"),
        path: PathBuf::from("/home/dev/project/beadle.toml"),
        text,
        digest: String::new(),
    };
    let Some(base) = resolved(&user, None) else { return };
    let Some(with) = resolved(&user, Some(&project)) else { return };
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
