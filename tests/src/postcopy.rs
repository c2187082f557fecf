//! The stage of a recovery test: a guest that runs at its destination while most of its memory is
//! still at the source, and a relay between the two.

use ferry_guest::workload::Order;
use std::time::{Duration, Instant};

use ferry_migration::info::{MigrationInfo, Status};
use serde_json::json;

use crate::relay::{Fault, Plan, Spot};
use crate::wait::{LONG, wait_until};
use crate::{Ferry, Lab, Relay, Scene, Spec};

/// A postcopy that goes on, slowly enough that there is time to break it.
#[derive(Debug)]
pub struct Postcopy {
    /// Where the guest runs.
    pub destination: Ferry,
    /// What stands between the two sides.
    pub relay: Relay,
    /// The source and the guest.
    pub scene: Scene,
}

/// A guest with two vCPUs that touch most of its memory, in no order: until it has all of its
/// pages, it needs one soon.
#[must_use]
pub fn restless(_: &Lab, spec: Spec) -> Spec {
    spec.cpus(2).memory("64M").workload(|load| {
        load.working_set = 40 << 20;
        load.order = Order::Rand;
    })
}

impl Postcopy {
    /// Moves the guest to a destination within the first round: nearly all memory is missing
    /// there.
    ///
    /// # Panics
    /// When it does not get there.
    #[must_use]
    pub fn begin(scene: Scene) -> Self {
        let destination = scene.destination();
        Self::begin_at(scene, destination)
    }

    /// As [`Postcopy::begin`], with a destination of the test's choice, which listens on TCP.
    ///
    /// # Panics
    /// As [`Postcopy::begin`].
    #[must_use]
    pub fn begin_at(scene: Scene, destination: Ferry) -> Self {
        let mut postcopy = Self::set_out(scene, destination, None);
        postcopy.wait_active();
        postcopy.scene.guest.moved_to(&postcopy.destination);
        postcopy
    }

    /// As [`Postcopy::begin`], and every link is cut as soon as the destination has said that the
    /// guest runs there: it has next to nothing of what its vCPUs need.
    ///
    /// # Panics
    /// As [`Postcopy::begin`].
    #[must_use]
    pub fn begin_cut_at_start(scene: Scene) -> Self {
        let destination = scene.destination();
        let plan = Plan { at: Spot::Message("Started"), fault: Fault::CutAfter };
        let mut postcopy = Self::set_out(scene, destination, Some(plan));
        postcopy.relay.wait_fired();
        postcopy.relay.cut_all();
        postcopy.wait_paused();
        postcopy.scene.guest.moved_to(&postcopy.destination);
        postcopy
    }

    fn set_out(mut scene: Scene, destination: Ferry, plan: Option<Plan>) -> Self {
        let relay = Relay::new(&destination.wait_listening(), plan);
        scene.source.allow_postcopy();
        scene.slow_down();
        scene.source.begin_migration(&relay.uri());
        scene.source.wait_migration(Status::Active);
        scene.source.qmp("migrate-start-postcopy", json!({}));
        Postcopy { scene, destination, relay }
    }

    /// Waits until both sides are in `postcopy-active`.
    ///
    /// # Panics
    /// When they do not get there.
    pub fn wait_active(&mut self) {
        self.scene.source.wait_migration(Status::PostcopyActive);
        self.destination.wait_migration(Status::PostcopyActive);
    }

    /// Waits until both sides are in `postcopy-paused`, and returns what each says about it. Both
    /// answer QMP, and neither lets the source run the guest.
    ///
    /// # Panics
    /// When they do not get there, or one says nothing.
    pub fn wait_paused(&mut self) -> [String; 2] {
        let reasons = [&mut self.scene.source, &mut self.destination].map(|side| {
            let info = side.wait_migration(Status::PostcopyPaused);
            info.error_desc.unwrap_or_else(|| panic!("{} is paused and does not say why", side.label()))
        });
        assert_eq!(self.scene.source.run_state(), "postmigrate");
        reasons
    }

    /// `migrate` with `resume`: returns when that is accepted.
    pub fn resume_to(&mut self, to: &str) {
        self.scene.source.qmp("migrate", json!({ "uri": to, "resume": true }));
    }

    /// Reconnects through the relay.
    ///
    /// # Panics
    /// When that fails.
    pub fn recover(&mut self) {
        self.resume_to(&self.relay.uri());
        self.wait_active();
    }

    /// Waits until every vCPU stands still for a page that is missing.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_stalled(&mut self) {
        let cpus = u64::from(self.scene.spec.cpus);
        let report = Duration::from_millis(self.scene.spec.workload.report_ms);
        let mut said = (0, Instant::now());
        wait_until("every vCPU to wait for a page", LONG, || {
            let waits = self.destination.migration().x_ferry_postcopy.and_then(|stats| stats.waits);
            let pending = waits?.pending;
            let len = self.destination.serial().metadata().map_or(0, |file| file.len());
            if len != said.0 {
                said = (len, Instant::now());
            }
            // Two vCPUs may wait for one page: then both are silent for much longer than between
            // two reports.
            (pending >= cpus || pending > 0 && said.1.elapsed() > report * 10).then_some(())
        });
    }

    /// Waits until the guest has booted once more, with its pages coming at full speed, and works.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_second_boot(&mut self) {
        // The reset waits for the last page.
        self.scene.source.set_parameters(json!({ "max-bandwidth": 0 }));
        let guest = &mut self.scene.guest;
        guest.wait("the second boot", LONG, |log| (log.boots() == 2).then_some(()));
        let ready = 2 * self.scene.spec.cpus as usize;
        guest.wait("every vCPU to be ready again", LONG, |log| {
            let said = log.lines().iter().filter(|line| matches!(line, ferry_guest::Line::Ready(_))).count();
            (said >= ready).then_some(())
        });
    }

    /// Lets the rest go at full speed, and waits for the end on both sides.
    ///
    /// # Panics
    /// When one does not complete.
    pub fn complete(&mut self) -> [MigrationInfo; 2] {
        self.scene.source.set_parameters(json!({ "max-bandwidth": 0 }));
        [&mut self.scene.source, &mut self.destination].map(|side| {
            let info = side.wait_migration_end_or(Status::PostcopyPaused);
            assert_eq!(info.status, Some(Status::Completed), "{}: {info:?}", side.label());
            info
        })
    }

    /// The last act: the rest arrives, the source goes, and the guest works on with all of its
    /// memory; then as [`Scene::ends_well`].
    ///
    /// # Panics
    /// When any of this is not so.
    pub fn ends_well(mut self) {
        self.complete();
        self.go_on().ends_well();
    }

    /// The source has ended; the destination is the scene's process from now on.
    ///
    /// # Panics
    /// When the guest does not work there.
    #[must_use]
    pub fn go_on(mut self) -> Scene {
        self.destination.wait_run_state("running");
        self.scene.guest.wait_reports(2);
        self.scene.guest.assert_ran_in_one_place();
        if self.scene.source.exit_status().is_none() {
            self.scene.source.quit();
        }
        self.scene.source = self.destination;
        self.scene
    }
}
