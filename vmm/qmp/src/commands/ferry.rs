//! Ferry's own commands: who owns the guest, making the fault device fail, and comparing guest
//! memory.

use ferry_devices::fault::FaultSpec;
use ferry_migration::source::{Owner, Resolution};
use ferry_observe::RunState;
use serde::Deserialize;
use serde_json::json;

use super::{Arguments, Outcome, value};
use crate::arguments::{Nothing, read};
use crate::session::Session;
use crate::target::Done;
use crate::wire::CommandError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Clear {
    clear: bool,
}

/// The keys of `--device fault,…`; the fault device's own parser, and the machine, check their
/// values.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    at: String,
    r#do: String,
    of: Option<String>,
    times: Option<u64>,
    r#in: Option<String>,
}

/// `x-ferry-fault-set`: adds a rule, or with `"clear": true` removes all.
pub(super) fn fault_set(session: &Session, arguments: Arguments) -> Done {
    if arguments.contains_key("clear") {
        return match read(arguments)? {
            Clear { clear: true } => session.target.clear_faults(),
            Clear { clear: false } => Err(CommandError::generic("Parameter 'clear' can only be true")),
        };
    }
    let rule = read::<Rule>(arguments)?;
    let times = rule.times.map(|times| times.to_string());
    let values = [("at", Some(rule.at)), ("do", Some(rule.r#do)), ("of", rule.of), ("times", times), ("in", rule.r#in)];
    let given = values.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?)));
    let rule = FaultSpec::from_pairs(given).map_err(|error| CommandError::from_chain(&error))?;
    session.target.set_fault(rule)
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Resolve {
    owner: Side,
    peer_fenced: bool,
    #[serde(default)]
    drop_pages: bool,
    #[serde(default)]
    never_ran: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Side {
    Source,
    Destination,
}

/// `x-ferry-resolve`: the operator decides which side owns the guest, after making sure that the
/// other side does not run it and never will.
pub(super) fn resolve(session: &Session, arguments: Resolve) -> Done {
    if !arguments.peer_fenced {
        return Err(CommandError::generic(
            "Nothing was resolved: end the other side's process first, or cut its host off for good, then say so with \
             'peer-fenced': true. Two running copies of one guest destroy its disk",
        ));
    }
    let owner = match arguments.owner {
        Side::Source => Owner::Source,
        Side::Destination => Owner::Destination,
    };
    session.target.resolve(Resolution { owner, never_ran: arguments.never_ran }, arguments.drop_pages)
}

/// `x-ferry-query-ownership`: the content of the ownership record; an empty object without a
/// record.
pub(super) fn query_ownership(session: &Session, _: Nothing) -> Outcome {
    session.target.ownership().map_or(Ok(json!({})), value)
}

/// `x-ferry-memory-hash`: equal on two sides exactly when their guest memory is. The target
/// refuses it while memory is not whole.
pub(super) fn memory_hash(session: &Session, _: Nothing) -> Outcome {
    let stopped = || match session.target.run_state() {
        RunState::Running => {
            Err(CommandError::generic("The guest is running and its memory changes; send 'stop' before this"))
        }
        _ => Ok(()),
    };
    stopped()?;
    let hash = session.target.memory_hash()?;
    // Another client may have issued `cont` in between.
    stopped()?;
    Ok(json!({ "hash": hash.to_string(), "bytes": hash.bytes, "nonzero-pages": hash.nonzero_pages }))
}
