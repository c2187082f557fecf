//! Postcopies that fail before the permit, one after the other against one source: what must be
//! true after each, and how long the guest stood still.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ferry_guest::workload::{Order, Rate};
use ferry_migration::Handshake;
use ferry_migration::info::{MigrationInfo, Status};
use serde_json::{Value, json};

use crate::relay::{Fault, Plan, Spot};
use crate::scene::gave_up;
use crate::{Ferry, Lab, Relay, Scene, Spec, disk};

/// The statuses of a postcopy that fails while the guest is stopped.
pub const STOPPED: [&str; 4] = ["setup", "active", "postcopy-setup", "failed"];
/// The statuses of one that fails in the rehearsal.
pub const REHEARSED: [&str; 3] = ["setup", "active", "failed"];

/// A guest with two vCPUs that works on memory and on a small disk, whose every block it sees
/// again within seconds.
#[must_use]
pub fn working(lab: &Lab, spec: Spec) -> Spec {
    let image = disk::image(lab, "disk.img", 256 << 10);
    with_load(spec).disk(&image)
}

/// The same without a disk, and so without an ownership record.
#[must_use]
pub fn diskless(_: &Lab, spec: Spec) -> Spec {
    with_load(spec)
}

fn with_load(spec: Spec) -> Spec {
    spec.cpus(2).memory("48M").workload(|load| {
        load.working_set = 8 << 20;
        load.rate = Rate::BytesPerSecond(32 << 20);
        load.order = Order::Rand;
    })
}

/// When an event happened.
///
/// # Panics
/// When it bears no time.
#[must_use]
pub fn moment(event: &Value) -> SystemTime {
    let part = |name: &str| event["timestamp"][name].as_u64().expect("an event bears the time");
    UNIX_EPOCH + Duration::from_secs(part("seconds")) + Duration::from_micros(part("microseconds"))
}

/// Runs a test with each handshake, with `owned` on a disk; the next migration goes by postcopy,
/// without rehearsal.
pub fn with_both(test: impl Fn(Scene, Handshake)) {
    type Describe = fn(&Lab, Spec) -> Spec;
    let both: [(Describe, Handshake); 2] = [(diskless, Handshake::Setup), (working, Handshake::Owned)];
    for (describe, handshake) in both {
        let Some(mut scene) = Scene::with(describe) else { return };
        scene.by_postcopy(false);
        test(scene, handshake);
    }
}

/// A relay in front of `destination`, in which `fault` happens at the first frame of this kind.
#[must_use]
pub fn behind(destination: &Ferry, at: Spot, fault: Fault) -> Relay {
    Relay::new(&destination.wait_listening(), Some(Plan { at, fault }))
}

impl Scene {
    /// The next migrations may go by postcopy.
    pub fn by_postcopy(&mut self, rehearsal: bool) {
        self.source.allow_postcopy();
        self.source.set_parameters(json!({ "x-ferry-rehearsal": rehearsal }));
    }

    /// Begins to migrate by postcopy, whose switchover comes as soon as pages could be sent at
    /// all.
    ///
    /// # Panics
    /// When the source refuses.
    pub fn begin_postcopy(&mut self, to: &str) {
        self.begin_slow_postcopy(to);
        self.source.set_parameters(json!({ "max-bandwidth": 0 }));
    }

    /// The same, with pages that are still pending a second later.
    ///
    /// # Panics
    /// When the source refuses.
    pub fn begin_slow_postcopy(&mut self, to: &str) {
        // The first round must last until postcopy is asked for: then some pages remain for sure.
        self.source.set_parameters(json!({ "max-bandwidth": 8 << 20 }));
        self.source.begin_migration(to);
        self.source.wait_migration(Status::Active);
        self.source.qmp("migrate-start-postcopy", json!({}));
    }

