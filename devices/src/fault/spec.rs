//! One rule of the fault device: `at=POINT,do=ACTION[,of=PART][,times=N][,in=incoming|outgoing]`.
//!
//! The command line (from text) and QMP's `x-ferry-fault-set` (from key and value pairs) both build
//! a [`FaultSpec`]. The machine has the lists of calls, parts, outputs and messages, and refuses
//! rules that could never apply.

use std::fmt;
use std::str::FromStr;

use super::action::{ERRNO_NAMES, FaultAction, action};
use super::point::{FaultPoint, MAX_NAME, point};

/// Which way the migration goes, as this process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// This process is the destination.
    Incoming,
    /// This process runs the guest: it is a source, or may become one.
    Outgoing,
}

impl Direction {
    /// As specifications write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Incoming => "incoming",
            Direction::Outgoing => "outgoing",
        }
    }
}

/// One rule: when it applies, and what happens then.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FaultSpec {
    /// Where the rule applies.
    pub at: FaultPoint,
    /// The part of the machine, for example `serial/0` or `vcpu/1`. `None`: for steps, the fault
    /// device itself; otherwise any part.
    pub of: Option<String>,
    /// What happens.
    pub action: FaultAction,
    /// How many times the rule applies; every time if `None`.
    pub times: Option<u32>,
    /// Only in a process of this direction; in both if `None`.
    pub direction: Option<Direction>,
}

/// An invalid fault specification.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultSpecError {
    /// A part without `=`.
    #[error("fault: `{0}` is not KEY=VALUE: write at=, do=, of=, times= or in=")]
    NotAPair(String),
    /// A key that no rule has.
    #[error("fault: unknown key `{0}`: write at=, do=, of=, times= or in=")]
    UnknownKey(String),
    /// The same key twice.
    #[error("fault: `{0}` is given twice: keep one")]
    Twice(String),
    /// A key that every rule needs.
    #[error("fault: `{key}` is missing: add {key}={allowed}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What it accepts.
        allowed: &'static str,
    },
    /// A value that its key does not accept.
    #[error("fault: {key}={value}: write {key}={allowed}")]
    Value {
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What it accepts.
        allowed: &'static str,
    },
    /// An action that the fault point does not support.
    #[error("fault: at={at} takes no do={action}: write do={allowed}")]
    Unfit {
        /// The fault point.
        at: FaultPoint,
        /// The action given.
        action: FaultAction,
        /// The actions that the point supports.
        allowed: &'static str,
    },
    /// An errno that is not supported.
    #[error("fault: do={0}: write errno: and one of {names}", names = &ERRNO_NAMES[1..])]
    Errno(String),
}

const AT: (&str, &str) = (
    "at",
    "save|load|post_load|KVM_…|USERFAULTFD_READ|step:OUTPUT|{send,sent,received}:MESSAGE|record:{read,write,sync,lock}|\
     disk:{open,lock,prove,read,write,sync,flush}|host:{connect,accept,thread,userfaultfd,memory}|clock:realtime",
);
const DO: (&str, &str) = ("do", "fail|hang|delay:MS (at most 600000)|errno:NAME|kill|freeze|skew:MS (at most a year)");
const OF: (&str, &str) = ("of", "PART, for example serial/0");
const TIMES: (&str, &str) = ("times", "N, from 1");
const IN: (&str, &str) = ("in", "incoming|outgoing");

impl FaultSpec {
    /// Builds a rule from keys and values, the form of QMP's arguments.
    ///
    /// # Errors
    ///
    /// A key is unknown, missing or given twice, or its value is invalid; the error names the key.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, FaultSpecError> {
        let (mut at, mut action, mut of, mut times, mut direction) = (None, None, None, None, None);
        for (key, value) in pairs {
            let again = match key {
                "at" => at.replace(parse(AT, value, point)?).is_some(),
                "do" if value.starts_with("errno:") && self::action(value).is_none() => {
                    return Err(FaultSpecError::Errno(value.to_owned()));
                }
                "do" => action.replace(parse(DO, value, self::action)?).is_some(),
                "of" => of.replace(parse(OF, value, part)?).is_some(),
                "times" => times.replace(parse(TIMES, value, count)?).is_some(),
                "in" => direction.replace(parse(IN, value, self::direction)?).is_some(),
                _ => return Err(FaultSpecError::UnknownKey(key.to_owned())),
            };
            if again {
                return Err(FaultSpecError::Twice(key.to_owned()));
            }
        }
        let missing = |(key, allowed)| FaultSpecError::Missing { key, allowed };
        let at = at.ok_or_else(|| missing(AT))?;
        let action = action.ok_or_else(|| missing(DO))?;
        check_fits(&at, action)?;
        Ok(FaultSpec { at, action, of, times, direction })
    }
}

