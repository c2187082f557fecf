//! Permission to run a guest again after this process has released its disk.

use ferry_migration::ownership::custody::Again;

/// Settles the record: the guest is here.
pub type Settle = Box<dyn FnOnce() + Send>;

/// The ownership record, as the machine sees it.
pub trait Custody: Send + Sync + std::fmt::Debug {
    /// Makes the record name this process. The caller holds the guest's disk, and runs the guest if
    /// this succeeds; it then calls the returned [`Settle`]. Until then the record still shows a
    /// migration under way, which prevents a boot in case the guest cannot run after all and loses
    /// its disk again.
    ///
    /// # Errors
    /// Why the guest may not run here: another process may have run it, a migration of it is under
    /// way, or the record does not answer.
    fn claim(&self, again: Again) -> Result<Settle, String>;
}
