//! What is behind the capabilities while a case is judged: a clock that stands, variables, secrets, files and answers of the case itself.
//!
//! Invariants: nothing of this machine is reached, the network least of all; files lie in a private folder that goes with the case; what
//! a case does not give is not there. The grants are checked before anything here is asked, by the engine and as in a session.
//!
//! Called by `cases` (reading) and by `test`, `bench` and `dev` (judging).

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::AT_MS;
use super::parts::{AnswerPart, NetworkFailure};
use crate::model::{Grant, Grants};
use crate::plugin::{Canned, MAX_BODY, Machine, NoAnswer, Secrets, Sent};

/// Requests of a case that are kept, and bytes of a body that are.
const SENT: usize = 1000;
const SENT_BODY: usize = 64 << 10;

/// What a case puts behind the capabilities.
#[derive(Clone, Default)]
pub struct Scene {
    pub env: BTreeMap<String, String>,
    pub secrets: BTreeMap<String, String>,
    /// Texts by absolute path.
    pub files: BTreeMap<String, String>,
    pub http: Vec<Answer>,
}

/// What comes back for a request. Several for one request come in turn, and the last of them again and again.
#[derive(Clone)]
pub struct Answer {
    request: String,
    to: Result<Canned, NoAnswer>,
}

impl AnswerPart {
    pub fn read(&self) -> Result<Answer, String> {
        let wrong = |why: &str| format!("`http`: the request {:?} {why}; write `GET https://api.example.com/x`", self.request);
        let (method, url) = self.request.split_once(' ').ok_or_else(|| wrong("has no method and URL"))?;
        let url = url::Url::parse(url).map_err(|e| wrong(&e.to_string()))?;
        let body = match &self.body {
            Value::Null => Vec::new(),
            Value::String(text) => text.clone().into_bytes(),
            value => value.to_string().into_bytes(),
        };
        if body.len() > MAX_BODY {
            return Err(wrong("has an answer that is larger than a plugin may take"));
        }
        let headers = self.headers.iter().map(|(k, v)| (k.to_ascii_lowercase(), v.clone())).collect();
        let to = match self.fails {
            None => Ok(Canned { status: self.status, headers, body }),
            Some(NetworkFailure::Timeout) => Err(NoAnswer::Timeout),
            Some(NetworkFailure::Unavailable) => Err(NoAnswer::Unavailable("the case says so".to_owned())),
            Some(NetworkFailure::ForbiddenAddress) => Err(NoAnswer::Forbidden("the case says so".to_owned())),
        };
        Ok(Answer { request: format!("{method} {url}"), to })
    }
}

impl Scene {
    /// Whether its files can be put into a folder.
    pub fn check(&self) -> Result<(), String> {
        match self.files.keys().find(|p| beneath(p).is_none()) {
            Some(p) => Err(format!("`files`: {p:?} is no absolute path of a file without `.` and `..`")),
            None => Ok(()),
        }
    }
}

/// The path below the root, of an absolute path without detours.
fn beneath(path: &str) -> Option<&Path> {
    let rest = Path::new(path.strip_prefix('/')?);
    let plain = !path.contains("//") && !path.ends_with('/') && rest.components().all(|c| matches!(c, Component::Normal(_)));
    (plain && !rest.as_os_str().is_empty()).then_some(rest)
}

/// The machine that the plugins of this process see. One case is judged at a time.
#[derive(Default)]
pub struct World(Mutex<Now>);

#[derive(Default)]
struct Now {
    scene: Scene,
    at_ms: i64,
    folder: Option<Folder>,
    /// How often each request was answered.
    answered: HashMap<String, usize>,
    sent: Vec<String>,
    unanswered: Vec<String>,
    drawn: u64,
}

/// Removed with what is in it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new(scene: &Scene, grants: &Grants) -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        let path = std::env::temp_dir().join(format!("beadle-case-{:016x}", u64::from_le_bytes(random)));
        let private = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
        DirBuilder::new().mode(0o700).create(&path)?;
        // The path of the folder itself must be without links: it is what the paths of plugins are compared with.
        let folder = Self(path.canonicalize()?);
        let granted = grants.iter().filter_map(|g| if let Grant::Fs(_, Some(folder)) = g { beneath(folder) } else { None });
        for place in granted {
            private(&folder.0.join(place))?;
        }
        for (file, text) in &scene.files {
            let Some(place) = beneath(file).map(|p| folder.0.join(p)) else { continue };
            place.parent().map_or(Ok(()), private)?;
            std::fs::write(place, text)?;
        }
        Ok(folder)
    }
}

impl World {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this is what capabilities reach.
    pub fn enter(&self, scene: &Scene, grants: &Grants) -> Result<(), String> {
        let folder = Folder::new(scene, grants).map_err(|e| format!("the folder of its files cannot be made: {e}"))?;
        *self.now() = Now { scene: scene.clone(), at_ms: AT_MS, folder: Some(folder), ..Now::default() };
        Ok(())
    }

