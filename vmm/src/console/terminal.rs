//! Raw mode while the process is in the foreground of its terminal, and its end on every way out
//! of the process.
//!
//! A process in the background (`ferry run … &`) leaves the terminal's settings and its input to
//! the foreground: changing or reading them would stop every thread, those of the guest too
//! (`tty_ioctl(4)`, SIGTTOU and SIGTTIN). [`Terminal::look`] is called periodically: it enters raw
//! mode when the process has come to the foreground, and again after a stop, since the shell has
//! used the terminal meanwhile.
//!
//! Dropping [`Terminal`] ends raw mode; so does a panic hook, because other threads may panic, and
//! a handler of the signals that end a process. The handler calls nothing but functions that are
//! safe in one (signal-safety(7)), then raises the signal again.

use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

const SIGNALS: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// The settings to restore; never freed, because a signal may come at any time.
static BEFORE: AtomicPtr<libc::termios> = AtomicPtr::new(std::ptr::null_mut());
static IS_RAW: AtomicBool = AtomicBool::new(false);
/// The process was stopped and goes on (SIGCONT).
static CONTINUED: AtomicBool = AtomicBool::new(false);

/// The result of [`Terminal::look`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Raw mode has just begun: the terminal's input belongs to this process from now on.
    Entered,
    /// This process is in the foreground, as before.
    Foreground,
    /// This process is in the background.
    Background,
}

/// The terminal at standard input.
#[derive(Debug)]
pub(super) struct Terminal(());

impl Terminal {
    /// Takes charge of the terminal. Changes nothing before the first [`Terminal::look`].
    pub(super) fn new() -> Self {
        install_ways_out();
        Terminal(())
    }

    /// Checks whether this process is in the foreground, and enters raw mode when it has come
    /// there.
    pub(super) fn look(&self) -> io::Result<Place> {
        if !is_foreground() {
            // The foreground process has settings of its own.
            IS_RAW.store(false, Ordering::SeqCst);
            return Ok(Place::Background);
        }
        let continued = CONTINUED.swap(false, Ordering::SeqCst);
        if IS_RAW.load(Ordering::SeqCst) && !continued {
            return Ok(Place::Foreground);
        }
        enter()?;
        Ok(Place::Entered)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

fn enter() -> io::Result<()> {
    // SAFETY: all zeros are a valid value of this plain structure.
    let mut settings: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is writable; the call has no other precondition.
    check(unsafe { libc::tcgetattr(libc::STDIN_FILENO, &raw mut settings) })?;
    let is_ours = IS_RAW.load(Ordering::SeqCst) && settings.c_lflag & (libc::ICANON | libc::ECHO) == 0;
    if !is_ours {
        BEFORE.store(Box::into_raw(Box::new(settings)), Ordering::SeqCst);
    }
    // SAFETY: the structure was filled above.
    unsafe { libc::cfmakeraw(&raw mut settings) };
    // Output stays as it was: the guest writes its own line ends, and other threads write ours.
    settings.c_oflag |= libc::OPOST | libc::ONLCR;
    IS_RAW.store(true, Ordering::SeqCst);
    // SAFETY: the structure holds valid settings.
    check(unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const settings) })
}

/// Whether the terminal lets this process read. A terminal that is not the process's controlling
/// one has no background.
fn is_foreground() -> bool {
    // SAFETY: neither call has a precondition, and both are safe in a signal handler.
    let (group, ours) = unsafe { (libc::tcgetpgrp(libc::STDIN_FILENO), libc::getpgrp()) };
    group == -1 || group == ours
}

fn restore() {
    if IS_RAW.swap(false, Ordering::SeqCst) && is_foreground() {
        let before = BEFORE.load(Ordering::SeqCst);
        // SAFETY: set before IS_RAW and never freed. `tcsetattr` may be called from a signal
        // handler (signal-safety(7)).
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
            handle_unless_handled(signal, restore_and_die, libc::SA_RESETHAND);
        }
        handle_unless_handled(libc::SIGCONT, note_continued, libc::SA_RESTART);
    });
}

/// An existing handler ends the process in an orderly way, which drops the console.
fn handle_unless_handled(signal: libc::c_int, handler: extern "C" fn(libc::c_int), flags: libc::c_int) {
    // SAFETY: all zeros are a valid value of this plain structure.
    let mut present: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: queries only.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut present) };
    if asked == 0 && present.sa_sigaction == libc::SIG_DFL {
        let mut ours = present;
        ours.sa_sigaction = handler as usize;
        ours.sa_flags = flags;
        // SAFETY: the handler calls only what is safe in one.
        unsafe { libc::sigaction(signal, &raw const ours, std::ptr::null_mut()) };
    }
}

extern "C" fn restore_and_die(signal: libc::c_int) {
    restore();
    // SAFETY: `raise` is safe in a handler; the default action is restored and follows when the
    // handler returns.
    unsafe { libc::raise(signal) };
}

extern "C" fn note_continued(_: libc::c_int) {
    CONTINUED.store(true, Ordering::SeqCst);
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
