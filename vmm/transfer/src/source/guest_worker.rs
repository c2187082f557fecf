//! The thread that stops, saves and resumes the guest for a source's driver, so that the driver
//! itself never blocks.
//!
//! It does one job after another, answers each with an input for the state machine, and ends when
//! its job channel closes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use ferry_machine::{Hold, Machine, MachineError, Stopped};
use ferry_migration::message::Failure;
use ferry_migration::source::Input;
use ferry_migration::{Section, section};
use ferry_observe::trace::{self, What};
use ferry_record::{ANSWER_DEADLINE, HandoverRecord};

use crate::failure::{failure, machine_failure, panicked};
use crate::source::events::{Event, GuestDone};

/// A job for the guest worker.
#[derive(Clone, Debug)]
pub(crate) enum GuestJob {
    /// Save between two guest instructions.
    Snapshot,
    /// Stop the vCPUs, drain the devices, release the disk.
    Stop,
    /// Save the machine at this stop.
    Save(Stopped),
    /// Acquire the disk again and run.
    Resume,
    /// Unmap memory that was handed over, so that this process cannot access it.
    PartWithMemory,
}

/// A job, and its precondition.
#[derive(Debug)]
pub(crate) struct Order {
    /// What to do.
    pub job: GuestJob,
    /// The job waits until this is signalled or closed, but no longer than the ownership record
    /// may take. An error means that another process has the guest, and the job is not done.
    pub after: Option<Receiver<Result<(), String>>>,
}

/// Starts the guest worker.
pub(crate) fn guest_worker(
    machine: Arc<Machine>,
    record: Option<Arc<HandoverRecord>>,
    events: Sender<Event>,
) -> std::io::Result<(Sender<Order>, JoinHandle<()>)> {
    let (jobs, inbox) = channel::<Order>();
    let faults = machine.faults().clone();
    let run = move || {
        for Order { job, after } in inbox {
            // A record that does not answer must not block the resume: the operator has decided.
            let answered = after.and_then(|after| after.recv_timeout(ANSWER_DEADLINE).ok());
            if let Some(Err(reason)) = answered {
                machine.leave_stopped();
                let failure = Failure { device: "ownership record".to_owned(), reason };
                if events.send(Event::Guest(done(&job, Err(failure)))).is_err() {
                    return;
                }
                continue;
            }
            let result = catch_unwind(AssertUnwindSafe(|| do_guest_job(&machine, record.as_deref(), &job)));
            if events.send(Event::Guest(done(&job, result.unwrap_or_else(|_| Err(panicked()))))).is_err() {
                return;
            }
        }
    };
    let thread = faults.spawn("ferry-src-guest", run)?;
    Ok((jobs, thread))
}

/// The results of a job.
#[derive(Debug, Default)]
struct Brought {
    state: Option<Vec<u8>>,
    stopped: Option<Stopped>,
}

fn do_guest_job(machine: &Machine, record: Option<&HandoverRecord>, job: &GuestJob) -> Result<Brought, Failure> {
    let framed = |sections: Vec<Section>| Brought { state: Some(section::encode(&sections)), ..Brought::default() };
    match job {
        GuestJob::PartWithMemory => {
            part_with_memory(machine);
            Ok(Brought::default())
        }
        GuestJob::Snapshot => machine.snapshot().map(framed).map_err(failure),
        GuestJob::Stop => stop(machine).map(|stopped| Brought { stopped: Some(stopped), ..Brought::default() }),
        GuestJob::Save(stopped) => save(stopped).map(framed),
        GuestJob::Resume => resume(machine, record).map(|()| Brought::default()),
    }
}

/// The result of a job, for the driver.
fn done(job: &GuestJob, result: Result<Brought, Failure>) -> GuestDone {
    let (result, Brought { state, stopped }) = match result {
        Ok(brought) => (Ok(()), brought),
        Err(failure) => (Err(failure), Brought::default()),
    };
    let input = match job {
        GuestJob::Snapshot => Some(Input::Snapshotted(result)),
        GuestJob::Stop => Some(Input::Stopped(result)),
        GuestJob::Save(_) => Some(Input::Saved(result)),
        GuestJob::Resume => Some(Input::Resumed(result)),
        GuestJob::PartWithMemory => None,
    };
    GuestDone { input, state, stopped }
}

fn part_with_memory(machine: &Machine) {
    if let Err(error) = machine.memory().part_with() {
        tracing::warn!(%error, "the memory that was handed over is still mapped here; no thread uses it");
    }
}

fn stop(machine: &Machine) -> Result<Stopped, Failure> {
    let stopped = machine.hold(Hold::Switchover).map_err(|error| machine_failure(&error))?;
    stopped.quiesce().map_err(failure)?;
    stopped.release_resources().map_err(failure)?;
    Ok(stopped)
}

fn save(stopped: &Stopped) -> Result<Vec<Section>, Failure> {
    // Nothing depends on it.
    trace::note(|| What::Outputs { outputs: stopped.outputs().unwrap_or_default() });
    stopped.save().map_err(failure)
}

fn resume(machine: &Machine, record: Option<&HandoverRecord>) -> Result<(), Failure> {
    machine.release_hold_if(|| record.map_or(Ok(()), HandoverRecord::allows)).map_err(|error| {
        machine.leave_stopped();
        let mut failure = machine_failure(&error);
        if !matches!(error, MachineError::NotOurs(_)) {
            failure.reason.push_str("; when that is mended, go on with cont");
        }
        failure
    })
}
