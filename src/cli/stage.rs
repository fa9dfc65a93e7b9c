//! A host of its own in a temporary folder: what `demo` and `doctor` play on, so that nothing of the user's is touched.
//!
//! Invariants: its data, socket and configuration lie below that folder; the daemon is ended with it, by its own pid.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::exit::UsageError;
use crate::api::client::Client;
use crate::config::Folders;

/// How long the daemon may take to come up, and to go.
const START: Duration = Duration::from_secs(20);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// A new folder of our own, 0700, with links resolved (agents see real paths).
pub fn temporary(prefix: &str) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let base = std::env::temp_dir().canonicalize()?;
    for n in 0..100 {
        let dir = base.join(format!("{prefix}-{}-{n}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(UsageError(format!("no free name for a folder in {}", base.display())).into())
}

/// The folders of a host whose home is given.
pub fn folders(home: &Path) -> anyhow::Result<Folders> {
    let home = home.as_os_str().to_owned();
    Ok(Folders::resolve(&|name| (name == "BEADLE_HOME").then(|| home.clone()), &|_| false)?)
}

/// A daemon below one folder.
pub struct PrivateHost {
    home: PathBuf,
    client: Client,
    child: Child,
}

impl PrivateHost {
    /// Starts one with the given configuration and waits until it answers.
    pub async fn start(home: &Path, config: &str) -> anyhow::Result<Self> {
        let folders = folders(home)?;
        folders.create()?;
        std::fs::write(folders.config_file(), config)?;
        let client = Client::without_start(folders);
        let child = spawn(home)?;
        let mut host = Self { home: home.to_owned(), client, child };
        host.up().await?;
        Ok(host)
    }

    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// SIGKILL, as a crash would end it.
    pub fn kill(&mut self) {
        // why ignore: it may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// A new daemon on the same data.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.home)?;
        self.up().await
    }

    async fn up(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + START;
        loop {
            match self.client.host().await {
                Ok(_) => return Ok(()),
                Err(e) if Instant::now() >= until || self.child.try_wait()?.is_some() => return Err(e.into()),
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Ends it in order; by force when it does not go.
    pub async fn stop(mut self) {
        let until = Instant::now() + START;
        let told = self.client.shutdown().await.is_ok();
        while told && Instant::now() < until {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
        self.kill();
    }
}

impl Drop for PrivateHost {
    fn drop(&mut self) {
        // why: an early return must not leave a daemon behind whose folder is about to go.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

fn spawn(home: &Path) -> anyhow::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    // why: the user's settings by environment are not meant for this host.
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("BEADLE_")) {
        command.env_remove(name);
    }
    Ok(command
        .args(["daemon", "--detach"])
        .env("BEADLE_HOME", home)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?)
}
