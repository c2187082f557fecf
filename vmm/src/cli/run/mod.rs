//! `ferry run`: builds the machine, opens the QMP socket, lets the guest run or waits for one, and
//! stays until it ends.

mod files;
mod options;
pub(super) mod ownership;

use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::Duration;

pub(super) use self::options::Options;
use ferry_machine::{ExitReason, Machine, SerialSink};
use ferry_observe::events::Events;
use ferry_observe::trace;
use ferry_qmp::Server;
use ferry_transfer::Custodian;
use ferry_transfer::{Migrations, Needed};

use self::options::Incoming;
use super::CliError;
use crate::console::Console;
use crate::process::Process;
use crate::signals::{self, Signal, Signals};
use crate::stderr;

/// How long a failed destination answers its connected clients, which learn of the end from the
/// source or by polling and then query the reason.
const LAST_QUESTION: Duration = Duration::from_millis(200);

/// Runs `ferry run`.
pub(super) fn run(options: &Options) -> Result<(), CliError> {
    // Before any thread is started, see `signals`.
    let signals = Signals::take().map_err(|error| CliError::failed("cannot watch for signals", error))?;
    signals::ignore_terminal_stops();
    files::check(options)?;
    options.start_trace().map_err(CliError::because)?;
    let outcome = run_machine(options, &signals);
    trace::finish();
    outcome
}

fn run_machine(options: &Options, signals: &Signals) -> Result<(), CliError> {
    let events = Arc::new(Events::default());
    let machine = Arc::new(Machine::build(&options.machine(), events.clone()).map_err(CliError::because)?);
    let record = options.ownership.record(&options.name, options.disk.as_ref(), machine.faults())?;
    if let Some(own) = &record {
        machine.set_custody(Arc::new(Custodian::new(own.clone())));
    }
    match &record {
        _ if options.incoming.is_some() => {}
        Some(own) => options.ownership.take_at_boot(own, &machine)?,
        None => machine.take_resources().map_err(CliError::because)?,
    }
    let migrations = Migrations::new(machine.clone(), events.clone(), record);

    let signal = quit_on_signal(signals.messages(), Arc::downgrade(&machine), Arc::downgrade(&migrations))?;
    let incoming_failure = Arc::new(OnceLock::new());
    let (failure, quitting) = (incoming_failure.clone(), Arc::downgrade(&machine));
    let process = Arc::new(Process::new(machine.clone(), migrations.clone(), move |error| {
        failure.get_or_init(|| error);
        quit(&quitting, "host-error");
    }));
    let server = options.qmp.as_deref().map(|path| Server::start(path, process.clone(), &events));
    let server = server.transpose().map_err(CliError::because)?;
    if options.paused && options.incoming.is_some() {
        // A `stop` before the guest arrives overrides the run state that the source's operator
        // requested.
        machine.stop().map_err(CliError::because)?;
    }
    match &options.incoming {
        None if options.paused => {}
        None => machine.cont().map_err(CliError::because)?,
        Some(Incoming::Defer) => {}
        Some(Incoming::At(at)) => process.listen(at, true).map_err(CliError::because)?,
    }

    let leaving = Arc::downgrade(&machine);
    let console = (options.serial == SerialSink::Stdio)
        .then(|| Console::start(machine.serial().clone(), move || quit(&leaving, "host-ui")));
    let console = console.transpose().map_err(|error| CliError::failed("standard input cannot be used", error))?;

    let reason = machine.wait_exit();
    // The terminal is restored before anything else is printed.
    drop(console);
    // A migration that ends because the process does is not a failure of the process.
    let failure = incoming_failure.get();
    if let (Some(_), Some(server)) = (failure, &server) {
        server.linger(LAST_QUESTION);
    }
    migrations.guest_gone(&format!("the guest has ended ({reason}); start it again to migrate it"));
    drop(server);
    if let Some(signal) = signal.get() {
        tracing::info!("ended by {}", signal.name());
    }
    match (failure, reason) {
        (Some(error), _) => Err(CliError::because(error)),
        (None, ExitReason::Failed(failure)) => Err(CliError::because(failure)),
        (None, ExitReason::Shutdown | ExitReason::Quit(_)) => Ok(()),
    }
}

/// Ends the guest on the first signal, unless that would lose one that runs elsewhere, and the
/// process on the second; returns the cell for the first signal.
fn quit_on_signal(
    signals: Receiver<Signal>,
    machine: Weak<Machine>,
    migrations: Weak<Migrations>,
) -> Result<Arc<OnceLock<Signal>>, CliError> {
    let first = Arc::new(OnceLock::new());
    let noted = first.clone();
    let watch = move || {
        let mut warning = Warning::default();
        for signal in signals {
            match migrations.upgrade().and_then(|migrations| migrations.is_needed()) {
                Some(needed) if warning.is_due(needed) => {
                    let (name, why) = (signal.name(), needed.why);
                    stderr::say(format_args!(
                        "ferry: not ended by {name}: {why}; a second signal ends it all the same"
                    ));
                }
                Some(_) => signals::die_of(signal),
                None if noted.set(signal).is_err() => signals::die_of(signal),
                None => quit(&machine, "host-signal"),
            }
        }
    };
    let thread = thread::Builder::new().name("quit-on-signal".into()).spawn(watch);
    thread.map_err(|error| CliError::failed("cannot watch for signals", error))?;
    Ok(first)
}

/// The migration for which the operator has been warned about a signal.
#[derive(Default)]
struct Warning(Option<u128>);

impl Warning {
    /// Whether the operator is to be warned now: once for each migration, so that a later one has a
    /// warning of its own.
    fn is_due(&mut self, needed: Needed) -> bool {
        self.0.replace(needed.migration) != Some(needed.migration)
    }
}

fn quit(machine: &Weak<Machine>, cause: &'static str) {
    if let Some(machine) = machine.upgrade() {
        machine.quit_because(cause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_migration_has_a_warning_of_its_own() {
        let of = |migration| Needed { migration, why: "the guest is lost" };
        let mut warning = Warning::default();
        assert_eq!([7, 7, 8, 8, 8].map(|migration| warning.is_due(of(migration))), [true, false, true, false, false]);
    }
}
