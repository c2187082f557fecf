//! The links between the two sides, which live and die together.

use std::collections::VecDeque;

use ferry_migration::protection::{ToPrimary, ToSecondary};

use super::Side;
use super::facts::Delta;

/// Whether anything still arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// Everything does.
    Up,
    /// What was sent does, then the break is noticed.
    Broken,
    /// Nothing does, and no side is told.
    Silent,
}

/// The links.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    /// Whether anything arrives.
    pub health: Health,
    /// On the way to the secondary.
    pub to_secondary: VecDeque<ToSecondary>,
    /// On the way to the primary.
    pub to_primary: VecDeque<ToPrimary>,
    /// The pages and disk writes of a checkpoint on their way to the secondary.
    pub delta: Option<Delta>,
    /// Which sides have their ends open; the primary's first.
    pub open: [bool; 2],
}

impl Link {
    /// As the first copy leaves them.
    #[must_use]
    pub fn open() -> Self {
        let (to_secondary, to_primary) = (VecDeque::new(), VecDeque::new());
        Link { health: Health::Up, to_secondary, to_primary, delta: None, open: [true; 2] }
    }

    /// Sends to the secondary; lost unless the link is up.
    pub fn send_to_secondary(&mut self, message: ToSecondary) {
        if self.health == Health::Up && self.open == [true; 2] {
            self.to_secondary.push_back(message);
        }
    }

    /// Sends to the primary; lost unless the link is up.
    pub fn send_to_primary(&mut self, message: ToPrimary) {
        if self.health == Health::Up && self.open == [true; 2] {
            self.to_primary.push_back(message);
        }
    }

    /// Sends the pages of a checkpoint.
    pub fn send_delta(&mut self, delta: Delta) {
        if self.health == Health::Up && self.open == [true; 2] {
            self.delta = Some(delta);
        }
    }

    /// Breaks: what is on its way may still arrive, unless it falls silent.
    pub fn break_off(&mut self, silently: bool) {
        self.health = if silently { Health::Silent } else { Health::Broken };
        if silently {
            self.to_secondary.clear();
            self.to_primary.clear();
            self.delta = None;
        }
    }

    /// `side` closes its end: it reads no more, and the other side notices once it has read what
    /// was on its way.
    pub fn close(&mut self, side: Side) {
        self.open[side as usize] = false;
        match side {
            Side::Primary => self.to_primary.clear(),
            Side::Secondary => {
                self.to_secondary.clear();
                self.delta = None;
            }
        }
        if self.health == Health::Up {
            self.health = Health::Broken;
        }
    }

    /// Whether `side` is told of a break now.
    #[must_use]
    pub fn tells(&self, side: Side) -> bool {
        let read_all = match side {
            Side::Primary => self.to_primary.is_empty(),
            Side::Secondary => self.to_secondary.is_empty() && self.delta.is_none(),
        };
        self.health == Health::Broken && self.open[side as usize] && read_all
    }
}
