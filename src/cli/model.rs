//! `beadle model serve`: a scripted model for anybody's experiments, until Ctrl-C.

use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::args::ModelVerb;
use super::exit::{Coded, Exit};
use super::{Context, Outcome};
use crate::gateway::{Error, Options, Script, Server};

/// What `beadle model serve` takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Serve {
    pub script: PathBuf,
    /// 0 takes a free port.
    pub port: u16,
    /// Gets the port as decimal text, whole or not at all.
    pub port_file: Option<PathBuf>,
    /// Gets one JSON line a request, keys redacted.
    pub log: Option<PathBuf>,
    pub latency_ms: u64,
}

/// Serves until SIGINT or SIGTERM; `announce` gets the address to give to an agent as `ANTHROPIC_BASE_URL`.
pub async fn serve(args: Serve, announce: impl FnOnce(&str)) -> Result<(), Error> {
    let script = Script::load(&args.script)?;
    let no_signal = |source| Error::Listen { port: args.port, source };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signal)?;
    let options = Options { port: args.port, log: args.log, latency: Duration::from_millis(args.latency_ms) };
    let server = Server::start(script, options).await?;
    if let Some(path) = args.port_file {
        let part = path.with_extension("part");
        std::fs::write(&part, server.addr().port().to_string())
            .and_then(|()| std::fs::rename(&part, &path))
            .map_err(|source| Error::Write { path, source })?;
    }
    announce(&server.url());
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    server.stop().await;
    Ok(())
}

/// The verb: says on standard output where the model listens.
pub async fn run(cx: &mut Context, verb: ModelVerb) -> Outcome {
    let ModelVerb::Serve { script, port, port_file, log, latency_ms } = verb;
    let mut said = Ok(());
    let announce = |url: &str| {
        said = if cx.printer.json() {
            cx.printer.document(&serde_json::json!({ "url": url }))
        } else {
            cx.printer.line(&format!("ANTHROPIC_BASE_URL={url}"))
        };
    };
    serve(Serve { script, port, port_file, log, latency_ms }, announce).await.map_err(|e| Coded {
        exit: Exit::Usage,
        code: e.code().to_owned(),
        message: e.to_string(),
    })?;
    said?;
    Ok(Exit::Done)
}
