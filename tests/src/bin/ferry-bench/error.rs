//! Why a measurement could not be made. Every part of the bench returns these; `main` prints them
//! with their causes.

use std::io;

use ferry_qmp::client::ClientError;

/// Commands whose refusal means that a VMM lacks something, rather than that something broke.
const SETTERS: [&str; 2] = ["migrate-set-capabilities", "migrate-set-parameters"];

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The system refused something.
    #[error("cannot {what}")]
    System {
        /// What was being done.
        what: String,
        /// Its answer.
        source: io::Error,
    },
    /// A process ended, or never answered.
    #[error("{process} does not answer ({status}); it said: {stderr}")]
    Process {
        /// Which one.
        process: String,
        /// Its exit status, or that it runs.
        status: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// A QMP command failed.
    #[error("{process}")]
    Qmp {
        /// Which process.
        process: String,
        /// What it answered.
        source: ClientError,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {seconds} s; is the machine overloaded?")]
    Late {
        /// What was awaited.
        what: String,
        /// For how long.
        seconds: u64,
    },
    /// The guest found something wrong.
    #[error("the guest under {process} reports an error: {text}")]
    Guest {
        /// Where it runs.
        process: String,
        /// Its own words.
        text: String,
    },
    /// A migration ended otherwise than completed.
    #[error("the migration by {process} ended as {status}: {reason}")]
    Migration {
        /// The source.
        process: String,
        /// The status.
        status: String,
        /// What `query-migrate` gives as the reason.
        reason: String,
    },
    /// A reply lacks something.
    #[error("{process} gives no {field} in {reply}; is it of a version that this bench knows?")]
    Reply {
        /// Which process.
        process: String,
        /// What is missing.
        field: String,
        /// The reply.
        reply: String,
    },
}

impl BenchError {
    /// The refusal, when a VMM knows nothing of what it was asked to do.
    pub(crate) fn refusal(&self) -> Option<String> {
        match self {
            BenchError::Qmp { source: refused @ ClientError::Refused { command, .. }, .. }
                if SETTERS.contains(&command.as_str()) =>
            {
                Some(refused.to_string())
            }
            _ => None,
        }
    }

    /// Names what was being done in an I/O error.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> BenchError {
        let what = what.into();
        move |source| BenchError::System { what, source }
    }
}
