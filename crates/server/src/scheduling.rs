//! What the operating system is asked to do where several threads want one core: to let
//! those that answer run as soon as they wake, and those beside them give way.

use std::io;

/// As `nice` counts: a tenth of the core that reads want as well, all of one that
/// they leave alone.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// How long who answers runs at a time where others want the core. Who asks for little
/// at a time need not wait until one who asks for more has had it: since Linux 6.12;
/// those before do not hear of it.
#[cfg(target_os = "linux")]
const SLICE_NANOS: u64 = 100_000;

/// Has this thread, and those that it starts from now on, run as soon as they wake. To be
/// called before the runtime that serves is made; does nothing but on Linux.
pub fn answer_soon() {
    #[cfg(target_os = "linux")]
    if let Err(error) = linux::change_slice(SLICE_NANOS) {
        tracing::debug!(%error, "reads wait for their core as others do");
    }
}

/// Has this thread, and those that it starts, give way. Not by so much more each time:
/// threads have the priority of those that start them. Elsewhere than on Linux it would be
/// the whole process that gave way.
pub(crate) fn give_way() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let nice = rustix::process::getpriority_process(None)?;
        if nice < NICE {
            rustix::process::setpriority_process(None, NICE)?;
        }
        // As the system has it.
        if let Err(error) = linux::change_slice(0) {
            tracing::debug!(%error, "background work runs as soon as it wakes");
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
pub(crate) mod linux {
    use std::io;
    use std::mem::size_of;

    /// `struct sched_attr` of `sched_setattr(2)`, as its first version has it.
    #[repr(C)]
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub(crate) struct Asked {
        size: u32,
        policy: u32,
        flags: u64,
        pub nice: i32,
        priority: u32,
        /// `sched_runtime`, for threads of no real-time policy.
        pub slice_nanos: u64,
        deadline_nanos: u64,
        period_nanos: u64,
    }

    const SIZE: u32 = size_of::<Asked>() as u32;
    const THIS_THREAD: libc::pid_t = 0;
    const NO_FLAGS: libc::c_uint = 0;

    /// What this thread has asked for.
    pub(crate) fn asked() -> io::Result<Asked> {
        let mut asked = Asked::default();
        // SAFETY: the call writes no more than the size that it is told, that of `asked`.
        #[allow(unsafe_code, reason = "no library has this call")]
        let done = unsafe {
            let asked: *mut Asked = &raw mut asked;
            libc::syscall(libc::SYS_sched_getattr, THIS_THREAD, asked, SIZE, NO_FLAGS)
        };
        outcome(done).map(|()| asked)
    }

    /// Asks for slices of another length; not for a thread of a real-time policy.
    pub(crate) fn change_slice(nanos: u64) -> io::Result<()> {
        let mut asked = asked()?;
        if ![libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&asked.policy.cast_signed()) {
            return Ok(());
        }
        asked.slice_nanos = nanos;
        // SAFETY: the call reads `asked`, of the size that it says.
        #[allow(unsafe_code, reason = "no library has this call")]
        let done = unsafe {
            let asked: *const Asked = &raw const asked;
            libc::syscall(libc::SYS_sched_setattr, THIS_THREAD, asked, NO_FLAGS)
        };
        outcome(done)
    }

    fn outcome(done: libc::c_long) -> io::Result<()> {
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
