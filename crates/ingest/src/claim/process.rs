//! Which process holds a claim, and whether it is gone.
//!
//! A process is known to be gone only on the machine, since the boot and in
//! the process namespace that it ran in. Everywhere else a claim has to expire.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Names a process for good: its number may be given to another later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub host: String,
    pub pid: u32,
    /// Where the machine tells these; they make `pid` unique.
    pub origin: Option<Origin>,
}

/// Since when, and where, a process number counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Another after every boot of the machine.
    pub boot: String,
    /// Process numbers of containers are their own.
    pub namespace: String,
    /// Clock ticks after the boot.
    pub started: u64,
}

impl ProcessId {
    /// The process that asks.
    pub fn this() -> Self {
        let pid = std::process::id();
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = match host.trim() {
            "" => "this machine",
            name => name,
        };
        Self {
            host: host.to_owned(),
            pid,
            origin: here()
                .zip(started(pid))
                .map(|((boot, namespace), started)| Origin {
                    boot,
                    namespace,
                    started,
                }),
        }
    }

    /// True only if the process ran here and runs no more.
    pub fn is_gone(&self) -> bool {
        let (Some(origin), Some((boot, namespace))) = (&self.origin, here()) else {
            return false;
        };
        origin.boot == boot
            && origin.namespace == namespace
            && started(self.pid) != Some(origin.started)
    }
}

/// `process 4711 on host db1`
impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

/// The boot and the process namespace that we are in; `None` off Linux.
fn here() -> Option<(String, String)> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some((
        boot.trim().to_owned(),
        namespace.to_string_lossy().into_owned(),
    ))
}

/// When a process started, in clock ticks after the boot; `None` where it does
/// not run (any more). Source: proc_pid_stat(5).
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    // `state` is field 3, `starttime` field 22.
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_there() {
        let this = ProcessId::this();
        assert!(!this.is_gone());
        assert_eq!(this, ProcessId::this());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_ended_process_is_gone() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = ProcessId {
            pid: child.id(),
            origin: ProcessId::this().origin.map(|origin| Origin {
                started: started(child.id()).unwrap(),
                ..origin
            }),
            host: "here".into(),
        };
        assert!(!process.is_gone());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.is_gone());
    }

    #[test]
    fn of_other_boots_and_machines_nothing_is_known() {
        let mut other = ProcessId::this();
        other.pid = u32::MAX;
        if let Some(origin) = &mut other.origin {
            origin.boot = "another".into();
        }
        assert!(!other.is_gone());
        other.origin = None;
        assert!(!other.is_gone());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_number_given_to_another_process_is_not_the_same() {
        let mut reused = ProcessId::this();
        reused.origin.as_mut().unwrap().started += 1;
        assert!(reused.is_gone());
    }
}
