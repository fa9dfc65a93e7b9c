//! The command line: parses, calls the API, renders what it returned. One file a noun.
//!
//! Invariants:
//! - only `printer` writes, only `exit` knows codes;
//! - what an agent or a repository said is untrusted text and made safe before it is shown (`text`);
//! - a verb that changes something goes through the daemon: no file of `cli` touches the store.
//!
//! Called by `main`.

mod account;
mod approvals;
mod args;
mod args_check;
mod ask;
mod attach;
mod attempts;
mod branch;
mod collect;
mod compact;
mod completions;
mod config;
mod confirm;
mod context;
mod daemon;
mod demo;
mod doctor;
mod events;
mod exit;
mod heads;
mod hook;
mod host;
mod import;
mod keep;
mod logs;
mod mcp;
mod memory;
mod model;
mod operator;
mod pause;
mod plan;
mod plugin;
mod policy;
mod printer;
mod queue;
mod replay;
mod restore;
mod rule;
mod run;
#[cfg(test)]
mod sample;
mod schema;
mod session;
mod show;
mod sink;
mod stage;
mod stats;
mod task;
mod text;
mod timeline;
mod top;
mod tree;
mod trust;
mod unit;
mod upgrade;
mod verify;
mod written;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::api::client::Client;
use crate::config::Folders;
use args::{Cli, ConfigVerb, HookVerb, HostVerb, PolicyVerb, RuleVerb, Verb};
use exit::{Exit, classify};
use printer::{Printer, Style};

/// How a verb ends.
pub type Outcome = anyhow::Result<Exit>;

/// What every verb gets.
pub struct Context {
    pub printer: Printer,
}

impl Context {
    pub fn folders(&self) -> anyhow::Result<Folders> {
        Ok(Folders::from_env()?)
    }

    /// A client that starts the daemon when it is not there.
    pub fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::new(self.folders()?))
    }
}

/// The whole program.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // why ignore: with nobody reading, the exit code still says it.
            let _ = if e.use_stderr() { Printer::standard(Style::default()).usage(&e.render()) } else { e.print() };
            return ExitCode::from(if e.use_stderr() { Exit::Usage.code() } else { Exit::Done.code() });
        }
    };
    let mut cx = Context { printer: Printer::standard(Style { json: cli.json, quiet: cli.quiet }) };
    let outcome = match cli.verb {
        // The agent of the demo owns its standard output and its exit codes.
        Verb::DemoAgent { args } => return runtime(true).map_or(ExitCode::from(Exit::Internal.code()), |r| demo::agent(&r, args)),
        verb => runtime(needs_threads(&verb)).and_then(|r| {
            let outcome = r.block_on(dispatch(&mut cx, verb));
            // why not waiting: a thread may sit in a read of the terminal.
            r.shutdown_background();
            outcome
        }),
    };
    ExitCode::from(finish(&mut cx, outcome).code())
}

fn finish(cx: &mut Context, outcome: Outcome) -> Exit {
    let error = match outcome {
        Ok(exit) => return exit,
        Err(error) => error,
    };
    let Some(class) = classify(&error) else { return Exit::Done };
    let message = text::safe_lines(&format!("{error:#}"));
    // why ignore: when even standard error is gone, the exit code is what is left.
    let _ = cx.printer.error(&message, &class);
    class.exit
}

const fn needs_threads(verb: &Verb) -> bool {
    matches!(
        verb,
        Verb::Daemon(_)
            | Verb::Demo(_)
            | Verb::Doctor(_)
            | Verb::Top(_)
            | Verb::Policy(_)
            | Verb::Plugin(_)
            | Verb::Model(_)
            | Verb::Config(_)
            | Verb::Compact(_)
    )
}

fn runtime(threads: bool) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = if threads { tokio::runtime::Builder::new_multi_thread() } else { tokio::runtime::Builder::new_current_thread() };
    Ok(builder.enable_all().build()?)
}

