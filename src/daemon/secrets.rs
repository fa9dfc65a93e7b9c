//! The operator's secrets for plugins: a file each, else a variable of the daemon's environment.
//!
//! Invariants: a file is the operator's own and nobody else can read it; a value has 8 bytes to 64 KiB on one line; whoever gets a value,
//! `session` knows it before, so that it is masked in every log.
//!
//! Called by the plugin engine, when a plugin with such a grant is loaded and at each use.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::plugin::Secrets;
use crate::private::is_private;
use crate::session::mask;

/// Longest value, in bytes.
const MAX: u64 = 64 << 10;
/// Shortest value: a shorter one cannot be masked without masking ordinary words.
const MIN: usize = 8;
/// What stands before a secret's name in the environment.
const VARIABLE: &str = "BEADLE_SECRET_";

/// See the module.
pub struct Keeper {
    dir: PathBuf,
}

impl Keeper {
    /// `config` is the operator's configuration folder; secrets lie in `secrets/NAME` below it.
    pub fn new(config: &Path) -> Self {
        Self { dir: config.join("secrets") }
    }

    fn read(&self, name: &str) -> Result<String, String> {
        // why again: the name is part of a path.
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')) {
            return Err(format!("{name:?} is no name of a secret"));
        }
        let path = self.dir.join(name);
        let text = match std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(&path) {
            Ok(file) => of_file(file).map_err(|why| format!("the secret {name}, file {}: {why}", path.display()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let variable = format!("{VARIABLE}{}", name.replace(['-', '.'], "_"));
                std::env::var(&variable).map_err(|_| {
                    format!("there is no secret {name}: put it into {} (chmod 600), or into ${variable} of the daemon", path.display())
                })?
            }
            Err(e) => return Err(format!("the secret {name}, file {}: {e}", path.display())),
        };
        let value = text.trim_end_matches(['\n', '\r']);
        if value.len() < MIN || value.contains('\n') {
            return Err(format!("the secret {name} is not one line of at least {MIN} bytes"));
        }
        Ok(value.to_owned())
    }
}

impl Secrets for Keeper {
    fn get(&self, name: &str) -> Result<String, String> {
        let value = self.read(name)?;
        mask::know(&value);
        Ok(value)
    }
}

fn of_file(file: std::fs::File) -> Result<String, String> {
    let meta = file.metadata().map_err(|e| e.to_string())?;
    if !is_private(&meta) {
        return Err("it must be a file of your own that nobody else can read (chmod 600)".to_owned());
    }
    let mut text = String::new();
    file.take(MAX + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 > MAX { Err(format!("it has more than {MAX} bytes")) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_a_private_file_of_a_plain_name_is_a_secret() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(dir.path());
        std::fs::create_dir(dir.path().join("secrets")).unwrap();
        let put = |name: &str, text: &str, mode: u32| {
            let path = dir.path().join("secrets").join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        put("good", "a-fine-value-1\n", 0o600);
        put("open", "a-fine-value-2", 0o644);
        put("short", "1234567", 0o600);
        put("lines", "one-long-line\ntwo-long-line", 0o600);
        std::os::unix::fs::symlink("good", dir.path().join("secrets/link")).unwrap();
        assert_eq!(keeper.get("good").unwrap(), "a-fine-value-1");
        assert_eq!(mask::text("x a-fine-value-1 y"), format!("x {} y", mask::MARK));
        for (name, part) in
            [("open", "chmod 600"), ("short", "8 bytes"), ("lines", "one line"), ("link", "link"), ("none", "$BEADLE_SECRET_none")]
        {
            let why = keeper.get(name).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
        for name in ["", "..", ".x", "../good", "a/b"] {
            assert!(keeper.get(name).is_err(), "{name}");
        }
    }
}