fn check_fits(at: &FaultPoint, action: FaultAction) -> Result<(), FaultSpecError> {
    let allowed = at.actions();
    let fits = allowed.split('|').any(|fitting| fitting.split(':').next() == Some(action.kind()));
    if fits { Ok(()) } else { Err(FaultSpecError::Unfit { at: at.clone(), action, allowed }) }
}

impl FromStr for FaultSpec {
    type Err = FaultSpecError;

    fn from_str(text: &str) -> Result<Self, FaultSpecError> {
        let pairs: Result<Vec<_>, _> = text
            .split(',')
            .map(|part| part.split_once('=').ok_or_else(|| FaultSpecError::NotAPair(part.to_owned())))
            .collect();
        FaultSpec::from_pairs(pairs?)
    }
}

/// In the form that [`FaultSpec::from_str`] parses.
impl fmt::Display for FaultSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at={},do={}", self.at, self.action)?;
        if let Some(part) = &self.of {
            write!(f, ",of={part}")?;
        }
        if let Some(times) = self.times {
            write!(f, ",times={times}")?;
        }
        if let Some(direction) = self.direction {
            write!(f, ",in={}", direction.as_str())?;
        }
        Ok(())
    }
}

fn parse<T>(
    (key, allowed): (&'static str, &'static str),
    value: &str,
    read: fn(&str) -> Option<T>,
) -> Result<T, FaultSpecError> {
    read(value).ok_or_else(|| FaultSpecError::Value { key, value: value.to_owned(), allowed })
}

fn part(value: &str) -> Option<String> {
    let of_a_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let (name, instance) = value.split_once('/')?;
    let fits = !name.is_empty() && name.bytes().all(of_a_name) && value.len() <= MAX_NAME;
    (fits && instance.parse::<u32>().is_ok_and(|number| number.to_string() == instance)).then(|| value.to_owned())
}

fn direction(value: &str) -> Option<Direction> {
    [Direction::Incoming, Direction::Outgoing].into_iter().find(|direction| direction.as_str() == value)
}

