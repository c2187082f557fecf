//! Why pages cannot be waited for, or placed.

use std::io;

use crate::Backing;

/// Why postcopy fails with guest memory on this host.
#[derive(Debug, thiserror::Error)]
pub enum UserfaultError {
    /// The host forbids it to this user.
    #[error(
        "userfaultfd is not permitted, and postcopy needs it: let this user open /dev/userfaultfd for reading and writing, \
         or set the sysctl vm.unprivileged_userfaultfd to 1, or grant CAP_SYS_PTRACE; or use precopy"
    )]
    NotPermitted(#[source] io::Error),
    /// The kernel has no userfaultfd.
    #[error(
        "this kernel has no userfaultfd, and postcopy needs it: use Linux 5.11 or newer with CONFIG_USERFAULTFD, or precopy"
    )]
    NoKernelSupport(#[source] io::Error),
    /// The kernel has it, but not for this kind of memory.
    #[error(
        "this kernel has no {feature} faults for {backing} memory: use Linux {since} or newer, \
         or --memory SIZE,backing=anon, or precopy"
    )]
    NoFeature {
        /// The kind of memory.
        backing: Backing,
        /// The missing feature.
        feature: &'static str,
        /// The first kernel that has it.
        since: &'static str,
    },
    /// The descriptor could not be opened for another reason.
    #[error("userfaultfd cannot be opened; free descriptors or memory, or use precopy")]
    Open(#[source] io::Error),
    /// The list of pages is of another machine.
    #[error("{found} pages may be missing, but guest memory has {expected}; both sides must agree on --memory")]
    OtherMachine {
        /// Pages of guest memory.
        expected: u64,
        /// Pages of the list.
        found: u64,
    },
    /// Old contents of missing pages could not be removed.
    #[error("outdated pages {first} to {last} cannot be discarded; migrate again, or use precopy")]
    Discard {
        /// First page of the range.
        first: u64,
        /// Last page of the range.
        last: u64,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refused to register a range.
    #[error(
        "pages {first} to {last} ({backing}) cannot be watched with userfaultfd; the kernel log may say more; use precopy"
    )]
    Register {
        /// First page of the range.
        first: u64,
        /// Last page of the range.
        last: u64,
        /// Their backing.
        backing: Backing,
        /// Why not.
        source: io::Error,
    },
    /// A page arrived and could not be placed. It still counts as missing.
    #[error("page {page} has arrived but cannot be placed; free memory on this host, then recover the migration")]
    Place {
        /// Which page.
        page: u64,
        /// Why not.
        source: io::Error,
    },
    /// A fault could not be read: waiting accesses are no longer noticed.
    #[error("faults of the guest cannot be read; pages still arrive in the background; recover the migration")]
    Read(#[source] io::Error),
    /// Pages are no longer awaited.
    #[error("the pages are no longer awaited: this migration has ended; start another one")]
    Ended,
    /// Only complete memory may be unregistered.
    #[error("{remaining} pages are still missing; wait for them, or recover the migration")]
    Incomplete {
        /// How many.
        remaining: u64,
    },
    /// A guest that runs must not see zeros in place of its pages.
    #[error("the guest runs and {remaining} pages are missing: it cannot go on without them; recover the migration")]
    GuestRuns {
        /// How many.
        remaining: u64,
    },
}
