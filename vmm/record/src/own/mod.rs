//! The ownership record as one process and one hand-over use it.
//!
//! [`OwnRecord`] is the process's: which record, who this process is, and which generation it
//! holds. [`HandoverRecord`] is one migration's, on either side: it makes the changes of the
//! switchover and returns the state machines' types. Every call may take as long as the storage
//! does, so each is made on a thread that may wait.

mod again;
mod apart;
mod background;
mod call;
mod ended;
mod error;
mod handover;
mod info;
mod process;
mod settling;
mod twice;
mod without;

pub use self::again::Settle;
pub use self::call::{ANSWER_DEADLINE, Call};
pub use self::error::{RecordError, Twice};
pub use self::handover::HandoverRecord;
pub use self::info::OwnershipInfo;
pub use self::process::OwnRecord;
