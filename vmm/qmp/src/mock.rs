//! A target without a machine, for the tests of the commands and of the server.

use std::sync::{Arc, Mutex, MutexGuard};

use ferry_devices::fault::FaultSpec;
use ferry_link::endpoint::Endpoint;
use ferry_memory::MemoryHash;
use ferry_migration::parameters::Capability;
use ferry_migration::parameters::{Given, OwnSettings};
use ferry_migration::source::Resolution;
use ferry_migration::{MigrationInfo, Parameters, Status};
use ferry_observe::RunState;
use ferry_observe::events::{Event, Events};
use ferry_record::OwnershipInfo;

use super::target::{Done, Target};
use super::wire::CommandError;

/// Records the calls that it receives.
pub struct Mock {
    /// Where its events go.
    pub events: Arc<Events>,
    state: Mutex<State>,
}

/// The calls received, and the answers.
pub struct State {
    /// The answer to `query-status`.
    pub run_state: RunState,
    /// How often `quit` was called.
    pub quits: usize,
    /// The answer to `query-migrate`.
    pub info: MigrationInfo,
    /// The addresses to which migrations were begun.
    pub migrations: Vec<Endpoint>,
    /// The settings of each of them.
    pub own: Vec<OwnSettings>,
    /// The settings of the running migration, if they differ.
    pub in_force: Option<(Parameters, Vec<Capability>)>,
    /// Why a migration is refused; it is accepted when there is no reason.
    pub no_migration: Option<&'static str>,
    /// Where it listens, and whether it ends when that fails.
    pub listening: Option<(Endpoint, bool)>,
    /// The process's parameters.
    pub parameters: Parameters,
    /// Rules of the fault device.
    pub faults: Vec<String>,
    /// Capabilities that are on.
    pub capabilities: Vec<Capability>,
    /// How often postcopy was started.
    pub start_postcopy: usize,
    /// How often a postcopy was paused.
    pub pauses: usize,
    /// Paused postcopies that were resumed.
    pub resumed: Vec<(Endpoint, Given)>,
    /// Addresses at which to listen for sources of paused postcopies.
    pub recovered: Vec<Endpoint>,
    /// The resolutions received.
    pub resolved: Vec<(Resolution, bool)>,
    /// Why a cancel is refused; it is accepted when there is no reason.
    pub no_cancel: Option<&'static str>,
}

impl Mock {
    /// A mock that has received no call.
    pub fn new() -> Arc<Self> {
        let state = State {
            run_state: RunState::Paused,
            quits: 0,
            info: MigrationInfo::default(),
            migrations: Vec::new(),
            own: Vec::new(),
            in_force: None,
            no_migration: None,
            listening: None,
            parameters: Parameters::default(),
            faults: Vec::new(),
            capabilities: vec![],
            start_postcopy: 0,
            pauses: 0,
            resumed: Vec::new(),
            recovered: Vec::new(),
            resolved: Vec::new(),
            no_cancel: None,
        };
        Arc::new(Mock { events: Arc::default(), state: Mutex::new(state) })
    }

    /// The calls so far and the answers; may be changed.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Target for Mock {
    fn name(&self) -> String {
        "mock".into()
    }

    fn run_state(&self) -> RunState {
        self.state().run_state
    }

    fn stop(&self) -> Done {
        self.state().run_state = RunState::Paused;
        self.events.publish(Event::Stop);
        Ok(())
    }

    fn cont(&self) -> Done {
        self.state().run_state = RunState::Running;
        self.events.publish(Event::Resume);
        Ok(())
    }

    fn reset(&self) -> Done {
        self.events.publish(Event::Reset { guest: false, reason: "host-qmp-system-reset" });
        Ok(())
    }

    fn quit(&self) -> Done {
        self.state().quits += 1;
        Ok(())
    }

    fn migration(&self) -> MigrationInfo {
        self.state().info.clone()
    }

    fn listening(&self) -> Option<Endpoint> {
        self.state().listening.clone().map(|(at, _)| at)
    }

    fn migrate(&self, to: Endpoint, own: &OwnSettings) -> Done {
        if let Some(why) = self.state().no_migration {
            return Err(CommandError::generic(why));
        }
        self.state().migrations.push(to);
        self.state().own.push(own.clone());
        self.state().info.status = Some(Status::Setup);
        self.events.publish(Event::Migration(Status::Setup));
        Ok(())
    }

    fn incoming(&self, at: &Endpoint, exit_on_error: bool) -> Done {
        self.state().listening = Some((at.clone(), exit_on_error));
        Ok(())
    }

    fn resume_migration(&self, to: Endpoint, given: Given) -> Done {
        let mut state = self.state();
        state.resumed.push((to, given));
        state.info.status = Some(Status::PostcopyRecover);
        Ok(())
    }

    fn in_force(&self) -> Option<(Parameters, Vec<Capability>)> {
        self.state().in_force.clone()
    }

    fn start_postcopy(&self) -> Done {
        self.state().start_postcopy += 1;
        Ok(())
    }

    fn pause_migration(&self) -> Done {
        self.state().pauses += 1;
        Ok(())
    }

    fn recover(&self, at: &Endpoint) -> Done {
        self.state().recovered.push(at.clone());
        Ok(())
    }

    fn resolve(&self, resolution: Resolution, drop_pages: bool) -> Done {
        self.state().resolved.push((resolution, drop_pages));
        Ok(())
    }

    fn ownership(&self) -> Option<OwnershipInfo> {
        None
    }

    fn has(&self, capability: Capability) -> bool {
        self.state().capabilities.contains(&capability)
    }

    fn set_capability(&self, capability: Capability, on: bool) {
        let mut state = self.state();
        state.capabilities.retain(|had| *had != capability);
        state.capabilities.extend(on.then_some(capability));
    }

    fn cancel(&self) -> Done {
        let mut state = self.state();
        if let Some(why) = state.no_cancel {
            return Err(CommandError::generic(why));
        }
        state.info.status = Some(Status::Cancelled);
        Ok(())
    }

    fn parameters(&self) -> Parameters {
        self.state().parameters.clone()
    }

    fn set_parameters(&self, given: &Given) -> Done {
        let mut state = self.state();
        state.parameters = given.over(&state.parameters);
        Ok(())
    }

    fn set_fault(&self, rule: FaultSpec) -> Done {
        self.state().faults.push(rule.to_string());
        Ok(())
    }

    fn clear_faults(&self) -> Done {
        self.state().faults.clear();
        Ok(())
    }

    fn memory_hash(&self) -> Result<MemoryHash, CommandError> {
        Ok(MemoryHash { sum: 0xabc, bytes: 4096, nonzero_pages: 1 })
    }
}
