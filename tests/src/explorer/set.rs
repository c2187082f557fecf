//! A small set of jobs or timers: two bytes in a world, of which an explorer holds millions.

use std::marker::PhantomData;

use ferry_migration::Timer;

/// What can be in a [`Set`]: an enum of at most 16 values.
pub trait Member: Copy + PartialEq + 'static {
    /// Every value, in the order in which an explorer tries them.
    const ALL: &'static [Self];
}

/// A set of `T`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Set<T> {
    bits: u16,
    of: PhantomData<T>,
}

impl<T: Member> Set<T> {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Set { bits: 0, of: PhantomData }
    }

    /// Puts `member` in.
    pub fn insert(&mut self, member: T) {
        self.bits |= bit(member);
    }

    /// Takes `member` out; whether it was there.
    pub fn remove(&mut self, member: T) -> bool {
        let there = self.has(member);
        self.bits &= !bit(member);
        there
    }

    /// Whether `member` is there.
    #[must_use]
    pub fn has(self, member: T) -> bool {
        self.bits & bit(member) != 0
    }

    /// Whether nothing is there.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// What is there.
    pub fn iter(self) -> impl Iterator<Item = T> {
        T::ALL.iter().copied().filter(move |member| self.has(*member))
    }
}

impl<T: Member> Default for Set<T> {
    fn default() -> Self {
        Self::new()
    }
}

fn bit<T: Member>(member: T) -> u16 {
    let at = T::ALL.iter().position(|m| *m == member).expect("ALL lists every value");
    1 << at
}

impl Member for Timer {
    const ALL: &'static [Timer] = &[
        Timer::Setup,
        Timer::PeerSilent,
        Timer::Heartbeat,
        Timer::Rehearsal,
        Timer::Stop,
        Timer::Load,
        Timer::Start,
        Timer::RetryRecord,
        Timer::Recover,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_put_in() {
        let mut set = Set::new();
        for timer in Timer::ALL {
            assert!(!set.has(*timer));
            set.insert(*timer);
            assert!(set.has(*timer));
        }
        assert!(set.remove(Timer::Load) && !set.remove(Timer::Load));
        assert_eq!(set.iter().count(), Timer::ALL.len() - 1);
    }
}