async fn dispatch(cx: &mut Context, verb: Verb) -> Outcome {
    match verb {
        Verb::Demo(args) => demo::run(cx, args).await,
        Verb::Run(args) => run::run(cx, args).await,
        Verb::Compact(args) => compact::compact(cx, args).await,
        Verb::Send(args) => session::send(cx, args).await,
        Verb::Attach(args) => attach::attach(cx, &args.session).await,
        Verb::Ls(args) => session::ls(cx, args).await,
        Verb::Show(args) => show::show(cx, args).await,
        Verb::Attempts(args) => attempts::attempts(cx, args).await,
        Verb::Checkpoint(args) => attempts::checkpoint(cx, &args.session).await,
        Verb::Rollback(args) => attempts::roll_back(cx, args).await,
        Verb::Ps(args) => session::ps(cx, &args.session).await,
        Verb::Logs(args) => logs::logs(cx, args).await,
        Verb::Events(args) => events::events(cx, args).await,
        Verb::Stop(args) => session::stop(cx, args).await,
        Verb::Kill(args) => session::kill(cx, args).await,
        Verb::Pause(args) => pause::pause(cx, args).await,
        Verb::Resume(args) => pause::resume(cx, args).await,
        Verb::Fork(args) => branch::fork(cx, args).await,
        Verb::Handoff(args) => tree::hand_off(cx, args).await,
        Verb::Task(verb) => task::run(cx, verb).await,
        Verb::Memory(verb) => memory::run(cx, verb).await,
        Verb::Context(verb) => context::run(cx, verb).await,
        Verb::Wait(args) => session::wait(cx, args).await,
        Verb::Rm(args) => session::rm(cx, args).await,
        Verb::Approvals(args) => approvals::approvals(cx, args).await,
        Verb::Approve(args) => approvals::approve(cx, args).await,
        Verb::Deny(args) => approvals::deny(cx, args).await,
        Verb::Account(args) => account::account(cx, args).await,
        Verb::Verify(args) => verify::verify(cx, args).await,
        Verb::Export(args) => verify::export(cx, &args.session).await,
        Verb::Transcript(args) => keep::transcript(cx, args).await,
        Verb::Archive(args) => keep::archive(cx, args).await,
        Verb::Redact(args) => keep::redact(cx, args).await,
        Verb::Import(args) => import::import(cx, args).await,
        Verb::Session(verb) => written::run(cx, verb).await,
        Verb::Rule(RuleVerb::Add { effect, rule, session }) => rule::add(cx, effect, rule, session).await,
        Verb::Rule(RuleVerb::Revoke { id }) => rule::revoke(cx, &id).await,
        Verb::Rule(RuleVerb::Ls { session }) => rule::ls(cx, session.as_deref()).await,
        Verb::Mcp => mcp::serve(cx).await,
        Verb::Hook(HookVerb::Install(args)) => hook::install(cx, args).await,
        Verb::Hook(HookVerb::Uninstall(args)) => hook::uninstall(cx, args).await,
        Verb::Hook(HookVerb::Status(args)) => hook::status(cx, args).await,
        Verb::Hook(HookVerb::Begin { home, .. }) => hook::begin(cx, home).await,
        Verb::Policy(PolicyVerb::Ls(args)) => policy::ls(cx, args).await,
        Verb::Policy(PolicyVerb::Explain(args)) => policy::explain(cx, args).await,
        Verb::Policy(PolicyVerb::Schema(args)) => schema::print(cx, &args),
        Verb::Plugin(verb) => plugin::run(cx, verb).await,
        Verb::Policy(PolicyVerb::Replay(args)) => policy::replay::replay(cx, args).await,
        Verb::Config(ConfigVerb::Show(args)) => config::show(cx, args).await,
        Verb::Config(ConfigVerb::Check(args)) => config::check(cx, args).await,
        Verb::Config(ConfigVerb::Path) => config::path(cx),
        Verb::Trust(args) => trust::trust(cx, args).await,
        Verb::Top(args) => top::top(cx, args).await,
        Verb::Stats(args) => stats::stats(cx, args).await,
        Verb::Doctor(args) => doctor::run(cx, args).await,
        Verb::Operator(verb) => operator::run(cx, verb).await,
        Verb::Sink(verb) => sink::run(cx, verb).await,
        Verb::Queue(verb) => queue::run(cx, verb).await,
        Verb::Host(HostVerb::Status) => host::status(cx).await,
        Verb::Host(HostVerb::Logs { follow, tail }) => host::logs(cx, follow, tail).await,
        Verb::Host(HostVerb::Reload { accept_changes }) => host::reload(cx, accept_changes).await,
        Verb::Host(HostVerb::Upgrade { to, force, within }) => upgrade::run(cx, to, force, within).await,
        Verb::Host(HostVerb::Gc(args)) => collect::gc(cx, args).await,
        Verb::Host(HostVerb::Backup { to }) => collect::backup(cx, to).await,
        Verb::Host(HostVerb::Restore(args)) => restore::restore(cx, args).await,
        Verb::Host(HostVerb::Stop) => host::stop(cx).await,
        Verb::Host(HostVerb::Unit) => unit::print(cx),
        Verb::Model(verb) => model::run(cx, verb).await,
        Verb::Daemon(args) => daemon::run(cx, args).await,
        Verb::Completions { shell } => completions::print(cx, shell),
        Verb::DoctorNotes { log } => doctor::notes(&log),
        Verb::DemoAgent { .. } => Ok(Exit::Internal),
    }
}

/// The clap tree, for completions and its own check.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_argument_tree_is_sound() {
        super::command().debug_assert();
    }
}
