//! What a fault does: the value of `do=`.

use std::fmt;
use std::time::Duration;

/// The longest `delay`, in milliseconds: ten minutes.
pub const MAX_DELAY_MS: u64 = 600_000;
/// The largest `skew` either way, in milliseconds: a year.
pub const MAX_SKEW_MS: u64 = 366 * 24 * 3_600_000;

/// What happens at a fault point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultAction {
    /// The operation fails at once.
    Fail,
    /// The operation is not carried out, and fails with this errno.
    Errno(Errno),
    /// The thread waits until it is interrupted or the rules are cleared.
    Hang,
    /// The thread waits for this long first.
    Delay(Duration),
    /// The process ends, by `SIGKILL`.
    Kill,
    /// The process stops, by `SIGSTOP`, until it receives a `SIGCONT`.
    Freeze,
    /// The wall clock is off by this many milliseconds.
    Skew(i64),
}

/// An error of the system (errno(3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno {
    name: &'static str,
    number: i32,
}

macro_rules! errnos {
    ($($name:ident),* $(,)?) => {
        const ERRNOS: &[Errno] = &[$(Errno { name: stringify!($name), number: libc::$name }),*];
        /// The names, for an error message.
        pub(super) const ERRNO_NAMES: &str = concat!($("|", stringify!($name)),*);
    };
}

errnos! {
    EACCES, EAGAIN, EBUSY, ECONNREFUSED, EDQUOT, EHOSTUNREACH, EINVAL, EIO, EMFILE, ENFILE, ENOLCK, ENOMEM, ENOSPC, EPERM,
    EROFS, ESTALE, ETIMEDOUT,
}

impl Errno {
    /// The errno as a number.
    #[must_use]
    pub fn number(self) -> i32 {
        self.number
    }
}

impl FaultAction {
    /// The part of `do=` before the colon.
    pub(super) fn kind(self) -> &'static str {
        match self {
            FaultAction::Fail => "fail",
            FaultAction::Errno(_) => "errno",
            FaultAction::Hang => "hang",
            FaultAction::Delay(_) => "delay",
            FaultAction::Kill => "kill",
            FaultAction::Freeze => "freeze",
            FaultAction::Skew(_) => "skew",
        }
    }
}

/// As specifications write it.
impl fmt::Display for FaultAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            FaultAction::Errno(errno) => write!(f, ":{}", errno.name),
            FaultAction::Delay(time) => write!(f, ":{}", time.as_millis()),
            FaultAction::Skew(ms) => write!(f, ":{ms}"),
            FaultAction::Fail | FaultAction::Hang | FaultAction::Kill | FaultAction::Freeze => Ok(()),
        }
    }
}

/// Reads the value of `do=`.
pub(super) fn action(value: &str) -> Option<FaultAction> {
    let (kind, amount) = value.split_once(':').map_or((value, None), |(kind, amount)| (kind, Some(amount)));
    match (kind, amount) {
        ("fail", None) => Some(FaultAction::Fail),
        ("hang", None) => Some(FaultAction::Hang),
        ("kill", None) => Some(FaultAction::Kill),
        ("freeze", None) => Some(FaultAction::Freeze),
        ("errno", Some(name)) => ERRNOS.iter().find(|errno| errno.name == name).map(|errno| FaultAction::Errno(*errno)),
        ("delay", Some(ms)) => {
            let ms = ms.parse().ok().filter(|ms| *ms <= MAX_DELAY_MS)?;
            Some(FaultAction::Delay(Duration::from_millis(ms)))
        }
        ("skew", Some(ms)) => {
            ms.parse().ok().filter(|ms: &i64| ms.unsigned_abs() <= MAX_SKEW_MS).map(FaultAction::Skew)
        }
        _ => None,
    }
}
