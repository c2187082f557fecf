//! What the harness did in a cell, and when: its lane of the sequence diagram.

use std::time::SystemTime;

/// The notes of a cell.
#[derive(Clone, Debug)]
pub struct Notes {
    /// When the cell began.
    pub began: SystemTime,
    /// What was done, in order.
    pub said: Vec<(SystemTime, String)>,
    /// When the fault was injected, once it was.
    pub broken: Option<SystemTime>,
    /// When the operator said whose the guest is, if that was asked.
    pub resolved: Option<SystemTime>,
}

impl Notes {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Notes { began: SystemTime::now(), said: Vec::new(), broken: None, resolved: None }
    }

    /// Something was done.
    pub fn say(&mut self, what: impl Into<String>) {
        self.said.push((SystemTime::now(), what.into()));
    }

    /// The fault was injected, at this moment.
    pub fn broke(&mut self, at: SystemTime, what: impl Into<String>) {
        self.said.push((at, what.into()));
        self.broken.get_or_insert(at);
    }
}

impl Default for Notes {
    fn default() -> Self {
        Self::new()
    }
}
