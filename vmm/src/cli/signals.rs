//! Termination signals as messages: Ctrl-C and its kin arrive on a channel, where every command waits anyway.
//!
//! The signals are blocked in every thread and taken by one that waits for them, so no code runs in a signal handler.

use std::io;
use std::mem::MaybeUninit;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// A signal that asks the process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(pub i32);

impl Signal {
    /// Its name, as `kill` knows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            libc::SIGINT => "SIGINT",
            libc::SIGTERM => "SIGTERM",
            libc::SIGHUP => "SIGHUP",
            _ => "a signal",
        }
    }
}

/// Turns SIGINT, SIGTERM and SIGHUP into messages. Must be called before any other thread is started, and once.
///
/// # Errors
/// When the system gives no thread.
pub fn receive() -> io::Result<Receiver<Signal>> {
    let (sender, receiver) = channel();
    let set = set_of(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP]);
    mask(libc::SIG_BLOCK, &set)?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        loop {
            let mut signal = 0;
            // SAFETY: both pointers are to initialised values that outlive the call.
            let error = unsafe { libc::sigwait(&raw const set, &raw mut signal) };
            if error != 0 || sender.send(Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// Ends the process by the signal after all, as if it had never been taken.
pub fn die_of(Signal(signal): Signal) {
    // A mask that cannot be changed leaves the process to its orderly end.
    if mask(libc::SIG_UNBLOCK, &set_of(&[signal])).is_ok() {
        // SAFETY: `raise` has no precondition.
        unsafe { libc::raise(signal) };
    }
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that it is given, and sigaddset only changes it; the pointers are valid.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// Changes the calling thread's mask, which the threads that it starts inherit.
fn mask(how: i32, set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: the set is initialised, and a null pointer for the old mask is allowed (pthread_sigmask(3)).
    match unsafe { libc::pthread_sigmask(how, set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
