//! What both sides of a migration must agree on, beyond the machine: the guest's name, its boot
//! images, and the file behind each writable disk.
//!
//! The source sends an [`Identity`] behind its greeting. The destination compares in [`check_name`]
//! and [`Boot::check`], and gets from [`Identity::proof_of`] the nonce to look for in its own
//! image. A difference is refused by name, before any page is sent.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::message::OLDEST_VERSION;
use crate::ownership::Handover;
use crate::parameters::DiskSharing;

/// Longest command line in bytes.
pub const COMMAND_LINE_MAX: usize = 0xffff;
/// Most disks in an identity.
pub const DISKS_MAX: usize = 16;
/// Most hand-overs in an identity; older ones are dropped.
pub const THROUGH_MAX: usize = 16;
/// Most characters of a name that are shown.
const SHOWN_MAX: usize = 64;

/// A source's guest, besides its machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// What the guest boots.
    pub boot: Boot,
    /// Its writable disks.
    pub disks: Vec<Disk>,
    /// The announced hand-overs through which the guest has come to the source, the newest last. A
    /// record that still announces one of them may be taken from the process that it names. They
    /// are sent behind the rest; an older source sends none.
    #[serde(skip)]
    pub through: Vec<Handover>,
}

/// The images and the command line that a guest was booted with, and boots with again at a reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The kernel.
    pub kernel: Content,
    /// The initial RAM disk, if there is one.
    pub initrd: Option<Content>,
    /// The guest's command line. It moves with the guest.
    pub command_line: String,
}

/// The content of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// It is part of the program.
    pub built_in: bool,
    /// Its length.
    pub bytes: u64,
    /// Its XXH3, which detects accidental differences.
    pub hash: u128,
}

/// A writable disk of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Which `virtio-blk`.
    pub instance: u32,
    /// How the destination recognises its file.
    pub file: DiskFile,
}

/// How a destination recognises that its image is the source's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskFile {
    /// The source holds the lock of this nonce on it.
    Locked {
        /// New for each migration.
        nonce: u64,
    },
    /// The source could not take that lock.
    Unproven,
    /// It is another file, as the operator has set.
    Copied,
}

