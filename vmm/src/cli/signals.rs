//! Termination signals as messages: Ctrl-C and its kin arrive on a channel, where every command waits anyway.
//!
//! The signals are blocked in every thread and taken by one that waits for them, so no code runs in a signal handler.

use std::io;
use std::mem::MaybeUninit;
use std::sync::mpsc::{Receiver, Sender, channel};
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
    send_to(sender, |signal| signal)?;
    Ok(receiver)
}

/// As [`receive`], into a channel that carries other messages too.
///
/// # Errors
/// When the system gives no thread.
pub fn send_to<T: Send + 'static>(sender: Sender<T>, wrap: fn(Signal) -> T) -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that it is given, and sigaddset only changes it; the pointers are valid.
    let set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    };
    // SAFETY: the set is initialised, and a null pointer for the old mask is allowed (pthread_sigmask(3)).
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => {}
        errno => return Err(io::Error::from_raw_os_error(errno)),
    }
    thread::Builder::new().name("signals".into()).spawn(move || {
        loop {
            let mut signal = 0;
            // SAFETY: both pointers are to initialised values that outlive the call.
            let error = unsafe { libc::sigwait(&raw const set, &raw mut signal) };
            if error != 0 || sender.send(wrap(Signal(signal))).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
