//! The next migration: whatever happened in a cell, the guest that is left moves to a healthy
//! destination and works there.

use std::time::Duration;

use ferry_migration::info::Status;
use serde_json::json;

use super::actor::{Actor, View};
use super::drive::Stand;
use super::evidence::{Evidence, Role};
use super::stage::Stage;
use crate::wait::poll;

/// Longest that it may take.
const WITHIN: Duration = Duration::from_secs(40);
/// Lines of every vCPU that show that the guest works.
const REPORTS: usize = 3;

/// Migrates the guest once more, if there is one, and notes in the evidence how that went and what
/// the guest has said at last.
pub fn migrate(stage: &mut Stage, stand: Stand, evidence: &mut Evidence) {
    let tried = match stand {
        Stand::AtSource | Stand::AtDestination => Some(attempt(stage, stand)),
        Stand::Lost | Stand::Ended => None,
    };
    if let Some(tried) = tried {
        evidence.next = Some(tried.map(|mut next| {
            evidence.processes.push(next.evidence());
            next.end();
        }));
    }
    // What the guest has said is told to the very end.
    for (process, actor) in evidence.processes.iter_mut().zip([&stage.source, &stage.destination]) {
        process.serial = actor.serial();
    }
}

fn attempt(stage: &mut Stage, stand: Stand) -> Result<Actor, String> {
    if stand == Stand::AtDestination && !stage.source.end() {
        return Err("the source, whose guest is elsewhere, does not end".to_owned());
    }
    let next = stage.lab.start_destination(&stage.spec);
    let to = next.wait_listening();
    let mut next = Actor::new(next, Role::Next);
    stage.sampler.watch(2, next.ferry.pid());
    stage.notes.say("the next migration begins");
    let holder = if stand == Stand::AtSource { &mut stage.source } else { &mut stage.destination };
    for (command, arguments) in [
        ("x-ferry-fault-set", json!({ "clear": true })),
        (
            "migrate-set-parameters",
            json!({
                "max-bandwidth": 0, "downtime-limit": 300, "x-ferry-setup-timeout-ms": 10_000,
                "x-ferry-load-timeout-ms": 5000, "x-ferry-heartbeat-timeout-ms": 5000,
            }),
        ),
        // A guest that an operator has stopped, or that nobody could run, goes on.
        ("cont", json!({})),
        ("migrate", json!({ "uri": to })),
    ] {
        holder.ferry.try_qmp(command, arguments).map_err(|error| format!("{command}: {error}"))?;
    }
    let ended = poll(WITHIN, || match holder.view() {
        View::Answers(Some(status), _) if status.is_active() => None,
        view => Some(view),
    });
    match ended {
        Some(View::Answers(Some(Status::Completed), _)) => {}
        Some(view) => return Err(format!("{view:?}: {}", holder.error())),
        None => return Err("it comes to no end".to_owned()),
    }
    let cpus = stage.spec.cpus;
    let works = poll(WITHIN, || {
        let said = next.serial();
        (0..cpus).all(|cpu| said.matches(&format!("ferry r c={cpu} ")).count() >= REPORTS).then_some(())
    });
    works.ok_or("the guest says nothing any more")?;
    // The guest runs, and the source knows it, before the destination has put its threads away.
    let arrived = poll(WITHIN, || match next.view() {
        View::Answers(Some(status), _) if status.is_active() => None,
        view => Some(view),
    });
    match arrived {
        Some(View::Answers(Some(Status::Completed), _)) => Ok(next),
        Some(view) => Err(format!("the destination of the next migration: {view:?}: {}", next.error())),
        None => Err("the destination of the next migration comes to no end".to_owned()),
    }
}
