//! The ownership record as one process and one hand-over use it.
//!
//! [`OwnRecord`] is the process's: which record, who this process is, and which generation it
//! holds. [`HandoverRecord`] is one migration's, on either side: it asks for the changes of the
//! switchover and answers in the state machines' words. [`Custodian`] is asked by the machine
//! before a guest runs again whose disk it has let go of. Every call may take as long as the
//! storage does, so each is made on a thread that may wait.

mod apart;
mod background;
mod call;
mod custodian;
mod error;
mod handover;
mod info;
mod own;
mod settling;
mod twice;
mod without;

pub(super) use self::apart::let_guest_go;
pub use self::call::{ANSWER_DEADLINE, Call};
pub use self::custodian::Custodian;
pub use self::error::RecordError;
pub use self::handover::HandoverRecord;
pub use self::info::OwnershipInfo;
pub use self::own::OwnRecord;
