//! What an ownership record says, for an operator.

use ferry_devices::one_call::NoAnswer;
use ferry_migration::ownership::OwnerId;

use crate::{Ownership, Stay};
use serde::{Deserialize, Serialize};

use super::call::ANSWER_DEADLINE;

const SEE_STORAGE: &str = "its storage hangs: see what keeps it, then ask again";

/// What a record says, for an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OwnershipInfo {
    /// Where the record is.
    pub place: String,
    /// Why the rest is not known; nothing was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why the guest may run twice: it is here, and the record names another process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may_run_twice: Option<String>,
    /// The guest's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// Counts the changes of owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The owner of the guest: `HOST:PID` of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The owner is the process that received the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owned_here: Option<bool>,
    /// The process that may take the guest over: `HOST:PID`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partner: Option<String>,
    /// No hand-over is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settled: Option<bool>,
}

/// Why the guest may run twice.
#[derive(Debug)]
pub(super) struct MayRunTwice {
    /// The stay of the guest at this process.
    pub(super) stay: Stay,
    /// The owner that the record named.
    pub(super) owner: String,
    /// The owner's generation.
    pub(super) generation: u64,
    pub(super) why: String,
}

impl OwnershipInfo {
    /// What the record at `backend` says; `me` is the process that asks.
    #[must_use]
    pub fn read(backend: &dyn Ownership, me: Option<&OwnerId>) -> Self {
        let read = backend.read();
        let error = match &read {
            Ok(Some(_)) => None,
            Ok(None) => Some("there is no record yet".to_owned()),
            Err(error) => Some(ferry_observe::causes(error)),
        };
        let record = read.ok().flatten();
        let of = record.as_ref();
        OwnershipInfo {
            place: backend.place(),
            error,
            may_run_twice: None,
            vm: of.map(|record| record.vm.to_string()),
            generation: of.map(|record| record.generation),
            owner: of.map(|record| record.owner.to_string()),
            owned_here: of.and_then(|record| Some(record.owner == *me?)),
            partner: of.and_then(|record| Some(record.partner.as_ref()?.to_string())),
            settled: of.map(|record| record.settled),
        }
    }

    /// For a record at `place` that has not answered.
    pub(super) fn unanswered(place: String, why: &NoAnswer) -> Self {
        let error = match why {
            NoAnswer::Late => format!("no answer within {} s; {SEE_STORAGE}", ANSWER_DEADLINE.as_secs()),
            NoAnswer::StillHangs => format!("still no answer; {SEE_STORAGE}"),
            NoAnswer::Thread(error) => {
                format!("no thread can be started to ask it: {error}; raise the limit of processes")
            }
        };
        OwnershipInfo {
            place,
            error: Some(error),
            may_run_twice: None,
            vm: None,
            generation: None,
            owner: None,
            owned_here: None,
            partner: None,
            settled: None,
        }
    }
}
