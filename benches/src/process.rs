//! Child processes and what the operating system says of them.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What one finished process took.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub wall: Duration,
    pub user: Duration,
    pub system: Duration,
    /// Peak resident set, bytes; counts file pages that were mapped.
    pub peak_rss_bytes: u64,
    /// Peak of the anonymous memory seen in samples 20 ms apart, bytes.
    pub peak_anon_bytes: u64,
}

/// Runs a command to its end; fails if it does.
pub fn run(command: &mut Command) -> io::Result<Usage> {
    let started = Instant::now();
    let child = command.stdout(Stdio::inherit()).spawn()?;
    let (status, usage) = watch(child.id(), started)?;
    match status.success() {
        true => Ok(usage),
        false => Err(io::Error::other(format!("{command:?} ended with {status}"))),
    }
}

/// The same with what it printed; `None` where its exit code is `absent`.
pub fn run_and_read(command: &mut Command, absent: i32) -> io::Result<Option<(String, Usage)>> {
    let started = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.map(|mut out| out.read_to_string(&mut text));
        read.transpose().map(|_| text)
    });
    let (status, usage) = watch(child.id(), started)?;
    let text = reader
        .join()
        .map_err(|_| io::Error::other("its output was not read"))??;
    match status.code() {
        Some(0) => Ok(Some((text, usage))),
        Some(code) if code == absent => Ok(None),
        _ => Err(io::Error::other(format!("{command:?} ended with {status}"))),
    }
}

/// Waits for a child, whose memory is sampled meanwhile.
fn watch(pid: u32, started: Instant) -> io::Result<(ExitStatus, Usage)> {
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let sampler = std::thread::spawn({
        let done = done.clone();
        move || {
            let mut peak = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                peak = peak.max(status_bytes(pid, "RssAnon:").unwrap_or(0));
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        }
    });
    let (status, usage) = wait4(pid)?;
    let wall = started.elapsed();
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    let usage = Usage {
        wall,
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
        peak_rss_bytes: usage.ru_maxrss as u64 * 1024,
        peak_anon_bytes: sampler.join().unwrap_or(0),
    };
    Ok((status, usage))
}

#[allow(
    unsafe_code,
    reason = "wait4 gives the child's own usage; std has no such call"
)]
fn wait4(pid: u32) -> io::Result<(ExitStatus, libc::rusage)> {
    use std::os::unix::process::ExitStatusExt;
    let mut status = 0;
    // SAFETY: rusage is plain data, for which zeroes are a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `pid` is a child of this process that was not waited for, and
    // both pointers are to live values of the types that wait4 writes.
    let got = unsafe { libc::wait4(pid as libc::pid_t, &raw mut status, 0, &raw mut usage) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((ExitStatus::from_raw(status), usage))
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
}

/// A field of `/proc/PID/status` that is in kB, as bytes.
pub fn status_bytes(pid: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// CPU time of a running process so far, user and system.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command's name is in parentheses and may hold spaces: count from behind it.
    let fields: Vec<&str> = match stat.rsplit_once(')') {
        Some((_, rest)) => rest.split_whitespace().collect(),
        None => Vec::new(),
    };
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|f| f.parse::<u64>().ok())
            .unwrap_or(0)
    };
    // The kernel counts in USER_HZ, which Linux fixes at 100 for user space.
    Ok(Duration::from_millis((ticks(11) + ticks(12)) * 10))
}

/// Asks the kernel to drop the pages of every file under the folder.
#[allow(
    unsafe_code,
    reason = "posix_fadvise is how a process gives up pages; std has no such call"
)]
pub fn evict(folder: &Path) -> io::Result<u64> {
    use std::os::fd::AsRawFd;
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            bytes += evict(&path)?;
        } else {
            let file = std::fs::File::open(&path)?;
            file.sync_all()?;
            // SAFETY: the descriptor is open for the length of the call.
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
            bytes += file.metadata()?.len();
        }
    }
    Ok(bytes)
}

/// Has this process, its threads to come among it, run on one core only.
pub fn pin_to_core(core: usize) -> io::Result<()> {
    run_on(core..core + 1)
}

/// Undoes [`pin_to_core`], also that of the process that started this one.
pub fn unpin() -> io::Result<()> {
    run_on(0..libc::CPU_SETSIZE as usize)
}

#[allow(unsafe_code, reason = "std has no such call")]
fn run_on(allowed: std::ops::Range<usize>) -> io::Result<()> {
    // SAFETY: cpu_set_t is plain data, for which zeroes are a valid value.
    let mut cores: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for core in allowed {
        // SAFETY: the set is a live value, and CPU_SET checks the core against its size.
        unsafe { libc::CPU_SET(core, &mut cores) };
    }
    // SAFETY: the pointer is to a live set of the size that is given.
    let done = unsafe { libc::sched_setaffinity(0, size_of_val(&cores), &raw const cores) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Puts this thread, and those that it starts, behind all others on their cores.
#[allow(unsafe_code, reason = "std has no such call")]
pub fn give_way() -> io::Result<()> {
    // SAFETY: the call takes no pointers.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A server in a process of its own, stopped when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// `host:port`.
    pub address: String,
    /// `host:port` of HTTP, where it has any.
    pub http: Option<String>,
    /// From the start of the process to the line with its address.
    pub ready_after: Duration,
}

impl Server {
    /// Starts a command that prints `ready <host:port>` once it answers, and behind
    /// that the address of HTTP if it has one.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let started = Instant::now();
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("no stdout"))?;
        for line in BufReader::new(stdout).lines() {
            if let Some(addresses) = line?.strip_prefix("ready ") {
                let ready_after = started.elapsed();
                let mut addresses = addresses.split_whitespace().map(str::to_owned);
                return Ok(Self {
                    child,
                    address: addresses.next().unwrap_or_default(),
                    http: addresses.next(),
                    ready_after,
                });
            }
        }
        Err(io::Error::other(format!(
            "{command:?} ended before it was ready"
        )))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The middle of the values, of the two middle ones the mean; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}
