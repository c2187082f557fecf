//! Asks a process for its side of the story, and reads what it wrote.

use std::time::SystemTime;

use ferry_migration::MigrationInfo;
use serde_json::json;
use std::os::unix::process::ExitStatusExt;

use crate::Ferry;
use crate::matrix::evidence::{Event, Exit, Process, Role};
use crate::procfs::Inventory;

/// What a process says and holds now. It need not answer, nor live; one that is stopped by a
/// signal is not asked (`ask` is false), since it would keep the harness waiting. What only the
/// harness knows (kills, freezes, what it held before) is the caller's to add.
#[must_use]
pub fn process(ferry: &mut Ferry, role: Role, ask: bool) -> Process {
    let exit =
        ferry.exit_status().map(|status| Exit { code: status.code(), signal: status.signal(), at: SystemTime::now() });
    let ask = ask && exit.is_none();
    let mut answer = |command: &str| if ask { ferry.try_qmp(command, json!({})).ok() } else { None };
    let final_run_state = answer("query-status").and_then(|status| Some(status["status"].as_str()?.to_owned()));
    let final_info: Option<MigrationInfo> = answer("query-migrate").and_then(|info| serde_json::from_value(info).ok());
    let events = ferry.known_events().iter().map(Event::from_qmp).collect();
    Process {
        label: ferry.label().into(),
        role,
        pid: ferry.pid(),
        killed: None,
        frozen: vec![],
        exit,
        stderr: ferry.stderr(),
        events,
        final_info,
        final_run_state,
        serial: said(ferry),
        before: None,
        after: Inventory::of(ferry.pid()).ok(),
    }
}

/// The guest's serial output in a process so far.
#[must_use]
pub fn said(ferry: &Ferry) -> String {
    String::from_utf8_lossy(&std::fs::read(ferry.serial()).unwrap_or_default()).into_owned()
}
