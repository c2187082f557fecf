//! Commands about the machine's run state (QEMU `qapi/run-state.json`, `qapi/misc.json`,
//! `qapi/machine.json`).

use ferry_observe::RunState;
use serde_json::{Value, json};

use crate::arguments::Nothing;
use crate::session::Session;
use crate::target::Done;

pub(super) fn query_name(session: &Session, _: Nothing) -> Value {
    json!({ "name": session.target.name() })
}

pub(super) fn query_status(session: &Session, _: Nothing) -> Value {
    let state = session.target.run_state();
    json!({ "status": name(state), "running": state == RunState::Running })
}

pub(super) fn stop(session: &Session, _: Nothing) -> Done {
    session.target.stop()
}

pub(super) fn cont(session: &Session, _: Nothing) -> Done {
    session.target.cont()
}

pub(super) fn system_reset(session: &Session, _: Nothing) -> Done {
    session.target.reset()
}

pub(super) fn quit(session: &Session, _: Nothing) -> Done {
    session.target.quit()
}

/// QEMU's name of a run state.
pub(super) fn name(state: RunState) -> &'static str {
    match state {
        RunState::Prelaunch => "prelaunch",
        RunState::Running => "running",
        RunState::Paused => "paused",
        RunState::InMigrate => "inmigrate",
        RunState::FinishMigrate => "finish-migrate",
        RunState::PostMigrate => "postmigrate",
        RunState::Shutdown => "shutdown",
        RunState::InternalError => "internal-error",
    }
}
