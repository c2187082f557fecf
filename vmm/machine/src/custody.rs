//! Who is asked before a guest runs again whose disk this process has let go of.

use ferry_migration::ownership::custody::Again;

/// Makes the record say that the guest is here.
pub type Settle = Box<dyn FnOnce() + Send>;

/// The ownership record, as far as the machine knows it.
pub trait Custody: Send + Sync + std::fmt::Debug {
    /// Makes the record name this process. The caller holds the guest's disk, and runs the guest
    /// if the record agrees. When it does, what is returned is called: until then the record goes
    /// on to say that a migration is under way, which keeps a boot from a guest that could not run
    /// after all and has lost its disk again.
    ///
    /// # Errors
    /// Why the guest may not run here: another process may have run it, a migration of it is under
    /// way, or the record does not answer.
    fn claim(&self, again: Again) -> Result<Settle, String>;
}
