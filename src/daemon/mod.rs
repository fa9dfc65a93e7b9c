//! The daemon: puts everything together, in an order that can be read from top to bottom.
//!
//! Invariants:
//! - one per data folder: the store's lock is taken before anything is served or started;
//! - sessions of an earlier daemon are adopted before the first request is answered;
//! - ending the daemon ends no session;
//! - it never goes on with a part of itself lost (`whole`).
//!
//! Called by `cli::daemon`.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::api::{About, App, Peer, router, stored_trust};
use crate::config::{self, Folders};
use crate::metrics::Metrics;
use crate::model::{Clock, Entropy, OsEntropy};
use crate::operator::{self, Operators};
use crate::plugin::{CacheOptions, Host, HostOptions, KeptLogs};
use crate::policy::Chains;
use crate::policy::own::OwnFolders;
use crate::session::{Manager, Parts};
use crate::sink::{self, Sinks};
use crate::store::{self, Store};
use crate::{notify, plugin, process, session, whole};

mod check;
mod file;
mod log;
mod notices;
mod pins;
mod restore;
mod secrets;

pub use check::{Checked, check, rehearse};
pub use restore::{restore, step_back};

/// How often the daemon looks whether it is still needed.
const LINGER_POLL: Duration = Duration::from_secs(1);

/// Why the daemon does not run. Codes are stable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Session(#[from] session::Error),
    #[error(transparent)]
    Process(#[from] process::Error),
    #[error(transparent)]
    Plugin(#[from] plugin::Error),
    #[error(transparent)]
    Operator(#[from] operator::Error),
    #[error(transparent)]
    Sink(#[from] sink::Error),
    #[error("socket {path}: {source}; check the folder's permissions, or set BEADLE_HOME to another one")]
    Socket { path: PathBuf, source: std::io::Error },
    #[error("another daemon already listens on {path}; use its data folder, or set BEADLE_HOME")]
    SocketTaken { path: PathBuf },
    #[error("{doing} {path}: {source}; check the data folder")]
    File { doing: &'static str, path: PathBuf, source: std::io::Error },
}

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Self::Config(e) => e.code(),
            Self::Store(e) => e.code(),
            Self::Session(e) => e.code(),
            Self::Process(e) => e.code(),
            Self::Plugin(e) => e.code(),
            Self::Operator(e) => e.code(),
            Self::Sink(e) => e.code(),
            Self::Socket { .. } => "BDL-DAEMON-001",
            Self::SocketTaken { .. } => "BDL-DAEMON-002",
            Self::File { .. } => "BDL-DAEMON-003",
        }
    }
}

/// What plugins log is kept for their authors; a folder that cannot be made costs that and nothing else.
fn kept_logs(folders: &Folders) -> Option<KeptLogs> {
    let kept = KeptLogs::start(folders.data.join("plugin-logs"), |text| session::mask::text(&text).into_owned());
    kept.inspect_err(|e| tracing::warn!(error = %e, "what plugins log is not kept beyond their sessions")).ok()
}

/// The engine, with the host's cache, secrets and own folders.
fn plugin_host(folders: &Folders, entropy: &dyn Entropy, logs: Option<KeptLogs>) -> Result<Host, Error> {
    Ok(Host::new(HostOptions {
        cache: Some(CacheOptions { dir: folders.cache.join("plugins"), key: cache_key(&folders.data, entropy)? }),
        secrets: Arc::new(secrets::Keeper::new(&folders.config)),
        logs,
        own: [&folders.config, &folders.data, &folders.cache, &folders.runtime].map(PathBuf::clone).to_vec(),
        ..HostOptions::default()
    })?)
}

/// Runs until it is told to end. Needs the multi-threaded runtime.
pub async fn run(folders: Folders) -> Result<(), Error> {
    guard_process();
    whole::guard();
    folders.create()?;
    let clock: Arc<dyn Clock> = session::clock();
    let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy);
    let config = config::load_for(&folders, None, &|_, _| false)?.config;
    log::start(&folders.log_file(), &config.log)?;
    let prices = config.price_table(&folders.config)?.0;
    let store = Store::open(&folders.data, store::Options { clock: clock.clone(), entropy: entropy.clone(), ..store::Options::default() })?;
    let bin = folders.data.join("bin");
    config::create_private(&bin)?;
    let shim_bin = process::install(&bin)?;
    process::install_stable(&bin)?;
    let plugins = plugin_host(&folders, entropy.as_ref(), kept_logs(&folders))?;
    let trust: BTreeMap<_, _> = stored_trust(&store)?.into_iter().map(|(dir, t)| (dir, t.digest)).collect();
    let chains = Chains::new(folders.clone(), plugins.clone(), trust);
    let run_root = folders.data.join("s");
    config::create_private(&run_root)?;
    let metrics = Arc::new(Metrics::new(clock.wall_ms()));
    let operators = Arc::new(Operators::load(config.confirm, store.clone(), clock.clone(), entropy.clone()).await?);
    let manager = Manager::new(Parts {
        store: store.clone(),
        prices,
        metrics: metrics.clone(),
        config: Arc::new(config.clone()),
        chains: chains.clone(),
        own: OwnFolders::new([&folders.config, &folders.data, &folders.cache, &folders.runtime].map(PathBuf::clone)),
        clock: clock.clone(),
        entropy: entropy.clone(),
        shim_bin,
        host_bin: host_bin()?,
        run_root,
    })?;
    // why after the manager: it brings what is installed from the store, and sinks may be of that.
    let sinks = Sinks::start(sink::Parts {
        sinks: config.sinks.clone(),
        groups: config.sink_groups.clone(),
        store: store.clone(),
        plugins,
        pins: Arc::new(pins::InstalledPlugins { chains, manager: manager.clone() }),
        clock: clock.clone(),
        entropy: entropy.clone(),
    })
    .await?;
    manager.hold_for(Arc::new(sinks.clone()));
    let listeners = bind_all(&folders).await?;
    let recovered = manager.recover().await?;
    tracing::info!(pid = std::process::id(), data = %folders.data.display(), ?recovered, "daemon is up");

    let finishing = manager.clone();
    tokio::spawn(async move { finishing.finish_erasures().await });
    let (channels, broken) = notify::channels(&config.notify, &entropy);
    for e in broken {
        tracing::error!(code = e.code(), error = %e, "nobody is told this way");
    }
    let told = channels.iter().map(|c| (c.name, c.counts.clone())).collect();
    for channel in channels {
        tokio::spawn(notices::follow(manager.clone(), channel, clock.clone()));
    }
    let (shutdown, mut ending) = watch::channel(false);
    let about = Arc::new(About {
        folders: folders.clone(),
        started_at: clock.wall_ms(),
        program: host_bin()?,
        recovered,
        shutdown: shutdown.clone(),
        told,
    });
    let tail = std::sync::Arc::default();
    let app = App { manager: manager.clone(), about, metrics, operators, sinks: sinks.clone(), tail };
    let mut servers = Vec::new();
    for listener in listeners {
        let service = router(app.clone()).into_make_service_with_connect_info::<Peer>();
        let mut stop = shutdown.subscribe();
        let server = axum::serve(listener, service).with_graceful_shutdown(async move {
            let _ = stop.changed().await;
        });
        servers.push(tokio::spawn(std::future::IntoFuture::into_future(server)));
    }
    tokio::select! {
        _ = ending.changed() => tracing::info!("told to end"),
        signal = signal() => tracing::info!(signal, "signal"),
        () = unused(&manager, &sinks, config.linger_ms) => tracing::info!("no session for a while"),
    }
    shutdown.send_replace(true);
    manager.shutdown();
    for s in servers {
        // why a bound: a stream that never ends must not hold the daemon.
        let _ = tokio::time::timeout(Duration::from_secs(1), s).await;
    }
    for path in folders.sockets() {
        let _ = std::fs::remove_file(path);
    }
    sinks.stop().await;
    store.close();
    tracing::info!("daemon ends; sessions go on");
    Ok(())
}

