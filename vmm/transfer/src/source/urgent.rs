//! Serves page requests: the source's end of the urgent link.
//!
//! A vCPU of the destination waits for every answer, so the thread does nothing else, and the link
//! carries nothing else.

use std::sync::Arc;

use ferry_link::control::LinkError;
use ferry_link::{Link, Unconfirmed};
use ferry_migration::pages::{CHUNK_PAGES, CHUNK_WORDS};
use ferry_migration::wire::request::{self, REQUEST_LEN};

use crate::source::chunks::ChunkSender;
use crate::source::remaining::Remaining;

const LINK: &str = "urgent";

/// Answers requests until the link ends.
///
/// # Errors
/// How the link ended; there is no other way out.
pub(super) fn serve(
    stream: &Link,
    session: u32,
    pages: u64,
    remaining: &Arc<Remaining>,
    mut sender: ChunkSender,
) -> LinkError {
    let mut bytes = [0; REQUEST_LEN];
    loop {
        // A request need not come, but answers must be taken.
        let mut sent = Unconfirmed::default();
        let idle = || sender.check_taken(&mut sent, stream.look());
        let answered = stream
            .read_next(&mut bytes, idle)
            .map_err(LinkError::io(LINK))
            .and_then(|()| request::decode(&bytes, session, pages).map_err(LinkError::wire(LINK)))
            .and_then(|page| answer(page, remaining, &mut sender));
        if let Err(error) = answered {
            return error;
        }
    }
}

fn answer(page: u64, remaining: &Remaining, sender: &mut ChunkSender) -> Result<(), LinkError> {
    sender.note_request();
    // A requested page does not queue behind the bulk link's: it is sent again if it is on its way
    // there, and the destination uses the first copy.
    let first = remaining.claim(page);
    let mut wanted = [0; CHUNK_WORDS];
    wanted[(page % CHUNK_PAGES / 64) as usize] = 1 << (page % 64);
    match first {
        true => sender.send(page / CHUNK_PAGES, &wanted, &wanted).map(drop),
        false => sender.send_again(page / CHUNK_PAGES, &wanted).map(drop),
    }
}
