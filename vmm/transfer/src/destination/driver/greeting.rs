//! Handles the source's greeting: compares the machines, and prepares for the guest.

use std::sync::Arc;
use std::time::Duration;

use ferry_memory::userfault;
use ferry_migration::description;
use ferry_migration::destination::Input;
use ferry_migration::pages::{CHUNK_PAGES, PageBitmap};
use ferry_migration::parameters::BULK_LINKS_MAX;
use ferry_migration::{Greeting, Identity};

use super::Driver;
use super::state::Shared;
use crate::destination::markers::Markers;
use crate::destination::populate;
use crate::destination::worker::{MachineJob, Preparation};

impl Driver {
    /// Checks whether this side can accept the guest, as far as that needs no wait; then the worker
    /// prepares the memory.
    pub(super) fn check_greeting(&mut self) -> Result<(), String> {
        let bytes = std::mem::take(&mut self.package.attachment.0);
        let (greeting, announced, identity) =
            Greeting::decode(&bytes).map_err(|error| format!("its greeting does not decode: {error}"))?;
        ferry_migration::identity::check_name(&greeting.vm, self.machine.name()).map_err(|error| error.to_string())?;
        description::check(&greeting.machine, &self.machine.description()).map_err(|error| error.to_string())?;
        let own = greeting.record.as_ref().map(|announced| &announced.handover);
        self.machine.set_came_through(Identity::through(identity.as_ref(), own));
        let nonce = self.check_identity(identity).map_err(|error| error.to_string())?;
        self.take_links(&greeting)?;
        self.timers.durations.heartbeat = Duration::from_millis(greeting.heartbeat_timeout_ms.clamp(100, 600_000));
        if self.core.may_go_postcopy() {
            userfault::support(self.machine.memory().backing(), self.machine.faults())
                .map_err(|error| format!("postcopy is not possible here: {}", ferry_observe::causes(&error)))?;
        }
        let preparation = self.preparation(announced)?;
        self.package.preparing =
            Some((Shared { nonce, record: greeting.record }, matches!(preparation, Preparation::View(..))));
        self.job(MachineJob::Prepare(preparation));
        tracing::info!(vm = greeting.vm, "incoming migration");
        Ok(())
    }

    /// The memory is ready: the disk and the record remain to be checked.
    pub(super) fn prepared(&mut self, result: Result<(), String>) {
        let Some((shared, views)) = self.package.preparing.take() else { return };
        if views && result.is_ok() {
            self.memory_is_viewed();
        }
        match result {
            Ok(()) => self.look_at_disk(shared),
            Err(reason) => self.input(Input::Checked(Err(reason))),
        }
    }

    fn take_links(&mut self, greeting: &Greeting) -> Result<(), String> {
        if !(1..=BULK_LINKS_MAX).contains(&greeting.bulk_links) {
            return Err(format!("{} bulk links: from 1 to {BULK_LINKS_MAX} are taken here", greeting.bulk_links));
        }
        self.links.announced_links = greeting.bulk_links;
        self.links.markers = Arc::new(Markers::new(greeting.bulk_links));
        if !greeting.filled_chunks.is_empty() {
            let chunks = self.machine.memory().pages().div_ceil(CHUNK_PAGES);
            let filled = PageBitmap::decode(&greeting.filled_chunks, chunks);
            self.package.filled = Some(filled.map_err(|error| format!("its map of filled memory: {error}"))?);
        }
        Ok(())
    }

    pub(super) fn populate(&mut self) {
        let cores = std::thread::available_parallelism().map_or(1, Into::into);
        let pays = populate::pays(self.links.announced_links, cores) && !self.machine.memory().is_preallocated();
        let Some(filled) = self.package.filled.take().filter(|_| pays) else { return };
        match self.pages.populating.begin(self.machine.clone(), filled) {
            Ok(thread) => self.pages.populator = Some(thread),
            Err(error) => {
                tracing::info!(%error, "no thread to populate memory ahead: pages are populated as they come")
            }
        }
    }
}
