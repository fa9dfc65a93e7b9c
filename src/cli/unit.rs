//! `beadle host unit`: a systemd user unit that keeps a daemon running. Printed, never installed: that is the operator's.
//!
//! Invariants: the daemon that it starts finds the same folders as this command; what ends the daemon ends no session (`KillMode`), and a
//! process of a session that the kernel kills for its memory does not end the daemon (`OOMPolicy`).

use std::ffi::OsString;
use std::path::Path;

use serde::Serialize;

use super::exit::{Exit, UsageError};
use super::text::safe;
use super::{Context, Outcome};

/// Name of the unit in what is said of it.
const NAME: &str = "beadle.service";
/// What decides where the folders are. `XDG_RUNTIME_DIR` is the user manager's own.
const FOLDERS: &[&str] = &["BEADLE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"];

#[derive(Serialize)]
struct UnitDoc {
    name: &'static str,
    unit: String,
}

pub fn print(cx: &mut Context) -> Outcome {
    // What is wrong with the folders is told here, and not by a service that does not start.
    cx.folders()?;
    let program = std::env::current_exe()?;
    let unit = unit(&program, &|name| std::env::var_os(name))?;
    if cx.printer.json() {
        cx.printer.document(&UnitDoc { name: NAME, unit })?;
    } else {
        cx.printer.octets(unit.as_bytes())?;
    }
    Ok(Exit::Done)
}

fn unit(program: &Path, env: &dyn Fn(&str) -> Option<OsString>) -> Result<String, UsageError> {
    let path = program.to_str().ok_or_else(|| refused(program, "is no UTF-8"))?;
    // why: systemd takes no such program, however it is quoted; and a replaced executable is named so by the kernel.
    if path.chars().any(|c| c.is_control() || matches!(c, '"' | '\'' | '\\')) {
        return Err(refused(program, "has a quote, a backslash or a control character"));
    }
    if path.ends_with(" (deleted)") || !program.is_absolute() {
        return Err(refused(program, "was replaced or removed while it ran"));
    }
    let mut environment = String::new();
    for name in FOLDERS {
        // Relative ones count as unset, as for the folders themselves.
        let Some(value) = env(name).filter(|v| Path::new(v).is_absolute()) else { continue };
        let value = value.to_str().filter(|v| !v.chars().any(char::is_control));
        let value = value.ok_or_else(|| UsageError(format!("{name} is no plain text; a unit cannot hold it")))?;
        environment.push_str(&format!("Environment={}\n", quoted(&format!("{name}={value}"))));
        if *name == "BEADLE_HOME" {
            break;
        }
    }
    Ok(format!(
        "\
# Keeps a daemon of Beadle running, from the start of the machine on. To enable it:
#   mkdir -p ~/.config/systemd/user && beadle host unit > ~/.config/systemd/user/{NAME}
#   beadle host stop              # one that was started on demand; its sessions go on
#   systemctl --user daemon-reload && systemctl --user enable --now {NAME}
#   loginctl enable-linger        # also before you log in, and after you log out
# Who starts a daemon otherwise (`beadle host upgrade`, any command after `beadle host stop`) leaves it beside systemd: stop it and start
# the unit again.

[Unit]
Description=Beadle, a session host for AI coding agents

[Service]
Type=exec
ExecStart={program} daemon
{environment}WorkingDirectory=/
# Sessions outlive their daemon: only its own process is ended, the next one adopts them.
KillMode=process
# An agent that runs out of memory is no reason to end the daemon; all that agents start counts as this unit's.
OOMPolicy=continue
TasksMax=infinity
# Not after a clean end (`beadle host stop`), nor where its configuration is wrong (exit code 2).
Restart=on-failure
RestartSec=1
RestartPreventExitStatus=2

[Install]
WantedBy=default.target
",
        program = quoted(path),
    ))
}

fn refused(program: &Path, why: &str) -> UsageError {
    UsageError(format!("this executable, {}, {why}; put it elsewhere and run it from there", safe(&program.to_string_lossy())))
}

/// A word as a unit has it: nothing in it is split, taken for an escape or for a specifier.
fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(program: &str, vars: &[(&str, &str)]) -> Result<String, UsageError> {
        unit(Path::new(program), &|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)))
    }

    #[test]
    fn the_daemon_finds_the_folders_of_whoever_printed_it() {
        let u = of("/opt/a b%/beadle", &[("BEADLE_HOME", "/h \"%\\"), ("XDG_DATA_HOME", "/d")]).unwrap();
        assert!(u.contains("\nExecStart=\"/opt/a b%%/beadle\" daemon\n"), "{u}");
        assert!(u.contains("\nEnvironment=\"BEADLE_HOME=/h \\\"%%\\\\\"\n") && !u.contains("XDG_"), "{u}");
        let u = of("/b", &[("XDG_DATA_HOME", "/d"), ("XDG_CACHE_HOME", "relative"), ("XDG_CONFIG_HOME", "/c")]).unwrap();
        assert!(u.contains("Environment=\"XDG_CONFIG_HOME=/c\"\nEnvironment=\"XDG_DATA_HOME=/d\"\n") && !u.contains("relative"), "{u}");
        assert!(!of("/b", &[]).unwrap().contains("Environment="));
    }

    #[test]
    fn what_no_unit_can_hold_is_refused() {
        for program in ["/a\"b", "/a'b", "/a\\b", "/a\nb", "/usr/bin/beadle (deleted)", "beadle"] {
            assert!(of(program, &[]).is_err(), "{program:?}");
        }
        assert!(of("/b", &[("BEADLE_HOME", "/h\nExecStartPre=/bin/sh")]).is_err());
    }
}
