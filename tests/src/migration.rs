//! Migrating in tests: start, watch, end, and what must be true at an end.

use ferry_migration::info::{MigrationInfo, Status};
use serde_json::{Value, json};

use crate::wait::{LONG, poll, wait_until};
use crate::{Ferry, GuestLog};

/// The statuses in `MIGRATION` events, in order.
#[must_use]
pub fn statuses(events: &[Value]) -> Vec<String> {
    let of_event = |event: &Value| event["data"]["status"].as_str().map(str::to_owned);
    events.iter().filter(|event| event["event"] == "MIGRATION").filter_map(of_event).collect()
}

impl Ferry {
    /// `query-migrate`.
    ///
    /// # Panics
    /// When it is not answered, or with something else than a `MigrationInfo`.
    pub fn migration(&mut self) -> MigrationInfo {
        let value = self.qmp("query-migrate", json!({}));
        serde_json::from_value(value).expect("query-migrate returns a MigrationInfo")
    }

    /// Lets the next migrations from here use postcopy.
    pub fn allow_postcopy(&mut self) {
        self.switch_on("postcopy-ram");
    }

    /// Switches a migration capability on.
    pub fn switch_on(&mut self, capability: &str) {
        let on = json!({ "capability": capability, "state": true });
        self.qmp("migrate-set-capabilities", json!({ "capabilities": [on] }));
    }

    /// Lets migrations of this process share the pages among so many bulk links.
    pub fn use_channels(&mut self, channels: u8) {
        self.switch_on("multifd");
        self.set_parameters(json!({ "multifd-channels": channels }));
    }

    /// Sets migration parameters.
    pub fn set_parameters(&mut self, parameters: Value) {
        self.qmp("migrate-set-parameters", parameters);
    }

    /// Begins to migrate to an address.
    pub fn begin_migration(&mut self, to: &str) {
        self.forget_events();
        self.qmp("migrate", json!({ "uri": to }));
    }

    /// Waits until the migration has this status.
    ///
    /// # Panics
    /// When it does not come in time.
    pub fn wait_migration(&mut self, wanted: Status) -> MigrationInfo {
        let what = format!("{} to be in status {}", self.label(), wanted.as_str());
        let mut newest = MigrationInfo::default();
        let found = poll(LONG, || {
            newest = self.migration();
            let ended = newest.status.is_some_and(|status| !status.is_active() && status != wanted);
            assert!(!ended, "{what}: the migration ended: {newest:?}");
            (newest.status == Some(wanted)).then_some(())
        });
        assert!(found.is_some(), "waited in vain for {what}: {newest:?}");
        newest
    }

    /// Waits until the migration has ended, whatever way.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn wait_migration_end(&mut self) -> MigrationInfo {
        let what = format!("the end of the migration of {}", self.label());
        wait_until(&what, LONG, || {
            let info = self.migration();
            info.status.is_some_and(|status| !status.is_active()).then_some(info)
        })
    }

    /// Waits until the migration has ended, or has this status.
    ///
    /// # Panics
    /// When neither happens in time.
    pub fn wait_migration_end_or(&mut self, wanted: Status) -> MigrationInfo {
        let what = format!("the end of the migration of {}, or status {}", self.label(), wanted.as_str());
        wait_until(&what, LONG, || {
            let info = self.migration();
            info.status.is_some_and(|status| !status.is_active() || status == wanted).then_some(info)
        })
    }

    /// Waits for a failed migration and returns its `error-desc`. The guest must run here.
    ///
    /// # Panics
    /// When it ends otherwise, or the guest does not run.
    pub fn wait_migration_failed(&mut self) -> String {
        let info = self.wait_migration_end();
        assert_eq!(info.status, Some(Status::Failed), "{info:?}");
        assert_eq!(self.run_state(), "running", "the guest runs on after a failed migration: {info:?}");
        info.error_desc.expect("a failed migration says why")
    }

    /// Migrates to an address and waits for success.
    ///
    /// # Panics
    /// When it does not complete.
    pub fn migrate_to(&mut self, to: &str) -> MigrationInfo {
        self.begin_migration(to);
        let info = self.wait_migration_end();
        assert_eq!(info.status, Some(Status::Completed), "{info:?}");
        assert_eq!(self.run_state(), "postmigrate", "a source that completed has no guest");
        info
    }

    /// A hash over the memory of a stopped guest.
    ///
    /// # Panics
    /// When the guest runs.
    pub fn memory_hash(&mut self) -> Value {
        self.qmp("x-ferry-memory-hash", json!({}))
    }

    /// Makes the fault device do something; see `x-ferry-fault-set`.
    pub fn set_fault(&mut self, rule: Value) {
        self.qmp("x-ferry-fault-set", rule);
    }
}

/// Migrates a running guest from `source` to `destination` and follows it: it goes on there,
/// without an error.
///
/// # Panics
/// When it does not arrive.
pub fn move_guest(source: &mut Ferry, destination: &mut Ferry, guest: &mut GuestLog) -> MigrationInfo {
    let to = destination.wait_listening();
    let info = source.migrate_to(&to);
    guest.moved_to(destination);
    destination.wait_run_state("running");
    guest.wait_reports(2);
    guest.assert_ran_in_one_place();
    info
}
