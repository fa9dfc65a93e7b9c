//! Starting an agent anew in the same session, from its own conversation, as a new attempt.
//!
//! Three steps, each of which a later daemon takes up where it was left: what a relaunch needs is **kept** with the session from its
//! start ([`Kept`]); the relaunch is **announced** in the log with the frames that open the channel ([`announce`]); the agent is
//! **started** in a folder of the attempt's own and only told anything once that is in the log ([`start`]).
//!
//! Invariants:
//! - values of the environment are in the kept file only (0600, in the session's folder, 0700), which goes with the session's end;
//!   the log holds its digest, so that a file that was changed since starts nothing;
//! - of one attempt at most one agent is ever told anything: an agent that was started and not yet on record is adopted, not doubled;
//! - an attempt has its own frames, cursor, question ids and sums of usage; decisions, account and transcript go on.
//!
//! Called by `start` (keeping) and by whoever pauses a session (`park`).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Error, Inner, attest, failpoint, mask, start as first};
use crate::agent::{Driver, Resume};
use crate::model::{AttemptStarted, Event, Note, Session, SessionResumed};
use crate::process::{Adopted, LaunchSpec, Shim, ShimEvents, ShimHandle, default_limits};
use crate::store::{Batch, Frame};

/// The kept file, in the session's folder.
const FILE: &str = "relaunch.json";
/// Its most bytes; more arguments and environment than the kernel takes.
const MAX: usize = 8 << 20;

/// What a session was started with. Its JSON is the kept file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Random: a digest in the log tells nothing about values.
    salt: String,
    pub program: String,
    pub args: Vec<String>,
    env: BTreeMap<String, String>,
    cwd: String,
    umask: u32,
    /// The agent's own id of the conversation.
    pub conversation: String,
}

impl Kept {
    /// Of a first launch; the error says what cannot be kept.
    pub fn of(spec: &LaunchSpec, conversation: &str, salt: &[u8; 32]) -> Result<Self, &'static str> {
        let text = |s: &OsStr| s.to_str().map(str::to_owned).ok_or("is not UTF-8");
        let pair = |(k, v): &(OsString, OsString)| Ok((text(k)?, text(v)?));
        let env = spec.env.iter().map(pair).collect::<Result<_, &'static str>>()?;
        Ok(Self {
            salt: salt.iter().map(|b| format!("{b:02x}")).collect(),
            program: text(spec.program.as_os_str())?,
            args: spec.args.iter().map(|a| text(a)).collect::<Result<_, _>>()?,
            env,
            cwd: text(spec.cwd.as_os_str())?,
            umask: spec.umask,
            conversation: conversation.to_owned(),
        })
    }

    /// The file's bytes and their digest.
    pub fn seal(&self) -> Result<(Vec<u8>, String), &'static str> {
        let bytes = serde_json::to_vec(self).map_err(|_| "is not JSON")?;
        if bytes.len() > MAX {
            return Err("is longer than 8 MiB in all");
        }
        let digest = blake3::hash(&bytes).to_hex().to_string();
        Ok((bytes, digest))
    }

    /// The kept file, if it is the one that the log names; the error says why it is not.
    pub fn read(run_dir: &Path, digest: &str) -> Result<Self, String> {
        let bytes = read_file(run_dir, FILE, digest)?;
        let said = |why: String| format!("what a relaunch needs, {}, {why}", run_dir.join(FILE).display());
        serde_json::from_slice(&bytes).map_err(|e| said(format!("cannot be understood ({e})")))
    }

    fn spec(&self, run_dir: PathBuf, marker: &str, args: &[OsString], driver: &dyn Driver) -> LaunchSpec {
        LaunchSpec {
            env: self.env.iter().map(|(k, v)| (k.into(), v.into())).collect(),
            args: args.to_vec(),
            umask: self.umask,
            gated: driver.speaks(),
            limits: default_limits(driver.speaks()),
            ..LaunchSpec::new(run_dir, marker, &self.program, &self.cwd)
        }
    }
}