/// The two sides do not agree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The guests' names differ.
    #[error(
        "name: the source's guest is '{source_has}', this destination waits for '{here}': start the destination with --name {source_has}"
    )]
    Name {
        /// The source's, escaped.
        source_has: String,
        /// The destination's.
        here: String,
    },
    /// Another kernel or initrd: a reset would boot another guest.
    #[error("{item}: the source's guest boots {source_has}, this destination would boot {here} at a reset: {remedy}")]
    Boots {
        /// `kernel` or `initrd`.
        item: &'static str,
        /// The source's image.
        source_has: String,
        /// The destination's.
        here: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The source's identity is malformed.
    #[error("its {0}")]
    Form(&'static str),
    /// The file behind a disk is not known to be the source's.
    #[error("disk virtio-blk/{instance}: {why}: {how}")]
    Disk {
        /// Which.
        instance: u32,
        /// What is known.
        why: String,
        /// What the operator has to do, or to say.
        how: &'static str,
    },
}

const SAY_COPIED: &str = "give both sides the same file, or, if this one is a copy on purpose, migrate with --disk-copied \
                          (x-ferry-disk copied)";
const MEND: &str = "see in the source's log what keeps it and mend that; only if this image is a copy on purpose, migrate with \
                    --disk-copied (x-ferry-disk copied)";
const SAY_COPIED_HERE: &str = "if it is, or is a copy on purpose, start this destination with --incoming defer, set x-ferry-disk \
                               to copied here, and then migrate-incoming";

impl IdentityError {
    /// The destination's image at `path` was checked, and is not the source's file.
    #[must_use]
    pub fn other_file(instance: u32, path: &str) -> Self {
        let why = format!("the destination's image {path} is not the file that the source's guest uses");
        IdentityError::Disk { instance, why, how: SAY_COPIED }
    }

    /// The destination's image at `path` could not be checked.
    #[must_use]
    pub fn unknown_file(instance: u32, path: &str, error: &str) -> Self {
        let why = format!(
            "whether the destination's image {path} is the file that the source's guest uses is not known ({error})"
        );
        IdentityError::Disk { instance, why, how: SAY_COPIED }
    }
}

/// The number by which a migration's source proves its disk.
#[must_use]
pub fn nonce_of(migration_id: u128) -> u64 {
    // The low bits are on every frame. A nonce of 0 is none, and two bits are reserved for the
    // lock.
    (migration_id >> 66) as u64 | 1
}

/// Compares the guests by name.
///
/// # Errors
/// The names differ.
pub fn check_name(source: &str, here: &str) -> Result<(), IdentityError> {
    if source == here {
        return Ok(());
    }
    let source_has = source.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect();
    Err(IdentityError::Name { source_has, here: here.to_owned() })
}

impl Identity {
    /// Checks a received identity: within its bounds, and each disk once.
    ///
    /// # Errors
    /// The part that is malformed.
    pub fn check_form(&self) -> Result<(), IdentityError> {
        let line = self.boot.command_line.as_bytes();
        if line.len() > COMMAND_LINE_MAX || line.contains(&0) {
            return Err(IdentityError::Form("command line is longer than 65535 bytes, or has a zero byte in it"));
        }
        let twice = |at: usize| self.disks[..at].iter().any(|disk| disk.instance == self.disks[at].instance);
        if self.disks.len() > DISKS_MAX || (0..self.disks.len()).any(twice) {
            return Err(IdentityError::Form("list of disks has more than 16 entries, or one of them twice"));
        }
        if self.through.len() > THROUGH_MAX {
            return Err(IdentityError::Form("list of earlier hand-overs has more than 16 entries"));
        }
        Ok(())
    }

    /// The hand-overs through which an arriving guest has come: those of the source, and this one,
    /// if the source has announced it.
    #[must_use]
    pub fn through(of: Option<&Identity>, own: Option<&Handover>) -> Vec<Handover> {
        let mut through = of.map(|identity| identity.through.clone()).unwrap_or_default();
        through.extend(own.cloned());
        through.drain(..through.len().saturating_sub(THROUGH_MAX));
        through
    }

    /// The nonce that a destination has to find in its writable disk `instance` at `path`; `None`
    /// if an operator has set that the disk is a copy.
    ///
    /// # Errors
    /// The source offers no proof, and no operator has set that the disk is a copy.
    pub fn proof_of(
        of: Option<&Identity>,
        (instance, path): (u32, &str),
        here: DiskSharing,
    ) -> Result<Option<u64>, IdentityError> {
        let told =
            of.map(|identity| identity.disks.iter().find(|disk| disk.instance == instance).map(|disk| disk.file));
        let (why, how) = match (told, here) {
            (_, DiskSharing::Copied) | (Some(Some(DiskFile::Copied)), _) => return Ok(None),
            (Some(Some(DiskFile::Locked { nonce })), _) => return Ok(Some(nonce)),
            (Some(_), _) => ("the source could not put a lock on its own file as a proof", MEND),
            (None, _) => ("the source is of an older version, which proves nothing", SAY_COPIED_HERE),
        };
        let why = format!(
            "that the destination's image {path} is the file that the source's guest uses is not proven; {why}"
        );
        Err(IdentityError::Disk { instance, why, how })
    }
}

const _: () = assert!(OLDEST_VERSION == 4, "with no source left that has no identity, it need not be optional");

impl Boot {
    /// Compares the boot images of a source's guest with the destination's. The command line moves
    /// with the guest, and may differ.
    ///
    /// # Errors
    /// The first image that differs.
    pub fn check(&self, here: &Boot) -> Result<(), IdentityError> {
        let differs = |item, source_has: Option<&Content>, here: Option<&Content>, remedy| {
            let shown = |content: Option<&Content>| content.map_or_else(|| "none".to_owned(), Content::to_string);
            Err(IdentityError::Boots { item, source_has: shown(source_has), here: shown(here), remedy })
        };
        if !self.kernel.is_same(&here.kernel) {
            let remedy = match (self.kernel.built_in, here.kernel.built_in) {
                (true, true) => "use the same build of ferry on both sides, or boot guests with --kernel",
                (true, false) => "start the destination without --kernel",
                (false, _) => "give the destination the same --kernel",
            };
            return differs("kernel", Some(&self.kernel), Some(&here.kernel), remedy);
        }
        let same = match (&self.initrd, &here.initrd) {
            (Some(source), Some(here)) => source.is_same(here),
            (source, here) => source.is_none() && here.is_none(),
        };
        if !same {
            let remedy = match self.initrd {
                Some(_) => "give the destination the same --initrd",
                None => "start the destination without --initrd",
            };
            return differs("initrd", self.initrd.as_ref(), here.initrd.as_ref(), remedy);
        }
        Ok(())
    }
}

impl Content {
    /// Whether both have the same bytes.
    fn is_same(&self, other: &Content) -> bool {
        (self.bytes, self.hash) == (other.bytes, other.hash)
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.built_in { "the built-in guest" } else { "an image" };
        write!(f, "{what} of {} bytes (xxh3 {:08x}…)", self.bytes, self.hash >> 96)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn identity() -> Identity {
        let kernel = Content { built_in: true, bytes: 97_856, hash: 7 << 96 };
        let boot = Boot { kernel, initrd: None, command_line: "console=ttyS0".to_owned() };
        let disks = vec![Disk { instance: 0, file: DiskFile::Locked { nonce: 9 } }];
        Identity { boot, disks, through: vec![handover(3)] }
    }

    fn handover(generation: u64) -> Handover {
        let (vm, source) = (crate::ownership::tests::name("vm"), crate::ownership::tests::owner(1));
        Handover::new(vm, 7, generation, source).unwrap()
    }

    #[test]
    fn a_guest_tells_of_the_newest_hand_overs_that_it_has_come_through() {
        assert_eq!(Identity::through(None, None), []);
        assert_eq!(Identity::through(Some(&identity()), Some(&handover(4))), [handover(3), handover(4)]);
        let mut many = Identity { through: (0..THROUGH_MAX as u64).map(handover).collect(), ..identity() };
        assert_eq!(many.check_form(), Ok(()));
        let through = Identity::through(Some(&many), Some(&handover(99)));
        assert_eq!((through.len(), &through[0], &through[15]), (THROUGH_MAX, &handover(1), &handover(99)));
        many.through.push(handover(99));
        assert!(many.check_form().unwrap_err().to_string().contains("more than 16"));
    }

    #[test]
    fn another_name_is_refused_with_the_remedy() {
        assert_eq!(check_name("a", "a"), Ok(()));
        let text = check_name("alpha", "beta").unwrap_err().to_string();
        assert!(text.starts_with("name: ") && text.ends_with("--name alpha"), "{text}");
        let hostile = check_name(&"\u{1b}x\n".repeat(9999), "beta").unwrap_err().to_string();
        assert!(!hostile.contains(char::is_control) && hostile.len() < 1000, "{hostile}");
    }

    #[test]
    fn kernels_and_initrds_are_compared_and_the_command_line_is_not() {
        let here = identity().boot;
        let image = Content { built_in: false, hash: 9, ..here.kernel };
        let source = |change: &dyn Fn(&mut Boot)| {
            let mut boot = identity().boot;
            change(&mut boot);
            boot.check(&here).map_err(|error| error.to_string())
        };
        assert_eq!(source(&|boot| boot.command_line = "quiet".to_owned()), Ok(()));
        for (change, item, remedy) in [
            (
                &(|boot: &mut Boot| boot.kernel = image) as &dyn Fn(&mut Boot),
                "kernel: ",
                "give the destination the same --kernel",
            ),
            (
                &|boot| boot.kernel.hash += 1,
                "kernel: ",
                "use the same build of ferry on both sides, or boot guests with --kernel",
            ),
            (
                &|boot| boot.kernel.bytes += 1,
                "kernel: ",
                "use the same build of ferry on both sides, or boot guests with --kernel",
            ),
            (&|boot| boot.initrd = Some(image), "initrd: ", "give the destination the same --initrd"),
        ] {
            let text = source(change).unwrap_err();
            assert!(text.starts_with(item) && text.ends_with(remedy), "{text}");
        }
        assert_eq!(source(&|boot| boot.kernel.built_in = false), Ok(()), "the same from a file");
        let given = Boot { kernel: image, ..identity().boot };
        let text = here.check(&given).unwrap_err().to_string();
        assert!(text.ends_with("start the destination without --kernel"), "{text}");
    }

    #[test]
    fn a_disk_needs_a_proof_or_an_operators_word() {
        use DiskSharing::{Copied, Shared};
        let ask = |file: Option<DiskFile>, here| {
            let disks = file.map(|file| Disk { instance: 0, file }).into_iter().collect();
            let identity = Identity { disks, ..identity() };
            Identity::proof_of(Some(&identity), (0, "/d.img"), here).map_err(|error| error.to_string())
        };
        assert_eq!(ask(Some(DiskFile::Locked { nonce: 9 }), Shared), Ok(Some(9)));
        assert_eq!(ask(Some(DiskFile::Copied), Shared), Ok(None));
        for file in [None, Some(DiskFile::Unproven), Some(DiskFile::Locked { nonce: 9 })] {
            assert_eq!(ask(file, Copied), Ok(None), "the destination's operator has said so");
        }
        for file in [None, Some(DiskFile::Unproven)] {
            let text = ask(file, Shared).unwrap_err();
            assert!(text.starts_with("disk virtio-blk/0: ") && text.contains("/d.img"), "{text}");
            assert!(text.ends_with("--disk-copied (x-ferry-disk copied)"), "{text}");
        }
        let older = Identity::proof_of(None, (0, "/d.img"), Shared).unwrap_err().to_string();
        assert!(older.contains("older version") && older.ends_with("migrate-incoming"), "{older}");
        assert_eq!(Identity::proof_of(None, (0, "/d.img"), Copied), Ok(None));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert_eq!(identity().check_form(), Ok(()));
        let with = |change: &dyn Fn(&mut Identity)| {
            let mut identity = identity();
            change(&mut identity);
            identity.check_form()
        };
        assert!(with(&|all| all.boot.command_line = "x".repeat(COMMAND_LINE_MAX + 1)).is_err());
        assert!(with(&|all| all.boot.command_line = "a\0b".to_owned()).is_err());
        assert!(with(&|all| all.disks.push(all.disks[0])).is_err(), "one disk twice");
        let many =
            |count| with(&|all| all.disks = (0..count).map(|instance| Disk { instance, ..all.disks[0] }).collect());
        assert_eq!((many(16), many(17).is_err()), (Ok(()), true));
    }

    #[test]
    fn every_migration_has_a_nonce_that_its_frames_do_not_show() {
        assert_eq!(nonce_of(0), 1);
        assert!(nonce_of(u128::MAX) < 1 << 62);
        assert_eq!(nonce_of(u64::MAX.into()), 1, "the low half does not count");
    }
}
