//! The commands, as one table: name and function. `query-commands` reads the same table.
//!
//! A command is a function from its argument struct to a value; [`dispatch`] finds it, and the
//! closures of the table turn JSON into the one and the other into JSON.

mod ferry;
mod migration;
mod parameters;
mod run_state;

use serde_json::{Value, json};

use super::arguments::{Nothing, read};
use super::session::Session;
use super::wire::{self, CommandError, Request};

type Arguments = serde_json::Map<String, Value>;
type Outcome = Result<Value, CommandError>;

struct Command {
    name: &'static str,
    run: fn(&Session, Arguments) -> Outcome,
}

/// Runs one request of a client that has negotiated.
pub(crate) fn dispatch(session: &Session, request: Request) -> Outcome {
    match COMMANDS.iter().find(|command| command.name == request.execute) {
        Some(command) => (command.run)(session, request.arguments),
        None => Err(CommandError::not_found(format!("The command {} has not been found", request.execute))),
    }
}

const COMMANDS: &[Command] = &[
    // A session negotiates before it dispatches (`session.rs`); here it is too late.
    Command { name: "qmp_capabilities", run: |_, _| Err(already_negotiated()) },
    Command { name: "query-version", run: |_, a| read::<Nothing>(a).map(|_| wire::version()) },
    Command { name: "query-commands", run: |_, a| read::<Nothing>(a).map(|_| names()) },
    Command { name: "query-name", run: |s, a| read(a).map(|a| run_state::query_name(s, a)) },
    Command { name: "query-status", run: |s, a| read(a).map(|a| run_state::query_status(s, a)) },
    Command { name: "stop", run: |s, a| empty(run_state::stop(s, read(a)?)) },
    Command { name: "cont", run: |s, a| empty(run_state::cont(s, read(a)?)) },
    Command { name: "system_reset", run: |s, a| empty(run_state::system_reset(s, read(a)?)) },
    Command { name: "quit", run: |s, a| empty(run_state::quit(s, read(a)?)) },
    Command { name: "migrate", run: |s, a| empty(migration::migrate(s, a)) },
    Command { name: "migrate-incoming", run: |s, a| empty(migration::migrate_incoming(s, read(a)?)) },
    Command { name: "migrate_cancel", run: |s, a| empty(migration::migrate_cancel(s, read(a)?)) },
    Command { name: "migrate-start-postcopy", run: |s, a| empty(migration::migrate_start_postcopy(s, read(a)?)) },
    Command { name: "migrate-pause", run: |s, a| empty(migration::migrate_pause(s, read(a)?)) },
    Command { name: "migrate-recover", run: |s, a| empty(migration::migrate_recover(s, read(a)?)) },
    Command { name: "query-migrate", run: |s, a| migration::query_migrate(s, read(a)?) },
    Command { name: "migrate-set-parameters", run: |s, a| empty(parameters::set_parameters(s, a)) },
    Command { name: "query-migrate-parameters", run: |s, a| parameters::query_parameters(s, read(a)?) },
    Command { name: "migrate-set-capabilities", run: |s, a| empty(parameters::set_capabilities(s, read(a)?)) },
    Command { name: "query-migrate-capabilities", run: |s, a| parameters::query_capabilities(s, read(a)?) },
    Command { name: "x-ferry-resolve", run: |s, a| empty(ferry::resolve(s, read(a)?)) },
    Command { name: "x-ferry-query-ownership", run: |s, a| ferry::query_ownership(s, read(a)?) },
    Command { name: "x-ferry-fault-set", run: |s, a| empty(ferry::fault_set(s, a)) },
    Command { name: "x-ferry-memory-hash", run: |s, a| ferry::memory_hash(s, read(a)?) },
];

fn already_negotiated() -> CommandError {
    CommandError::not_found("Capabilities negotiation is already complete, command ignored")
}

/// The name of every command, in the order in which clients see them.
pub fn command_names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().map(|command| command.name)
}

fn names() -> Value {
    command_names().map(|name| json!({ "name": name })).collect()
}

fn empty(done: Result<(), CommandError>) -> Outcome {
    done.map(|()| json!({}))
}

fn value(of: impl serde::Serialize) -> Outcome {
    serde_json::to_value(of).map_err(|error| CommandError::from_chain(&error))
}
