//! The line on which a device interrupts the guest: it sends edges, however they are delivered.
//!
//! The machine connects each device's line to KVM's interrupt controllers. A device may pulse it
//! from any thread, and when [`InterruptLine::pulse`] returns the interrupt controller has received
//! the edge. An irqfd would be less code, but KVM passes an edge for the I/O APIC to a kernel
//! worker, which ran 15 seconds late on an overloaded host.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Hands one edge to the interrupt controller.
type Wire = Box<dyn Fn() + Send + Sync>;

/// One device's interrupt line, edge-triggered.
#[derive(Default)]
pub struct InterruptLine {
    wire: OnceLock<Wire>,
    edges: AtomicU64,
}

impl InterruptLine {
    /// Connects the line, once: later calls have no effect.
    pub fn connect(&self, wire: impl Fn() + Send + Sync + 'static) {
        let _connected_before = self.wire.set(Box::new(wire));
    }

    /// Interrupts the guest. A line that is not connected delivers nothing, but counts the edge.
    pub fn pulse(&self) {
        self.edges.fetch_add(1, Ordering::Relaxed);
        if let Some(wire) = self.wire.get() {
            wire();
        }
    }

    /// Edges so far.
    #[must_use]
    pub fn edges(&self) -> u64 {
        self.edges.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for InterruptLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connected = self.wire.get().is_some();
        f.debug_struct("InterruptLine").field("connected", &connected).field("edges", &self.edges()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn every_edge_reaches_the_wire_before_the_pulse_returns() {
        let line = InterruptLine::default();
        line.pulse();
        let heard = Arc::new(AtomicU64::new(0));
        let counter = heard.clone();
        line.connect(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        line.pulse();
        line.pulse();
        assert_eq!((heard.load(Ordering::Relaxed), line.edges()), (2, 3));
    }
}
