//! `--ownership`: where the guest's ownership record is, and how this process takes it at boot.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use ferry_devices::fault::FaultControl;
use ferry_machine::{DiskConfig, Machine};
use ferry_record::file::{FileRecord, LOCK_TIMEOUT};
use ferry_record::{OwnRecord, RecordError};

use crate::cli::CliError;

/// The value of `--ownership`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnershipOption {
    place: Place,
    /// Boot the guest even if the record announces a hand-over.
    pub take: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Beside a writable disk's image; without one there is none.
    Auto,
    File(PathBuf),
    None,
}

impl FromStr for OwnershipOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Two commas stand for one in the path.
        let taken = text.strip_suffix(",take").filter(|place| !place.ends_with(','));
        let (place, take) = (taken.unwrap_or(text), taken.is_some());
        let place = match (place, place.strip_prefix("file:")) {
            ("auto", _) => Place::Auto,
            ("none", _) => Place::None,
            (_, Some(path)) if !path.is_empty() => Place::File(path.replace(",,", ",").into()),
            _ => return Err("write auto, file:PATH or none; ,take may follow".into()),
        };
        Ok(OwnershipOption { place, take })
    }
}

impl OwnershipOption {
    /// The file of the record, if there is to be one.
    ///
    /// # Errors
    /// When the disk's image cannot be found.
    pub(crate) fn path(&self, disk: Option<&DiskConfig>) -> Result<Option<PathBuf>, CliError> {
        Ok(Some(match (&self.place, disk) {
            (Place::None, _) | (Place::Auto, None | Some(DiskConfig { read_only: true, .. })) => return Ok(None),
            (Place::Auto, Some(disk)) => FileRecord::beside(&disk.path).map_err(|error| {
                CliError::failed(&format!("the image {} cannot be found", disk.path.display()), error)
            })?,
            (Place::File(path), _) => std::path::absolute(path)
                .map_err(|error| CliError::failed(&format!("{} cannot be made absolute", path.display()), error))?,
        }))
    }

    /// The record of the guest named `vm`, if it is to have one. Nothing is read or written yet.
    /// `faults` may make requests to its storage fail.
    ///
    /// # Errors
    /// When the guest's name cannot stand in a record, or the disk's image cannot be found.
    pub(crate) fn record(
        &self,
        vm: &str,
        disk: Option<&DiskConfig>,
        faults: &Arc<FaultControl>,
    ) -> Result<Option<Arc<OwnRecord>>, CliError> {
        let Some(path) = self.path(disk)? else { return Ok(None) };
        let backend = Arc::new(FileRecord::new(path, LOCK_TIMEOUT, faults.clone()));
        let own = OwnRecord::new(backend, vm).map_err(CliError::because)?;
        Ok(Some(Arc::new(if self.place == Place::Auto { own.optional() } else { own })))
    }

    /// Makes this process the owner of the guest that it is about to boot. The record is read
    /// before anything is taken or changed; then the disk is locked; then the record is changed, if
    /// it is unchanged since then. With `auto`, a folder in which no record can be created is not
    /// an error: migrations then have none.
    ///
    /// # Errors
    /// What is wrong with the record, or that another process has the guest; nothing was changed
    /// then.
    pub(crate) fn take_at_boot(&self, own: &OwnRecord, machine: &Machine) -> Result<(), CliError> {
        let boot = own.look_at_boot(self.take).map_err(CliError::because)?;
        machine.take_resources().map_err(|error| match error.is_busy_disk() {
            true => names_another(own, error),
            false => CliError::because(error),
        })?;
        match own.take_at_boot(&boot) {
            Err(RecordError::Ownership(error)) if error.is_present() => Err(names_another(own, error)),
            result => result.map_err(CliError::because),
        }
    }
}

/// Another process has the guest: the error names it, if the record does.
fn names_another(own: &OwnRecord, error: impl std::error::Error + Send + Sync + 'static) -> CliError {
    match own.owner_there() {
        Some(owner) => CliError::failed(&format!("the ownership record {} names {owner}", own.place()), error),
        None => CliError::because(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_devices::fault::Direction;

    #[test]
    fn places_are_read() {
        let option = |text: &str| text.parse::<OwnershipOption>();
        assert_eq!(option("auto").unwrap(), OwnershipOption { place: Place::Auto, take: false });
        assert_eq!(option("none").unwrap().place, Place::None);
        let file = option("file:/a,b,take").unwrap();
        assert_eq!(file, OwnershipOption { place: Place::File("/a,b".into()), take: true });
        for (text, path, take) in [("file:/a,,take", "/a,take", false), ("file:/a,,b,take", "/a,b", true)] {
            let expected = OwnershipOption { place: Place::File(path.into()), take };
            assert_eq!(option(text).unwrap(), expected, "{text}");
        }
        for text in ["", "file:", "/a", "take", "auto,steal"] {
            assert!(option(text).unwrap_err().contains("auto, file:PATH or none"), "{text}");
        }
    }

    #[test]
    fn only_a_writable_disk_has_a_record_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, [0; 512]).unwrap();
        let auto: OwnershipOption = "auto".parse().unwrap();
        let disk = |read_only| DiskConfig { path: path.clone(), read_only, raw: false };
        let faults = Arc::new(FaultControl::new(Direction::Outgoing));
        let record = |disk: Option<DiskConfig>| auto.record("vm", disk.as_ref(), &faults).unwrap();
        let beside = record(Some(disk(false))).unwrap();
        assert!(beside.place().ends_with("disk.owner"), "{}", beside.place());
        assert!(record(Some(disk(true))).is_none() && record(None).is_none());
    }
}