/// Files are private from the start, and other processes of the same user cannot read the daemon's memory.
fn guard_process() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    if let Err(e) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable) {
        tracing::warn!(error = %e, "the daemon stays dumpable");
    }
}

async fn bind_all(folders: &Folders) -> Result<Vec<UnixListener>, Error> {
    let mut out = Vec::new();
    for path in folders.sockets() {
        let short = config::short_path(&path)?;
        let fail = |source| Error::Socket { path: path.clone(), source };
        if UnixStream::connect(&short.path).await.is_ok() {
            return Err(Error::SocketTaken { path: path.clone() });
        }
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fail(e)),
            _ => {}
        }
        let listener = UnixListener::bind(&short.path).map_err(fail)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
        out.push(listener);
    }
    Ok(out)
}

async fn signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        // why: without handlers the default action ends the process, which loses nothing.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => "TERM",
        _ = int.recv() => "INT",
    }
}

async fn unused(manager: &Manager, sinks: &Sinks, linger_ms: Option<u64>) {
    let Some(linger) = linger_ms.map(Duration::from_millis) else { return std::future::pending().await };
    let mut since = tokio::time::Instant::now();
    let mut stayed = false;
    loop {
        tokio::time::sleep(LINGER_POLL.min(linger.max(Duration::from_millis(10)))).await;
        // why also for sinks: what they have not got yet, nobody else delivers.
        if manager.live_count() > 0 || sinks.has_work() || manager.has_queued() {
            since = tokio::time::Instant::now();
        }
        if since.elapsed() >= linger {
            // why: an agent whose hooks find no daemon runs nothing.
            if manager.hooked().is_empty() {
                return;
            }
            if !stayed {
                tracing::info!("no session for a while; hooks are installed, so it stays");
                stayed = true;
            }
        }
    }
}

fn host_bin() -> Result<PathBuf, Error> {
    std::env::current_exe().map_err(|source| Error::File { doing: "finding the executable", path: PathBuf::new(), source })
}

/// The key that authenticates compiled plugins; made at the first start, readable by the host's user only.
fn cache_key(data: &Path, entropy: &dyn Entropy) -> Result<[u8; 32], Error> {
    let path = data.join("plugin-cache.key");
    if let Ok(bytes) = std::fs::read(&path)
        && let Ok(key) = <[u8; 32]>::try_from(bytes.as_slice())
    {
        return Ok(key);
    }
    let mut key = [0u8; 32];
    entropy.fill(&mut key);
    file::write_private(&path, &key, 0o600)?;
    Ok(key)
}
