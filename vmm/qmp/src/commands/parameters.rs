//! Migration parameters and capabilities (QEMU `qapi/migration.json`): set and query.

use std::sync::atomic::Ordering;

use ferry_migration::Parameters;
use ferry_migration::parameters::Capability;
use ferry_migration::parameters::Given;

use super::{Arguments, Outcome, value};
use crate::arguments::{Nothing, read};
use crate::session::Session;
use crate::target::Done;
use crate::wire::CommandError;
use serde::{Deserialize, Serialize};

/// Sets the parameters that are given and leaves the others unchanged.
pub(super) fn set_parameters(session: &Session, given: Arguments) -> Done {
    // For an error that names the member.
    read::<Parameters>(given.clone())?;
    session.target.set_parameters(&some(given)?)
}

/// The client's parameters, once their names and types have been checked.
pub(super) fn some(given: Arguments) -> Result<Given, CommandError> {
    Given::new(given).map_err(|error| CommandError::from_chain(&error))
}

pub(super) fn query_parameters(session: &Session, _: Nothing) -> Outcome {
    value(session.target.parameters())
}

/// QEMU's `MigrationCapabilityStatus`.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CapabilityState {
    pub(super) capability: Capability,
    pub(super) state: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SetCapabilities {
    capabilities: Vec<CapabilityState>,
}

pub(super) fn set_capabilities(session: &Session, arguments: SetCapabilities) -> Done {
    if session.target.migration().status.unwrap_or_default().is_active() {
        return Err(CommandError::generic("There's a migration process in progress; set capabilities before it"));
    }
    for CapabilityState { capability, state } in arguments.capabilities {
        match capability {
            Capability::Events => session.shared.migration_events.store(state, Ordering::Relaxed),
            other => session.target.set_capability(other, state),
        }
    }
    Ok(())
}

pub(super) fn query_capabilities(session: &Session, _: Nothing) -> Outcome {
    value(Capability::ALL.map(|capability| {
        let state = match capability {
            Capability::Events => session.shared.migration_events.load(Ordering::Relaxed),
            other => session.target.has(other),
        };
        CapabilityState { capability, state }
    }))
}
