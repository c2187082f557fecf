//! The process's signals: those that request its end are messages, and those that would end or stop
//! it incidentally are ignored.
//!
//! Ctrl-C and its kin arrive on a channel, where every command waits anyway. The signals are
//! blocked in every thread and taken by one that waits for them, so no code runs in a signal
//! handler.

use std::io;
use std::mem::MaybeUninit;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A signal that asks the process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signal(pub i32);

impl Signal {
    /// Its name, as for `kill`.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self.0 {
            libc::SIGINT => "SIGINT",
            libc::SIGTERM => "SIGTERM",
            libc::SIGHUP => "SIGHUP",
            _ => "a signal",
        }
    }
}

/// The signals that end the process, taken from the start of a command on.
///
/// Until [`Signals::messages`] is called, the first of them ends the process at once, as if it had
/// never been taken, even while the process waits for storage that does not answer.
#[derive(Debug)]
pub(crate) struct Signals {
    taker: Arc<Mutex<Option<Sender<Signal>>>>,
}

impl Signals {
    /// Takes SIGINT, SIGTERM and SIGHUP; the last one not when the process was started with it
    /// ignored, as by nohup(1). Must be called before any thread is started that does not block
    /// them, and once.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn take() -> io::Result<Self> {
        let taker = Arc::new(Mutex::new(None::<Sender<Signal>>));
        let theirs = taker.clone();
        let mut signals = vec![libc::SIGINT, libc::SIGTERM];
        if !is_ignored(libc::SIGHUP) {
            signals.push(libc::SIGHUP);
        }
        let set = set_of(&signals);
        mask(libc::SIG_BLOCK, &set)?;
        thread::Builder::new().name("signals".into()).spawn(move || {
            loop {
                let mut signal = 0;
                // SAFETY: both pointers are to initialised values that outlive the call.
                let error = unsafe { libc::sigwait(&raw const set, &raw mut signal) };
                if error != 0 {
                    return;
                }
                let taker = theirs.lock().unwrap_or_else(PoisonError::into_inner);
                // A command that has ended its wait for messages waits for nothing else.
                if taker.as_ref().is_none_or(|taker| taker.send(Signal(signal)).is_err()) {
                    die_of(Signal(signal));
                }
            }
        })?;
        Ok(Signals { taker })
    }

    /// From now on, signals are messages.
    #[must_use]
    pub(crate) fn messages(&self) -> Receiver<Signal> {
        let (sender, receiver) = channel();
        *self.taker.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }
}

/// Lets a write to a file that may not grow fail with `EFBIG`, as a write to a pipe without a
/// reader fails with `EPIPE` (the standard library ignores SIGPIPE): a log or an image that reaches
/// a limit must not end a guest.
pub(crate) fn ignore_file_size() {
    // SAFETY: sets a disposition that has no handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Lets the process run on in the background of a terminal: it may write, and its read or change
/// of settings fails in place of stopping every thread, those of the guest too.
pub(crate) fn ignore_terminal_stops() {
    for signal in [libc::SIGTTIN, libc::SIGTTOU] {
        // SAFETY: sets a disposition that has no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Resets, in a child before its `exec`, the dispositions and the mask that it would inherit. Makes
/// only calls that are safe between fork and exec.
///
/// # Errors
/// When the mask cannot be set.
pub(crate) fn reset_in_child() -> io::Result<()> {
    for signal in [libc::SIGXFSZ, libc::SIGTTIN, libc::SIGTTOU] {
        // SAFETY: sets a default disposition; async-signal-safe (signal-safety(7)).
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    mask(libc::SIG_SETMASK, &set_of(&[]))
}

/// Calls `start` with every signal blocked, for a thread that it starts to inherit.
///
/// # Errors
/// When the mask cannot be set.
pub(crate) fn without<T>(start: impl FnOnce() -> T) -> io::Result<T> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set that it is given; pthread_sigmask reads that and
    // initialises the other.
    let errno = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr())
    };
    if errno != 0 {
        return Err(io::Error::from_raw_os_error(errno));
    }
    let started = start();
    // SAFETY: initialised by the call above, which succeeded.
    mask(libc::SIG_SETMASK, unsafe { before.assume_init_ref() })?;
    Ok(started)
}

/// Ends the process by the signal after all, as if it had never been taken.
pub(crate) fn die_of(Signal(signal): Signal) {
    // A mask that cannot be changed leaves the process to its orderly end.
    if mask(libc::SIG_UNBLOCK, &set_of(&[signal])).is_ok() {
        // SAFETY: `raise` has no precondition.
        unsafe { libc::raise(signal) };
    }
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: all zeros are a valid value of this plain structure.
    let mut present: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: queries only; the structure is writable.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut present) };
    asked == 0 && present.sa_sigaction == libc::SIG_IGN
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that it is given, and sigaddset only changes it; the
    // pointers are valid.
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
    // SAFETY: the set is initialised, and a null pointer for the old mask is allowed
    // (pthread_sigmask(3)).
    match unsafe { libc::pthread_sigmask(how, set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
