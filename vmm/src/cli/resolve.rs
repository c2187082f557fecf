//! `ferry resolve`: the operator decides which side owns a guest when that is uncertain, with the
//! other side fenced.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ferry_qmp::client::Client;
use serde_json::json;

use super::{CliError, QMP_TIMEOUT, qmp_path, say};

/// The options of `ferry resolve`.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// QMP socket of the process whose migration is uncertain, or whose postcopy is paused
    #[arg(long, value_name = "unix:PATH", value_parser = qmp_path)]
    qmp: PathBuf,
    /// Who owns the guest from now on
    #[arg(long, value_enum)]
    owner: Owner,
    /// The other side's process has ended, or its host is cut off for good: it does not run the
    /// guest and never will
    #[arg(long)]
    peer_fenced: bool,
    /// End a paused postcopy: the destination has ended, or says that it is completed, and needs
    /// no pages from here
    #[arg(long)]
    drop_pages: bool,
    /// The destination never ran the guest, as its log or its trace says: the guest may be the
    /// source's also if the ownership record names the destination, or cannot be reached
    #[arg(long)]
    never_ran: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Owner {
    Source,
    Destination,
}

/// Runs `ferry resolve`.
pub(super) fn run(options: &Options) -> Result<(), CliError> {
    if !options.peer_fenced {
        return Err(CliError::Usage(
            "nothing was resolved: end the other side's process, or cut its host off for good, then say so with --peer-fenced; \
             two running copies of one guest destroy its disk"
                .into(),
        ));
    }
    let (owner, told) = match options.owner {
        Owner::Source => ("source", "the guest is the source's"),
        Owner::Destination => ("destination", "the guest is the destination's"),
    };
    let mut client = Client::connect(&options.qmp, QMP_TIMEOUT)?;
    client.execute(
        "x-ferry-resolve",
        json!({
            "owner": owner,
            "peer-fenced": true,
            "drop-pages": options.drop_pages,
            "never-ran": options.never_ran,
        }),
    )?;
    say(told);
    Ok(())
}
