//! The plan of a migration, from its parameters and the guest's ownership record.

use ferry_migration::source::Plan;
use ferry_migration::{Handshake, Parameters};
use ferry_record::{HandoverRecord, OwnRecord};

use crate::error::MigrationError;

/// The generation of a guest that no ownership record counts.
const FIRST_GENERATION: u64 = 1;

/// Derives the plan from the parameters, the capability and the record. `own_record`: the
/// process's, also if this migration does not use it.
///
/// # Errors
/// When the requested handshake needs a record that this migration does not have.
pub(super) fn plan(
    parameters: &Parameters,
    postcopy: bool,
    (own_record, record): (Option<&OwnRecord>, Option<&HandoverRecord>),
) -> Result<Plan, MigrationError> {
    let handshake = match (parameters.handshake, record, own_record) {
        (Some(Handshake::Owned), None, None) => return Err(MigrationError::NoRecord),
        (Some(Handshake::Owned), None, Some(own)) => return Err(MigrationError::NotNamed(own.place())),
        (None, None, _) => Handshake::Setup,
        (None, Some(_), _) => Handshake::Owned,
        (Some(asked), ..) => asked,
    };
    Ok(Plan {
        generation: record.map_or(FIRST_GENERATION, |record| record.handover().generation()),
        // None with `local`: a trial costs the guest a stop, and a load that fails costs hardly
        // more.
        rehearse: parameters.rehearsal && !parameters.local,
        postcopy,
        handshake,
        insist_on_record: parameters.handshake == Some(Handshake::Owned),
        has_record: record.is_some(),
    })
}