    /// A postcopy has just failed for this reason, before the permit: the source says so and runs
    /// the guest. Returns when it resumed, unless it never stopped.
    ///
    /// # Panics
    /// When any of this is not so.
    pub fn failed_as(&mut self, told: &str, statuses: &[&str]) -> Option<SystemTime> {
        let reason = self.source.wait_migration_failed();
        assert!(reason.contains(told), "`{told}` is to be in: {reason}");
        assert_eq!(self.source.migration_statuses(), statuses, "{told}");
        let of = |event: &Value, name: &str| event["event"] == name;
        let events = self.source.events();
        let [stops, resumes] = ["STOP", "RESUME"].map(|name| events.iter().filter(|event| of(event, name)).count());
        let stopped = usize::from(statuses.contains(&"postcopy-setup"));
        assert_eq!((stops, resumes), (stopped, stopped), "{told}: {events:?}");
        let resumed = events.iter().find(|event| of(event, "RESUME")).map(moment);
        self.guest.wait_reports(1);
        resumed
    }

    /// As [`Scene::failed_as`], with a destination that ended for the same reason, which its last
    /// words tell.
    ///
    /// # Panics
    /// As [`Scene::failed_as`], and when the destination ended otherwise.
    pub fn both_failed_as(&mut self, destination: &mut Ferry, told: &str, statuses: &[&str]) -> Option<SystemTime> {
        let resumed = self.failed_as(told, statuses);
        let error = gave_up(destination);
        assert!(error.contains(told), "both sides tell the same: {error}");
        resumed
    }

    /// The last act of every failure: the next postcopy moves the guest, which works on without an
    /// error; so far all that it wrote is on the disk.
    ///
    /// # Panics
    /// When any of this is not so.
    pub fn ends_well_by_postcopy(mut self) {
        self.source.qmp("x-ferry-fault-set", json!({ "clear": true }));
        self.be_patient();
        self.by_postcopy(true);
        let mut destination = self.destination();
        self.begin_postcopy(&destination.wait_listening());
        let info = self.arrived(&mut destination);
        assert!(info.x_ferry_postcopy.is_some(), "{info:?}");
        self.source.quit();
        self.intact_at(&mut destination);
    }

    /// The migration completes, and the guest is at `destination` and works, and nowhere else.
    ///
    /// # Panics
    /// When it is not so.
    pub fn arrived(&mut self, destination: &mut Ferry) -> MigrationInfo {
        let info = self.source.wait_migration_end();
        assert_eq!(info.status, Some(Status::Completed), "{info:?}");
        self.guest.moved_to(destination);
        destination.wait_run_state("running");
        let info = destination.wait_migration_end();
        assert_eq!(info.status, Some(Status::Completed), "{info:?}");
        self.guest.wait_reports(2);
        self.guest.assert_ran_in_one_place();
        info
    }

    /// The source has handed its guest over to `destination`, which is the next source.
    pub fn lives_in(&mut self, destination: Ferry) {
        std::mem::replace(&mut self.source, destination).quit();
    }

    /// Stops the guest where it is and looks at its disk, if it has one.
    ///
    /// # Panics
    /// When the disk holds what the guest has not written there.
    pub fn intact_at(&mut self, place: &mut Ferry) {
        let Some((image, _)) = &self.spec.disk else { return };
        place.qmp("stop", json!({}));
        assert!(disk::assert_intact(image, self.spec.workload.seed) > 0, "the guest has written to its disk");
        place.qmp("cont", json!({}));
        self.guest.wait_reports(1);
    }
}

/// Times between two moments, for people and for a bound.
#[derive(Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Notes a time; clocks of one host that differ by less than they show make it nothing.
    pub fn note(&mut self, from: SystemTime, to: SystemTime) {
        self.0.push(to.duration_since(from).unwrap_or_default());
    }

    /// Prints them, and returns the one in the middle.
    ///
    /// # Panics
    /// When there are none.
    pub fn show(mut self, what: &str) -> Duration {
        self.0.sort_unstable();
        let us = |at: usize| self.0[at].as_micros();
        let (count, median) = (self.0.len(), self.0[self.0.len() / 2]);
        println!("{what}: {count} times, {} / {} / {} us (least, median, most)", us(0), us(count / 2), us(count - 1));
        median
    }
}
