//! One client's conversation: the negotiation, then requests to replies. No I/O, so that a test
//! can hold a conversation.
//!
//! A connection owns a session and feeds it the values from the framer.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use ferry_observe::events::Events;
use serde::Deserialize;
use serde_json::{Value, json};

use super::arguments;
use super::commands;
use super::framing::FramingError;
use super::target::Target;
use super::wire::{self, CommandError, Request};

/// What all clients of a server share, as QEMU's monitors do.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// The migration capability `events`: whether clients receive `MIGRATION` and `MIGRATION_PASS`.
    pub migration_events: AtomicBool,
    /// The events published, and how many of them have reached the clients' outboxes.
    pub order: Order,
}

/// Keeps replies behind the events that happened before them, as QEMU does.
#[derive(Debug, Default)]
pub(crate) struct Order {
    events: Option<Arc<Events>>,
    spread: Mutex<u64>,
    moved: Condvar,
}

impl Order {
    /// Longest that a reply waits for the events before it.
    const PATIENCE: Duration = Duration::from_secs(1);

    /// For the events published after the first `count`.
    #[must_use]
    pub(crate) fn new(events: Arc<Events>, count: u64) -> Self {
        Order { events: Some(events), spread: Mutex::new(count), moved: Condvar::new() }
    }

    /// `count` of the events published since the start are in the outboxes, or lost.
    pub(crate) fn spread(&self, count: u64) {
        *self.spread.lock().unwrap_or_else(PoisonError::into_inner) = count;
        self.moved.notify_all();
    }

    /// Waits until everything published so far is in the outboxes.
    pub(crate) fn await_spread(&self) {
        let Some(events) = &self.events else { return };
        let published = events.published();
        let spread = self.spread.lock().unwrap_or_else(PoisonError::into_inner);
        // Late events are tolerable, but a client without its reply hangs: the wait has a limit.
        let _ = self.moved.wait_timeout_while(spread, Self::PATIENCE, |spread| *spread < published);
    }
}

/// One client.
pub(crate) struct Session {
    /// What its commands act on.
    pub target: Arc<dyn Target>,
    /// What it shares with other clients.
    pub shared: Arc<Shared>,
    negotiated: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Negotiation {
    enable: Option<Vec<String>>,
}

impl Session {
    /// A client that has just connected.
    #[must_use]
    pub(crate) fn new(target: Arc<dyn Target>, shared: Arc<Shared>) -> Self {
        Session { target, shared, negotiated: false }
    }

    /// Whether the client sent `qmp_capabilities`: only then it receives events.
    #[must_use]
    pub(crate) fn negotiated(&self) -> bool {
        self.negotiated
    }

    /// The reply to one value from the client.
    pub(crate) fn answer(&mut self, value: Result<Vec<u8>, FramingError>) -> Vec<u8> {
        let request = match value {
            Ok(text) => Request::parse(&text),
            Err(error) => return wire::reply(None, Err(CommandError::from_chain(&error))),
        };
        match request {
            Ok(mut request) => wire::reply(request.id.take(), self.execute(request)),
            Err(bad) => wire::reply(bad.id, Err(bad.error)),
        }
    }

    fn execute(&mut self, request: Request) -> Result<Value, CommandError> {
        if self.negotiated {
            return commands::dispatch(self, request);
        }
        if request.execute != "qmp_capabilities" {
            return Err(CommandError::not_found("Expecting capabilities negotiation with 'qmp_capabilities'"));
        }
        let Negotiation { enable } = arguments::read(request.arguments)?;
        if let Some(capability) = enable.iter().flatten().next() {
            return Err(CommandError::generic(format!("Capability '{capability}' is not available; there are none")));
        }
        self.negotiated = true;
        Ok(json!({}))
    }
}
