//! The harness that the integration tests share: starting `ferry`, speaking QMP, following a guest's reports.

pub mod explorer;
pub mod simulator;
