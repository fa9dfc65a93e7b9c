//! `beadle plugin`: what authors of plugins do, without a daemon but for `logs`, a file a verb; and the life of installed ones (`life`), with one.
//!
//! Invariants: a component is loaded and asked by the engine that sessions use, with the same limits; what a component says is
//! untrusted text; cargo runs only for a project that the caller named.

mod asked;
mod bench;
mod build;
mod cases;
mod check;
mod dev;
mod error;
mod inspect;
mod life;
mod logs;
mod new;
mod project;
mod test;

use std::path::Path;
use std::sync::Arc;

use super::args::{PluginVerb, TargetArgs};
use super::exit::{Coded, Exit};
use super::{Context, Outcome};
use crate::model::Grants;
use crate::plugin::{Host, HostOptions, Limits, LoadSpec, Machine, Plugin, Secrets};
use cases::scene::World;
use error::Error;
use project::Project;

pub async fn run(cx: &mut Context, verb: PluginVerb) -> Outcome {
    match verb {
        PluginVerb::New(args) => new::new(cx, args),
        PluginVerb::Build(args) => build::build(cx, args),
        PluginVerb::Check(args) => check::check(cx, args).await,
        PluginVerb::Test(args) => test::test(cx, args).await,
        PluginVerb::Bench(args) => bench::bench(cx, args).await,
        PluginVerb::Dev(args) => dev::dev(cx, args).await,
        PluginVerb::Logs(args) => logs::logs(cx, args).await,
        PluginVerb::Inspect(args) => inspect::inspect(cx, args).await,
        PluginVerb::Life(verb) => life::run(cx, verb).await,
    }
}

/// A component as read, and where from.
struct Component {
    /// For people.
    file: String,
    name: String,
    wasm: Vec<u8>,
    /// The project that it was built from just now.
    project: Option<Project>,
}

/// Reads a component, or builds the project and reads what it made.
fn component(cx: &mut Context, target: &TargetArgs) -> anyhow::Result<Component> {
    if target.target.is_dir() {
        let project = Project::find(&target.target)?;
        let built = project.build(cx, target.offline)?;
        let (file, name) = (built.file.display().to_string(), project.name.clone());
        return Ok(Component { file, name, wasm: built.wasm, project: Some(project) });
    }
    let file = target.target.display().to_string();
    let name = target.target.file_stem().map_or_else(|| file.clone(), |s| s.to_string_lossy().into_owned());
    let wasm = read_file(&target.target).map_err(Error::coded)?;
    Ok(Component { file, name, wasm, project: None })
}

/// Reads a file of at most the size that a component may have, and one byte.
fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    use std::io::Read;
    let fail = |source| Error::Read { path: path.display().to_string(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(crate::plugin::MAX_COMPONENT as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

/// The engine that sessions use, without their cache, and on it the world of a case in place of this machine.
struct Stage {
    host: Host,
    world: Arc<World>,
}

impl Stage {
    fn new() -> anyhow::Result<Self> {
        let world = Arc::new(World::default());
        let (secrets, machine): (Arc<dyn Secrets>, Arc<dyn Machine>) = (world.clone(), world.clone());
        let host = Host::new(HostOptions { secrets, machine, ..HostOptions::default() }).map_err(|e| coded(e.code(), &e))?;
        Ok(Self { host, world })
    }
}

/// Loads it on a thread of its own: compiling blocks.
async fn load(host: &Host, name: &str, wasm: &[u8], config: String, grants: Grants) -> crate::plugin::Result<Arc<Plugin>> {
    let spec = LoadSpec { name: name.to_owned(), wasm: wasm.to_vec().into(), config, limits: Limits::default(), grants };
    let host = host.clone();
    let lost = |e: tokio::task::JoinError| crate::plugin::Error::Engine { detail: e.to_string() };
    tokio::task::spawn_blocking(move || host.load_kind(spec, None)).await.map_err(lost)?
}

fn coded(code: &str, e: &dyn std::error::Error) -> Coded {
    Coded { exit: Exit::No, code: code.to_owned(), message: e.to_string() }
}
