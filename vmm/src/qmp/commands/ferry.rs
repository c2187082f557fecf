//! Ferry's own commands: making the fault device fail, and comparing guest memory.

use ferry_devices::fault::FaultSpec;
use serde::Deserialize;
use serde_json::json;

use super::{Arguments, Outcome};
use crate::machine::RunState;
use crate::qmp::arguments::{Nothing, read};
use crate::qmp::session::Session;
use crate::qmp::target::Done;
use crate::qmp::wire::CommandError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Clear {
    clear: bool,
}

/// The keys of `--device fault,…`; the fault device's own parser checks their values.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    at: String,
    r#do: String,
    times: Option<u64>,
    r#in: Option<String>,
}

/// `x-ferry-fault-set`: adds a rule, or with `"clear": true` removes all.
pub fn fault_set(session: &Session, arguments: Arguments) -> Done {
    if arguments.contains_key("clear") {
        return match read(arguments)? {
            Clear { clear: true } => session.target.clear_faults(),
            Clear { clear: false } => Err(CommandError::generic("Parameter 'clear' can only be true")),
        };
    }
    let rule = read::<Rule>(arguments)?;
    let times = rule.times.map(|times| times.to_string());
    let values = [("at", Some(rule.at)), ("do", Some(rule.r#do)), ("times", times), ("in", rule.r#in)];
    let given = values.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?)));
    let rule = FaultSpec::from_pairs(given).map_err(|error| CommandError::from_chain(&error))?;
    session.target.set_fault(rule)
}

/// `x-ferry-memory-hash`: equal on two sides exactly when their guest memory is.
pub fn memory_hash(session: &Session, _: Nothing) -> Outcome {
    let stopped = || match session.target.run_state() {
        RunState::Running => {
            Err(CommandError::generic("The guest is running and its memory changes; send 'stop' before this"))
        }
        _ => Ok(()),
    };
    stopped()?;
    let hash = session.target.memory_hash()?;
    // A `cont` of another client may have come in between.
    stopped()?;
    Ok(json!({ "hash": hash.to_string(), "bytes": hash.bytes, "nonzero-pages": hash.nonzero_pages }))
}