/// A kept file's bytes, if it is the one that the log names; the error says why it is not.
pub(super) fn read_file(run_dir: &Path, name: &str, digest: &str) -> Result<Vec<u8>, String> {
    let path = run_dir.join(name);
    let said = |why: String| format!("what a relaunch needs, {}, {why}", path.display());
    let file = std::fs::File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path);
    let file = file.map_err(|e| said(format!("cannot be opened ({})", e.kind())))?;
    let meta = file.metadata().map_err(|e| said(format!("cannot be read ({})", e.kind())))?;
    if !crate::private::is_private(&meta) {
        return Err(said("is not a file of the host's own that only it may read".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(MAX as u64 + 1).read_to_end(&mut bytes).map_err(|e| said(format!("cannot be read ({})", e.kind())))?;
    if blake3::hash(&bytes).to_hex().as_str() != digest {
        return Err(said("was changed since the session's start".to_owned()));
    }
    Ok(bytes)
}

/// Writes the kept file, synced. The folder is made where it is missing.
pub(super) fn keep(run_dir: &Path, bytes: &[u8]) -> Result<(), Error> {
    keep_file(run_dir, FILE, bytes)
}

/// The same for a file of another name.
pub(super) fn keep_file(run_dir: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let path = run_dir.join(name);
    let write = || -> std::io::Result<()> {
        match std::fs::DirBuilder::new().mode(0o700).create(run_dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::File::open(run_dir)?.sync_all()
    };
    write().map_err(|e| Error::Refused { what: path.display().to_string(), why: format!("cannot be written ({e})") })
}

/// The session ends, or has: nothing of it is started again.
pub(super) fn forget(run_dir: &Path) {
    forget_file(run_dir, FILE);
}

/// The same for a file of another name.
pub(super) fn forget_file(run_dir: &Path, name: &str) {
    if let Err(e) = std::fs::remove_file(run_dir.join(name))
        && e.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %run_dir.display(), error = %e, "what was kept for a relaunch stays");
    }
}

/// Records that the agent is about to be started anew, with the frames that open its channel.
pub(super) async fn announce(inner: &Inner, session: &Session, from: &str, call: Option<u64>, resume: &Resume) -> Result<Session, Error> {
    let frames = (1u64..).zip(resume.frames.iter().cloned()).map(|(no, bytes)| Frame { no, bytes }).collect();
    let event: Event = SessionResumed { from: from.to_owned(), call }.into();
    let batch = Batch { cursor: Some(0), frames, ..batch(inner, session, vec![event]) };
    Ok((*inner.store.append(batch).await?.session).clone())
}

/// Starts, or finds started, the agent of an announced attempt, records that it runs and opens its channel. An error other than the
/// store's leaves no agent running.
pub(super) async fn start(
    inner: &Arc<Inner>,
    session: &Session,
    driver: &dyn Driver,
    kept: &Kept,
    args: &[OsString],
) -> Result<(Session, (ShimHandle, ShimEvents)), Error> {
    let dir = inner.run_dir(&session.id, session.attempt + 1);
    let mut events = Vec::new();
    let shim = match left_by_earlier(&dir, session).await? {
        Some(shim) => shim,
        None => launch(inner, session, driver, kept, kept.spec(dir, session.id.as_str(), args, driver), &mut events).await?,
    };
    failpoint::hit("relaunched");
    let mut argv = vec![kept.program.clone()];
    argv.extend(args.iter().map(|a| super::live::cut(&a.to_string_lossy(), 2048)));
    let started =
        AttemptStarted { argv, pid: shim.0.agent().pid, shim_pid: shim.0.shim().pid, warm: Some(true), ..AttemptStarted::default() };
    events.push(mask::event(started.into()));
    let session = (*inner.store.append(batch(inner, session, events)).await?.session).clone();
    // why only now: what is not on record is told nothing.
    for f in inner.store.frames_after(&session.id, session.attempt, 0)? {
        super::run::send(&shim.0, &f).await;
    }
    Ok((session, shim))
}

/// The agent that an earlier daemon started for this attempt and did not live to record. It was told nothing: one that died is as good as
/// never started.
async fn left_by_earlier(dir: &Path, session: &Session) -> Result<Option<(ShimHandle, ShimEvents)>, Error> {
    if !dir.exists() {
        return Ok(None);
    }
    if let Adopted::Live(handle, events, _) = Shim::adopt(dir, session.id.as_str()).await? {
        return Ok(Some((handle, events)));
    }
    std::fs::remove_dir_all(dir)
        .map_err(|e| Error::Refused { what: dir.display().to_string(), why: format!("cannot be cleared ({e})") })?;
    Ok(None)
}

async fn launch(
    inner: &Arc<Inner>,
    session: &Session,
    driver: &dyn Driver,
    kept: &Kept,
    spec: LaunchSpec,
    events: &mut Vec<Event>,
) -> Result<(ShimHandle, ShimEvents), Error> {
    let program = first::find_program(Path::new(&kept.program), None)?;
    let search = kept.env.get("PATH").map(OsString::from);
    let required = inner.config_of(Path::new(&session.cwd)).require_attested;
    let checked = attest::check(inner, driver.name(), &program, search, false, required).await?;
    let digest = |p: Option<&crate::model::SessionProgram>| p.and_then(|p| p.digest.clone());
    let (was, is) = (digest(session.program.as_ref()), digest(checked.as_ref().map(|c| &c.seen)));
    if let (Some(was), Some(is)) = (&was, &is)
        && was != is
    {
        events.push(Note { text: format!("the agent's program changed since its start: it was {was} and is {is}") }.into());
    }
    let shim = Shim::launch(&inner.shim_bin, &spec).await?;
    if !attest::runs(checked.as_ref(), shim.0.agent().pid) {
        super::run::told(&session.id, shim.0.kill().await);
        let why = "the file was replaced between its check and its start".to_owned();
        return Err(Error::NotAttested { agent: driver.name().to_owned(), program: program.display().to_string(), why });
    }
    Ok(shim)
}

/// Events of the attempt after the session's newest.
fn batch(inner: &Inner, session: &Session, events: Vec<Event>) -> Batch {
    Batch {
        session: session.id.clone(),
        expected: Some(session.last_seq),
        attempt: session.attempt + 1,
        at: inner.clock.wall_ms(),
        events,
        cursor: None,
        frames: vec![],
        blobs: vec![],
        taken: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn kept() -> Kept {
        let mut spec = LaunchSpec::new("/r", "m", "/bin/agent", "/w");
        spec.args = vec!["--session-id=1".into()];
        spec.env = vec![("TOKEN".into(), "secret".into())];
        Kept::of(&spec, "1", &[7; 32]).unwrap()
    }

    #[test]
    fn what_is_kept_is_read_back_only_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("s");
        let (bytes, digest) = kept().seal().unwrap();
        keep(&run, &bytes).unwrap();
        let path = run.join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&run).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(Kept::read(&run, &digest), Ok(kept()));
        assert!(keep(&run, &bytes).is_err(), "it is written once");
        let changed = String::from_utf8(bytes.clone()).unwrap().replace("/bin/agent", "/bin/other");
        std::fs::write(&path, changed).unwrap();
        assert!(Kept::read(&run, &digest).unwrap_err().contains("was changed"));
        std::fs::write(&path, &bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Kept::read(&run, &digest).is_err(), "others could read it");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(dir.path().join("elsewhere"), &bytes).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert!(Kept::read(&run, &digest).is_err(), "a link");
        forget(&run);
        assert!(Kept::read(&run, &digest).unwrap_err().contains("cannot be opened"));
    }

    #[test]
    fn the_digest_of_the_same_values_differs_by_its_salt() {
        let mut other = kept();
        other.salt = "00".repeat(32);
        assert_ne!(kept().seal().unwrap().1, other.seal().unwrap().1);
    }

    #[test]
    fn the_spec_is_that_of_the_start_but_for_folder_and_arguments() {
        let driver = crate::agent::driver("claude").unwrap();
        let spec = kept().spec("/r/attempt-2".into(), "m", &["--resume=1".into()], driver);
        assert_eq!((spec.program, spec.cwd), (PathBuf::from("/bin/agent"), PathBuf::from("/w")));
        assert_eq!(spec.env, [(OsString::from("TOKEN"), OsString::from("secret"))]);
        assert!(spec.gated && spec.keep_stdin && !spec.keep_tree);
    }
}
