//! Who is asked before a guest runs again whose disk this process has let go of.

use ferry_migration::ownership::custody::Again;

/// The ownership record, as far as the machine knows it.
pub trait Custody: Send + Sync + std::fmt::Debug {
    /// Makes the record name this process. The caller holds the guest's disk, and runs the guest
    /// if the record agrees.
    ///
    /// # Errors
    /// Why the guest may not run here: another process may have run it, a migration of it is under
    /// way, or the record does not answer.
    fn claim(&self, again: Again) -> Result<(), String>;
}