fn count(value: &str) -> Option<u32> {
    value.parse().ok().filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::super::point::{FaultStep, Moment, Place};
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn a_full_specification_is_read_and_written_back() {
        let text = "at=post_load,do=delay:250,times=2,in=incoming";
        let spec: FaultSpec = text.parse().unwrap();
        assert_eq!(
            spec,
            FaultSpec {
                at: FaultPoint::Step(FaultStep::PostLoad),
                of: None,
                action: FaultAction::Delay(Duration::from_millis(250)),
                times: Some(2),
                direction: Some(Direction::Incoming),
            }
        );
        assert_eq!(spec.to_string(), text);
        assert_eq!(FaultSpec::from_pairs([("do", "hang"), ("at", "save")]).unwrap().to_string(), "at=save,do=hang");
    }

    #[test]
    fn a_rule_may_name_a_call_and_a_part() {
        let text = "at=KVM_SET_CPUID2,do=fail,of=vcpu/1,times=1,in=incoming";
        let spec: FaultSpec = text.parse().unwrap();
        assert_eq!(spec.at, FaultPoint::Call("KVM_SET_CPUID2".to_owned()));
        assert_eq!(spec.of.as_deref(), Some("vcpu/1"));
        assert_eq!(spec.to_string(), text);
        for at in ["KVM_", "kvm_set_regs", "SET_REGS", "KVM_SET REGS", "KVM_set", &format!("KVM_{}", "A".repeat(40))] {
            assert!(format!("at={at},do=fail").parse::<FaultSpec>().is_err(), "{at}");
        }
        for of in ["serial", "serial/", "/0", "serial/00", "serial/x", "Serial/0", "a/b/0"] {
            assert!(format!("at=load,do=fail,of={of}").parse::<FaultSpec>().is_err(), "{of}");
        }
    }

    #[test]
    fn errors_name_the_key_and_what_it_accepts() {
        for (text, expected) in [
            ("at=save,do=fail,times=0", "fault: times=0: write times=N, from 1"),
            ("at=save,do=fail,in=both", "fault: in=both: write in=incoming|outgoing"),
            ("at=save,do=fail,at=load", "fault: `at` is given twice: keep one"),
            ("at=save,when=now", "fault: unknown key `when`: write at=, do=, of=, times= or in="),
            ("", "fault: `` is not KEY=VALUE: write at=, do=, of=, times= or in="),
        ] {
            assert_eq!(text.parse::<FaultSpec>().unwrap_err().to_string(), expected);
        }
        for (text, start, (_, allowed)) in [
            ("at=save", "fault: `do` is missing: add do=", DO),
            ("do=fail", "fault: `at` is missing: add at=", AT),
            ("at=boot,do=fail", "fault: at=boot: write at=", AT),
            ("at=step:,do=kill", "fault: at=step:: write at=", AT),
            ("at=disk:eject,do=kill", "fault: at=disk:eject: write at=", AT),
            ("at=save,do=delay:", "fault: do=delay:: write do=", DO),
            ("at=save,do=delay:600001", "fault: do=delay:600001: write do=", DO),
            ("at=clock:realtime,do=skew:99999999999", "fault: do=skew:99999999999: write do=", DO),
        ] {
            assert_eq!(text.parse::<FaultSpec>().unwrap_err().to_string(), format!("{start}{allowed}"));
        }
    }

    #[test]
    fn every_place_and_moment_is_read_written_back_and_told_of() {
        for place in Place::ALL {
            let action = if *place == Place::ClockRealtime { "skew:-3600000" } else { "errno:ENOSPC" };
            let text = format!("at={},do={action},times=1,in=incoming", place.as_str());
            let spec: FaultSpec = text.parse().unwrap();
            assert_eq!((&spec.at, spec.to_string()), (&FaultPoint::Place(*place), text));
            let (group, name) = place.as_str().split_once(':').unwrap();
            let of_group = AT.1.split('|').find_map(|known| known.strip_prefix(group)?.strip_prefix(':')).unwrap();
            assert!(of_group.split(['{', ',', '}']).any(|known| known == name), "{place:?} in {of_group}");
        }
        for moment in Moment::ALL {
            let text = format!("at={}:Start,do=freeze", moment.as_str());
            let spec: FaultSpec = text.parse().unwrap();
            assert_eq!((&spec.at, spec.to_string()), (&FaultPoint::Moment(moment, "Start".to_owned()), text));
            assert!(AT.1.contains(moment.as_str()), "{moment:?}");
        }
    }

    #[test]
    fn an_action_that_makes_no_sense_is_refused_with_what_does() {
        for (at, action, allowed) in [
            ("step:Start", "fail", "hang|delay:MS|kill|freeze"),
            ("sent:Permit", "errno:EIO", "hang|delay:MS|kill|freeze"),
            ("save", "errno:EIO", "fail|hang|delay:MS|kill|freeze"),
            ("USERFAULTFD_READ", "errno:EIO", "fail|hang|delay:MS|kill|freeze"),
            ("disk:flush", "skew:1", "fail|errno:NAME|hang|delay:MS|kill|freeze"),
            ("KVM_SET_REGS", "skew:1", "fail|errno:NAME|hang|delay:MS|kill|freeze"),
            ("clock:realtime", "hang", "skew:MS"),
        ] {
            let error = format!("at={at},do={action}").parse::<FaultSpec>().unwrap_err().to_string();
            assert_eq!(error, format!("fault: at={at} takes no do={action}: write do={allowed}"));
        }
        let error = "at=disk:flush,do=errno:ENOTHING".parse::<FaultSpec>().unwrap_err().to_string();
        assert!(error.starts_with("fault: do=errno:ENOTHING: write errno: and one of EACCES|EAGAIN|"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_round_trips(text in "(at|do|in|of|times|,|=|save|KVM_A|step:|disk:read|fail|delay:|errno:EIO|skew:-|a/0|[0-9a-z]){0,12}") {
            if let Ok(spec) = text.parse::<FaultSpec>() {
                prop_assert_eq!(spec.to_string().parse::<FaultSpec>().unwrap(), spec);
            }
        }
    }
}
