//! Parameters and capabilities: the process's own, and those of one migration.
//!
//! A client sets the process's values with `migrate-set-parameters` and `migrate-set-capabilities`.
//! A migration takes a copy when it starts, overridden by the values given to `migrate`, and reads
//! only that copy; both are a [`Settings`]. Parameters that a client sets while the migration runs
//! go into both.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use ferry_migration::Parameters;
use ferry_migration::parameters::{Capability, Given, OwnSettings, ParameterError};

/// The values in force for a process, or for one migration.
#[derive(Debug, Default)]
pub struct Settings {
    parameters: Mutex<Parameters>,
    /// A page thread reads it for every chunk.
    max_bandwidth: Arc<AtomicU64>,
    capabilities: [AtomicBool; Capability::ALL.len()],
}

impl Settings {
    /// A copy of all parameters.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        self.parameters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The parameters, overridden by `given`.
    ///
    /// # Errors
    /// The first that is out of its range.
    pub fn with(&self, given: &Given) -> Result<Parameters, ParameterError> {
        let parameters = given.over(&self.parameters());
        parameters.check().map(|()| parameters)
    }

    /// Replaces all parameters by the result of [`Settings::with`].
    pub fn replace(&self, parameters: Parameters) {
        self.max_bandwidth.store(parameters.max_bandwidth, Relaxed);
        *self.parameters.lock().unwrap_or_else(PoisonError::into_inner) = parameters;
    }

    /// The settings of a migration that starts now: a copy of these, with `own` in their place.
    ///
    /// # Errors
    /// The first parameter that is out of its range.
    pub fn for_migration(&self, own: &OwnSettings) -> Result<Settings, ParameterError> {
        let copy = Settings::default();
        copy.replace(self.with(&own.parameters)?);
        let process = Capability::ALL.map(|capability| (capability, self.has(capability)));
        for (capability, on) in process.iter().chain(&own.capabilities) {
            copy.set_capability(*capability, *on);
        }
        Ok(copy)
    }

    /// Whether a capability is on.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities[capability as usize].load(Relaxed)
    }

    /// Every capability that is on.
    #[must_use]
    pub fn capabilities(&self) -> Vec<Capability> {
        Capability::ALL.into_iter().filter(|capability| self.has(*capability)).collect()
    }

    /// Switches a capability on or off, for migrations that begin from now on.
    pub fn set_capability(&self, capability: Capability, on: bool) {
        self.capabilities[capability as usize].store(on, Relaxed);
    }

    /// Whether migrations may use postcopy.
    #[must_use]
    pub fn postcopy(&self) -> bool {
        self.has(Capability::PostcopyRam)
    }

    /// Whether migrations may throttle a guest that writes faster than the link carries.
    #[must_use]
    pub fn auto_converge(&self) -> bool {
        self.has(Capability::AutoConverge)
    }

    /// Bulk links of a migration that begins now.
    #[must_use]
    pub fn bulk_links(&self) -> u8 {
        if self.has(Capability::Multifd) {
            u8::try_from(self.parameters().multifd_channels).unwrap_or(u8::MAX)
        } else {
            1
        }
    }

    /// The cap on bandwidth, in bytes a second; the value changes with the parameter.
    #[must_use]
    pub fn max_bandwidth(&self) -> Arc<AtomicU64> {
        self.max_bandwidth.clone()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn given(value: Value) -> Given {
        let Value::Object(members) = value else { panic!("{value} is no object") };
        Given::new(members).unwrap()
    }

    #[test]
    fn a_migrations_own_settings_stay_its_own() {
        let process = Settings::default();
        process.set_capability(Capability::Multifd, true);
        process.set_capability(Capability::PostcopyRam, true);
        let own = OwnSettings {
            parameters: given(json!({ "max-bandwidth": 1 << 20, "multifd-channels": 5 })),
            capabilities: vec![(Capability::PostcopyRam, false), (Capability::AutoConverge, true)],
        };
        let migration = process.for_migration(&own).unwrap();
        assert_eq!((migration.max_bandwidth().load(Relaxed), migration.bulk_links()), (1 << 20, 5));
        assert_eq!(migration.capabilities(), [Capability::Multifd, Capability::AutoConverge]);
        assert_eq!((process.parameters(), process.max_bandwidth().load(Relaxed)), (Parameters::default(), 0));
        assert_eq!(process.capabilities(), [Capability::PostcopyRam, Capability::Multifd]);
        process.replace(process.with(&given(json!({ "downtime-limit": 1 }))).unwrap());
        assert_eq!(migration.parameters().downtime_limit, 300, "each has values of its own");
    }

    #[test]
    fn what_is_out_of_its_range_is_refused_with_what_it_would_change() {
        let process = Settings::default();
        let own = OwnSettings { parameters: given(json!({ "cpu-throttle-initial": 0 })), ..OwnSettings::default() };
        assert!(process.for_migration(&own).is_err());
        process.replace(process.with(&given(json!({ "cpu-throttle-initial": 50 }))).unwrap());
        let error = process.with(&given(json!({ "max-cpu-throttle": 40 }))).unwrap_err().to_string();
        assert!(error.contains("max-cpu-throttle"), "{error}");
    }
}
