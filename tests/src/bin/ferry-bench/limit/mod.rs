//! The limits: what this host could do at best, measured by the bench itself with no VMM in the
//! way.
//!
//! Every row has its limit beside it, made of these: a bare copy over loopback TCP, a round trip
//! there, a minor fault that another thread resolves, a record made durable, and a process that
//! starts and makes an empty VM.

mod copy;
mod fault;
mod start;
mod sync;
mod trip;

use serde::Serialize;

use crate::account::{Measured, Reading};

pub(crate) use copy::copy;
pub(crate) use fault::minor_faults_us;
pub(crate) use start::start;
pub(crate) use sync::fdatasync_ms;
pub(crate) use trip::round_trips_us;

/// A limit that is a sum of parts or a product: named as the figure that it stands beside.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Derived(Vec<Part>);

#[derive(Clone, Debug, Serialize)]
struct Part {
    figure: &'static str,
    unit: &'static str,
    value: Option<f64>,
}

impl Derived {
    /// One more figure; nothing where a part of it is not known.
    pub(crate) fn and(mut self, figure: &'static str, unit: &'static str, value: Option<f64>) -> Self {
        self.0.push(Part { figure, unit, value });
        self
    }
}

impl Measured for Derived {
    fn readings(&self) -> Vec<Reading> {
        self.0.iter().map(|part| Reading::perhaps(part.figure, part.unit, part.value)).collect()
    }
}
