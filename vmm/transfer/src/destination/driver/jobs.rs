//! Jobs for a destination's worker: loading, and the start of the guest.

use ferry_migration::Status;
use ferry_migration::destination::Input;
use ferry_migration::message::Failure;
use ferry_migration::wire::preamble::session;

use super::Driver;
use crate::destination::worker::{LoadJob, MachineJob};

impl Driver {
    pub(super) fn load(&mut self, rehearsal: bool, postcopy: bool) {
        if !rehearsal {
            self.progress.set_status(if postcopy { Status::PostcopySetup } else { Status::Device });
        }
        let (package, arrived) = (std::mem::take(&mut self.package.attachment.0), self.package.attachment.1);
        let gathered = if rehearsal { arrived } else { self.package.gathered };
        let session = self.migration_id.map_or(0, session);
        let (patience, populating) = (self.timers.durations.heartbeat, self.pages.populating.clone());
        let job = LoadJob { package, arrived, gathered, rehearsal, postcopy, session, patience, populating };
        self.job(MachineJob::Load(job));
    }

    pub(super) fn start_guest(&mut self) {
        if let Some(postcopy) = &self.pages.postcopy
            && let Err(error) = postcopy.faults.guest_started()
        {
            let failure = Failure { device: "memory".to_owned(), reason: ferry_observe::causes(&error) };
            return self.input(Input::Started(Err(failure)));
        }
        self.machine.set_memory_arrives(self.pages.postcopy.is_some());
        self.job(MachineJob::Start(self.package.permitted, self.record.handover.clone()));
    }

    pub(super) fn started(&self) {
        if self.pages.postcopy.is_some() {
            self.progress.set_status(Status::PostcopyActive);
        }
        self.guest_started();
    }

    pub(super) fn job(&self, job: MachineJob) {
        if let Some(jobs) = &self.jobs {
            // The worker ends only when this sender is dropped.
            let _ = jobs.send(job);
        }
    }
}
