//! Throttling of the guest by a migration.

use std::sync::Arc;

use super::Machine;
use super::error::MachineError;
use super::run_control::RunControl;
use super::throttle::MOST;

impl Machine {
    /// Keeps all vCPUs from running for this percentage of the time, 99 at most, from now on until
    /// [`Machine::end_throttle`] or a hold; 0 stops throttling. No effect while a hold is in place.
    /// Emits no event: the guest counts as running.
    ///
    /// # Errors
    /// When the host gives no thread; the guest then runs at its full speed.
    pub fn throttle(&self, percentage: u8) -> Result<(), MachineError> {
        if percentage == 0 {
            self.end_throttle();
            return Ok(());
        }
        let control = &self.parts.control;
        let mut rhythm = control.throttle.lock();
        // Checked under the lock: a hold that comes later ends the throttling that begins here.
        if control.status().hold.is_some() {
            return Ok(());
        }
        rhythm.percentage = percentage.min(MOST);
        if rhythm.kept {
            return Ok(());
        }
        // It ends by itself; no thread joins it.
        match spawn(control.clone()) {
            Ok(()) => rhythm.kept = true,
            Err(error) => {
                rhythm.percentage = 0;
                return Err(MachineError::Thread("throttling", error));
            }
        }
        Ok(())
    }

    /// Lets the vCPUs run all the time again, at once.
    pub fn end_throttle(&self) {
        let control = &self.parts.control;
        control.throttle.end(&control.gate);
    }

    /// How much the guest is throttled, in percent of its time; 0 is not at all.
    #[must_use]
    pub fn throttled(&self) -> u8 {
        self.parts.control.throttle.lock().percentage
    }
}

fn spawn(control: Arc<RunControl>) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name("throttle".to_owned());
    thread.spawn(move || control.throttle.keep(&control.gate)).map(drop)
}