    pub fn leave(&self) {
        *self.now() = Now::default();
    }

    pub fn set_time(&self, at_ms: i64) {
        self.now().at_ms = at_ms;
    }

    /// Requests so far, each with its body behind it, and those for which the case has no answer.
    pub fn sent(&self) -> (Vec<String>, Vec<String>) {
        let now = self.now();
        (now.sent.clone(), now.unanswered.clone())
    }

    /// What a file now has; none where there is none.
    pub fn file(&self, path: &str) -> Option<String> {
        let root = self.root()?;
        std::fs::read(root.join(beneath(path)?)).ok().map(|b| String::from_utf8_lossy(&b).into_owned())
    }
}

impl Secrets for World {
    fn get(&self, name: &str) -> Result<String, String> {
        self.now().scene.secrets.get(name).cloned().ok_or_else(|| format!("there is no secret {name}: the case gives none of that name"))
    }
}

impl Machine for World {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.now().scene.env.get(name).map(OsString::from)
    }

    fn wall_ms(&self) -> u64 {
        u64::try_from(self.now().at_ms).unwrap_or(0)
    }

    fn monotonic_ns(&self) -> u64 {
        self.wall_ms().saturating_mul(1_000_000)
    }

    /// The same in the same case, so that an answer can be expected.
    fn random(&self, bytes: &mut [u8]) -> Result<(), String> {
        let mut now = self.now();
        now.drawn += 1;
        let mut h = blake3::Hasher::new_derive_key("beadle 2026 random of a case v1");
        h.update(&now.drawn.to_le_bytes()).finalize_xof().fill(bytes);
        Ok(())
    }

    fn root(&self) -> Option<PathBuf> {
        // why never none: that would be this machine.
        Some(self.now().folder.as_ref().map_or_else(|| PathBuf::from("/dev/null"), |f| f.0.clone()))
    }

    fn answer(&self, request: &Sent<'_>) -> Option<Result<Canned, NoAnswer>> {
        let mut now = self.now();
        let name = format!("{} {}", request.method, request.url);
        if now.sent.len() < SENT {
            let body = String::from_utf8_lossy(&request.body[..request.body.len().min(SENT_BODY)]);
            now.sent.push(if body.is_empty() { name.clone() } else { format!("{name} {body}") });
        }
        let nth = *now.answered.entry(name.clone()).and_modify(|n| *n += 1).or_insert(0);
        let of_it: Vec<&Answer> = now.scene.http.iter().filter(|a| a.request == name).collect();
        let Some(answer) = of_it.get(nth).or(of_it.last()).map(|a| a.to.clone()) else {
            if now.unanswered.len() < SENT {
                now.unanswered.push(name.clone());
            }
            return Some(Err(NoAnswer::Unavailable(format!("the case has no answer for {name}"))));
        };
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_has_what_its_case_gives_and_nothing_of_this_machine() {
        let world = World::default();
        assert_eq!((world.variable("PATH"), world.file("/etc/passwd")), (None, None));
        let answer = |request: &str, status| AnswerPart {
            request: request.to_owned(),
            status,
            headers: BTreeMap::new(),
            body: serde_json::json!({ "a": 1 }),
            fails: None,
        };
        let http = [answer("GET https://a.example", 500), answer("GET https://a.example/", 200)];
        let scene = Scene {
            env: [("HOME".to_owned(), "/h".to_owned())].into(),
            files: [("/etc/lists/a".to_owned(), "x".to_owned())].into(),
            http: http.iter().map(|a| a.read().unwrap()).collect(),
            ..Scene::default()
        };
        scene.check().unwrap();
        world.enter(&scene, &Grants::parse(["fs:write:/out"]).unwrap()).unwrap();
        world.set_time(5);
        assert_eq!((world.variable("HOME"), world.variable("PATH"), world.wall_ms()), (Some("/h".into()), None, 5));
        let root = world.root().unwrap();
        assert!(root.join("out").is_dir() && world.file("/etc/lists/a").as_deref() == Some("x"));
        let sent = |url: &str| world.answer(&Sent { method: "GET", url, body: b"q" }).unwrap().map(|c| c.status).ok();
        assert_eq!(["https://a.example/"; 3].map(&sent), [Some(500), Some(200), Some(200)]);
        assert_eq!(sent("https://b.example/"), None);
        assert_eq!(world.sent().0[0], "GET https://a.example/ q");
        assert_eq!(world.sent().1, ["GET https://b.example/"]);
        world.leave();
        assert!(!root.exists(), "its folder is gone");
        for bad in ["etc/x", "/", "/a/../b", "/a//b", "/a/", "/./a"] {
            assert!(beneath(bad).is_none(), "{bad}");
        }
    }
}
