//! What a fault does: the value of `do=`.

use std::fmt;
use std::time::Duration;

/// The longest `delay`, in milliseconds: ten minutes.
pub const MAX_DELAY_MS: u64 = 600_000;
/// The largest `skew` either way, in milliseconds: a year.
pub const MAX_SKEW_MS: u64 = 366 * 24 * 3_600_000;

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultAction {
    /// It fails at once.
    Fail,
    /// It is not done, and fails with this error of the system.
    Errno(Errno),
    /// It does not return until it is interrupted or its rule is cleared.
    Hang,
    /// It takes this much longer.
    Delay(Duration),
    /// The process ends there, as by `SIGKILL`.
    Kill,
    /// The process stands still there, as by `SIGSTOP`, until it gets a `SIGCONT`.
    Freeze,
    /// The clock is off by so many milliseconds.
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
        /// Their names, for an error.
        pub(super) const ERRNO_NAMES: &str = concat!($("|", stringify!($name)),*);
    };
}

errnos! {
    EACCES, EAGAIN, EBUSY, ECONNREFUSED, EDQUOT, EHOSTUNREACH, EINVAL, EIO, EMFILE, ENFILE, ENOLCK, ENOMEM, ENOSPC, EPERM,
    EROFS, ESTALE, ETIMEDOUT,
}

impl Errno {
    /// The number, as the system has it.
    #[must_use]
    pub fn number(self) -> i32 {
        self.number
    }
}

impl FaultAction {
    /// What comes before the colon.
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
