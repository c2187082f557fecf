//! Raw mode, and its end on every way out of the process.
//!
//! Dropping [`RawMode`] ends it; so does a panic hook, because other threads may panic, and a handler of the signals that
//! end a process. The handler calls nothing but `tcsetattr`, which is safe in a signal handler, then lets the signal do its
//! work.

use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

const SIGNALS: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// The settings to go back to; never freed, because a signal may come at any time.
static BEFORE: AtomicPtr<libc::termios> = AtomicPtr::new(std::ptr::null_mut());
static IS_RAW: AtomicBool = AtomicBool::new(false);

/// The terminal is raw as long as this lives.
#[derive(Debug)]
pub(super) struct RawMode(());

impl RawMode {
    /// Puts the terminal at standard input into raw mode.
    pub(super) fn enter() -> io::Result<Self> {
        // SAFETY: all zeros are a valid value of this plain structure.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the structure is writable; the call has no other precondition.
        check(unsafe { libc::tcgetattr(libc::STDIN_FILENO, &raw mut settings) })?;
        BEFORE.store(Box::into_raw(Box::new(settings)), Ordering::SeqCst);
        install_ways_out();
        // SAFETY: the structure was filled above.
        unsafe { libc::cfmakeraw(&raw mut settings) };
        // Output stays as it was: the guest writes its own line ends, and other threads write ours.
        settings.c_oflag |= libc::OPOST | libc::ONLCR;
        IS_RAW.store(true, Ordering::SeqCst);
        // SAFETY: the structure holds valid settings.
        check(unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const settings) })?;
        Ok(RawMode(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if IS_RAW.swap(false, Ordering::SeqCst) {
        let before = BEFORE.load(Ordering::SeqCst);
        // SAFETY: set before IS_RAW and never freed. `tcsetattr` may be called from a signal handler (signal-safety(7)).
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, before) };
    }
}

fn install_ways_out() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            next(info);
        }));
        for signal in SIGNALS {
            handle_unless_handled(signal);
        }
    });
}

/// Somebody who handles a signal already ends the process in an orderly way, and that drops the console.
fn handle_unless_handled(signal: libc::c_int) {
    // SAFETY: all zeros are a valid value of this plain structure.
    let mut present: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks only.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut present) };
    if asked == 0 && present.sa_sigaction == libc::SIG_DFL {
        let mut ours = present;
        ours.sa_sigaction = restore_and_die as extern "C" fn(libc::c_int) as usize;
        ours.sa_flags = libc::SA_RESETHAND;
        // SAFETY: the handler calls only what is safe in one.
        unsafe { libc::sigaction(signal, &raw const ours, std::ptr::null_mut()) };
    }
}

extern "C" fn restore_and_die(signal: libc::c_int) {
    restore();
    // SAFETY: `raise` is safe in a handler; the default action is back and comes when the handler returns.
    unsafe { libc::raise(signal) };
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
