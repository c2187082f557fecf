//! The threads that work for a destination's driver: one loads and starts the machine, one for each bulk link takes pages.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use ferry_migration::destination::{Input, LoadTimes};
use ferry_migration::message::Failure;
use ferry_migration::section;

use crate::machine::Machine;
use crate::runtime::destination::Event;
use crate::runtime::destination::pages::PageReceiver;
use crate::runtime::source::worker::{failure, machine_failure};

/// What the machine's worker can be asked for.
#[derive(Debug)]
pub enum MachineJob {
    /// Load this state; it arrived at the first time, and loading could begin at the second.
    Load(Vec<u8>, Instant, Instant),
    /// Take the disk and run; the permit arrived at this time.
    Start(Instant),
}

/// Starts the machine's worker.
pub fn machine_worker(
    machine: Arc<Machine>,
    events: Sender<Event>,
) -> std::io::Result<(Sender<MachineJob>, JoinHandle<()>)> {
    let (jobs, inbox) = channel();
    let run = move || {
        for job in inbox {
            let input = match job {
                MachineJob::Load(state, arrived, gathered) => {
                    Input::Loaded(load(&machine, &state).map(|()| LoadTimes {
                        load_us: arrived.elapsed().as_micros() as u64,
                        pages_us: gathered.saturating_duration_since(arrived).as_micros() as u64,
                    }))
                }
                MachineJob::Start(permitted) => Input::Started(
                    machine
                        .release_hold()
                        .map(|()| permitted.elapsed().as_micros() as u64)
                        .map_err(|error| machine_failure(&error)),
                ),
            };
            if events.send(Event::Input(input)).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("ferry-dst-load".into()).spawn(run)?;
    Ok((jobs, thread))
}

fn load(machine: &Machine, state: &[u8]) -> Result<(), Failure> {
    let sections = section::decode(state)
        .map_err(|error| Failure { device: "device state".to_owned(), reason: error.to_string() })?;
    machine.load(&sections).map_err(failure)
}

/// Starts the thread of a bulk link.
pub fn page_worker(mut receiver: PageReceiver, events: Sender<Event>) -> std::io::Result<JoinHandle<()>> {
    let run = move || {
        loop {
            let (event, more) = match receiver.until_marker() {
                Ok(number) => (Event::Input(Input::MarkerReached(number)), true),
                Err(error) => (Event::PagesLost(crate::runtime::causes(&error)), false),
            };
            if events.send(event).is_err() || !more {
                return;
            }
        }
    };
    std::thread::Builder::new().name("ferry-dst-pages".into()).spawn(run)
}
