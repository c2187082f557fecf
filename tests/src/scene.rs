//! The stage of a failure test: a guest that runs on a source, a migration that goes wrong, and
//! the guest that must not mind.

use serde_json::json;

use crate::disk::Lock;
use crate::relay::{Fault, Plan, Spot};
use crate::wait::SOON;
use crate::{Ferry, GuestLog, Lab, Relay, Spec, memory};

/// A source with a guest that runs.
#[derive(Debug)]
pub struct Scene {
    /// What the machine is made of.
    pub spec: Spec,
    /// Where the guest runs.
    pub source: Ferry,
    /// What it says.
    pub guest: GuestLog,
    /// The test's directory: the last to go, so that a failed test can show the files of its
    /// processes.
    pub lab: Lab,
}

impl Scene {
    /// A small guest on a source. `None` where tests that need KVM are skipped.
    #[must_use]
    pub fn new() -> Option<Self> {
        Self::with(|_, spec| spec)
    }

    /// As [`Scene::new`], with a machine of the test's choice.
    #[must_use]
    pub fn with(describe: impl FnOnce(&Lab, Spec) -> Spec) -> Option<Self> {
        let lab = Lab::new()?;
        let spec = describe(&lab, Spec::new().memory("32M"));
        let source = lab.start(&spec);
        let mut guest = GuestLog::new(&source, spec.cpus);
        guest.wait_ready();
        guest.wait_reports(1);
        Some(Scene { lab, spec, source, guest })
    }

    /// A destination for the guest.
    #[must_use]
    pub fn destination(&self) -> Ferry {
        self.lab.start_destination(&self.spec)
    }

    /// A destination with a `--device` of its own.
    #[must_use]
    pub fn destination_with(&self, device: &str) -> Ferry {
        self.lab.start_destination(&self.spec.clone().device(device))
    }

    /// A destination behind a relay that does something at a chosen frame.
    #[must_use]
    pub fn destination_behind(&self, at: Spot, fault: Fault) -> (Ferry, Relay) {
        let destination = self.destination();
        let relay = Relay::new(&destination.wait_listening(), Some(Plan { at, fault }));
        (destination, relay)
    }

    /// A third party takes the lock of the disk while it is free: the source has let go of it, and
    /// `relay` holds a message ([`Fault::Hold`]) without which no side takes it.
    ///
    /// # Panics
    /// When the relay holds nothing, or the lock cannot be taken.
    #[must_use]
    pub fn steal_disk(&self, relay: &Relay) -> Lock {
        relay.wait_fired();
        let thief = Lock::wait_for(&self.lab.path("disk.img"));
        thief.wait_taken();
        thief
    }

    /// Makes the source notice within a second what it would notice later: a destination that does
    /// not answer.
    pub fn be_impatient(&mut self) {
        self.source.set_parameters(json!({
            "x-ferry-setup-timeout-ms": 1000, "x-ferry-load-timeout-ms": 1000, "x-ferry-heartbeat-timeout-ms": 1000,
        }));
    }

    /// Goes back to the default deadlines and to full bandwidth.
    pub fn be_patient(&mut self) {
        self.source.set_parameters(json!({
            "x-ferry-setup-timeout-ms": 10_000, "x-ferry-load-timeout-ms": 3000, "x-ferry-heartbeat-timeout-ms": 5000,
            "max-bandwidth": 0,
        }));
    }

    /// Makes the rounds last, so that there is time to do something meanwhile.
    pub fn slow_down(&mut self) {
        self.source.set_parameters(json!({ "max-bandwidth": 1 << 20 }));
    }

    /// Sends the device state once, when the guest has stopped.
    pub fn without_rehearsal(&mut self) {
        self.source.set_parameters(json!({ "x-ferry-rehearsal": false }));
    }

    /// Migrates and returns why that failed; the guest runs on at the source.
    ///
    /// # Panics
    /// When the migration does not fail, or the guest does not run on.
    pub fn fails(&mut self, to: &str) -> String {
        self.source.begin_migration(to);
        let reason = self.source.wait_migration_failed();
        self.guest.wait_reports(1);
        reason
    }

    /// The last act of every failure: the guest works on the source without an error, and a new
    /// migration moves all of it to a healthy destination, where it works on.
    ///
    /// # Panics
    /// When any of this is not so.
    pub fn ends_well(mut self) {
        self.guest.wait_reports(1);
        self.be_patient();
        self.source.qmp("x-ferry-fault-set", json!({ "clear": true }));
        // A disk may work on what the guest had asked for before; the guest checks that itself.
        let compare = self.spec.disk.is_none();
        let spec = if compare { self.spec.clone().paused() } else { self.spec.clone() };
        let mut destination = self.lab.start_destination(&spec);
        self.source.migrate_to(&destination.wait_listening());
        self.guest.moved_to(&destination);
        if compare {
            destination.wait_run_state("paused");
            memory::assert_equal(&mut self.source, &mut destination, self.spec.cpus);
            destination.qmp("cont", json!({}));
        }
        self.guest.wait_reports(2);
        self.guest.assert_ran_in_one_place();
        self.source.quit();
    }
}

/// A destination that did not get the guest ends with an error, and nothing has run there. Returns
/// the error.
///
/// # Panics
/// When it runs on, ends otherwise, or the guest ran on it.
#[must_use]
pub fn gave_up(destination: &mut Ferry) -> String {
    let code = destination.wait_exit(SOON);
    let stderr = destination.stderr();
    assert_eq!(code, 1, "{stderr}");
    assert_never_ran(destination);
    // The last line is the error; before it come the address and warnings.
    let error = stderr.lines().last().unwrap_or_default().to_owned();
    assert!(error.starts_with("ferry: "), "{stderr}");
    error
}

/// No guest has run on this process.
///
/// # Panics
/// When one has.
pub fn assert_never_ran(destination: &Ferry) {
    let said = std::fs::read_to_string(destination.serial()).unwrap_or_default();
    assert!(said.is_empty(), "a guest ran on {}: {said}", destination.label());
}
