//! The control link between the two sides, with the bulk links that live and die with it.

use std::collections::VecDeque;

use ferry_migration::{ToDestination, ToSource};

use super::Side;

/// How a link fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// What is sent arrives.
    Up,
    /// What is sent is lost; what was on its way may still arrive, and then the ends are told.
    Broken,
    /// Nothing arrives and nobody is told.
    Silent,
}

/// What the marker says when it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Marker {
    /// Every page is there.
    Whole,
    /// Pages remain: they are sent while the destination runs.
    Rest,
}

/// One connection: two queues, two ends, and what is on the bulk links.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    /// How it fares.
    pub health: Health,
    /// Messages on their way to the destination.
    pub to_destination: VecDeque<ToDestination>,
    /// Messages on their way to the source.
    pub to_source: VecDeque<ToSource>,
    /// The source reads it: it has neither closed it nor been told that it is gone.
    pub source_reads: bool,
    /// The destination reads it.
    pub destination_reads: bool,
    /// The source has not closed it.
    pub source_writes: bool,
    /// The destination has not closed it.
    pub destination_writes: bool,
    /// The bulk links work.
    pub bulk: bool,
    /// A marker is on its way on the bulk links.
    pub marker: Option<Marker>,
    /// The last of the remaining pages are on their way.
    pub last_pages: bool,
}

impl Link {
    /// No connection yet.
    #[must_use]
    pub fn none() -> Self {
        Link {
            health: Health::Broken,
            to_destination: VecDeque::new(),
            to_source: VecDeque::new(),
            source_reads: false,
            destination_reads: false,
            source_writes: false,
            destination_writes: false,
            bulk: false,
            marker: None,
            last_pages: false,
        }
    }

    /// A new connection.
    #[must_use]
    pub fn open() -> Self {
        Link {
            health: Health::Up,
            source_reads: true,
            destination_reads: true,
            source_writes: true,
            destination_writes: true,
            bulk: true,
            ..Link::none()
        }
    }

    /// Whether anybody still has an end of it.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.source_writes || self.destination_writes
    }

    /// Whether `side` will be told of a break once it has read what was on its way.
    #[must_use]
    pub fn must_tell(&self, side: Side) -> bool {
        self.health == Health::Broken
            && match side {
                Side::Source => self.source_reads && self.to_source.is_empty(),
                Side::Destination => self.destination_reads && self.to_destination.is_empty(),
            }
    }

    /// Sends towards the destination; lost unless the link is up.
    pub fn send_to_destination(&mut self, message: ToDestination) {
        if self.health == Health::Up && self.source_writes && self.destination_reads {
            self.to_destination.push_back(message);
        }
    }

    /// Sends towards the source; lost unless the link is up.
    pub fn send_to_source(&mut self, message: ToSource) {
        if self.health == Health::Up && self.destination_writes && self.source_reads {
            self.to_source.push_back(message);
        }
    }

    /// Breaks; `silently` also loses what was on its way.
    pub fn break_off(&mut self, silently: bool) {
        self.bulk = false;
        self.health = if silently { Health::Silent } else { Health::Broken };
        if silently {
            self.to_destination.clear();
            self.to_source.clear();
            self.marker = None;
            self.last_pages = false;
        }
    }

    /// `side` reads no more.
    pub fn deafen(&mut self, side: Side) {
        match side {
            Side::Source => {
                self.source_reads = false;
                self.to_source.clear();
            }
            Side::Destination => {
                self.destination_reads = false;
                self.to_destination.clear();
                self.marker = None;
            }
        }
    }

    /// `side` lets go of its end: the other side will be told.
    pub fn close(&mut self, side: Side) {
        match side {
            Side::Source if !self.source_writes => return,
            Side::Destination if !self.destination_writes => return,
            Side::Source => self.source_writes = false,
            Side::Destination => self.destination_writes = false,
        }
        self.deafen(side);
        self.bulk = false;
        if self.health == Health::Up {
            self.health = Health::Broken;
        }
    }
}
