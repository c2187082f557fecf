//! Frames of another, earlier migration, for whoever wants to replay one.

use ferry_migration::Handshake;
use ferry_migration::info::Status;
use serde_json::json;

use crate::matrix::cell::{Cell, Mode};
use crate::relay::Spot;
use crate::wait::{LONG, wait_until};
use crate::{Lab, Relay, Spec, disk};

/// Migrates a guest of its own, as the cell does but without a fault, and returns the frame at
/// this spot.
///
/// # Panics
/// When that migration does not succeed, or has no such frame.
#[must_use]
pub fn frame(lab: &Lab, cell: &Cell, spot: Spot) -> Vec<u8> {
    let image = disk::image(lab, "earlier.img", 64 << 10);
    let mut spec = Spec::new().name("earlier").memory("32M").disk(&image);
    if cell.handshake == Handshake::Setup {
        spec.more = vec!["--ownership".into(), "none".into()];
    }
    let mut source = lab.start(&spec);
    let mut destination = lab.start_destination(&spec);
    let relay = Relay::new(&destination.wait_listening(), None);
    let postcopy = cell.mode != Mode::Precopy;
    // Heartbeats take their time, and postcopy needs something to be left.
    source.set_parameters(json!({ "max-bandwidth": 1 << 20, "downtime-limit": 1 }));
    if postcopy {
        source.allow_postcopy();
    }
    source.begin_migration(&relay.uri());
    source.wait_migration(Status::Active);
    if spot == Spot::Message("Heartbeat") {
        wait_until("a heartbeat of the earlier migration", LONG, || {
            relay.frames().iter().any(|frame| frame.name == "Heartbeat").then_some(())
        });
    }
    if postcopy {
        source.qmp("migrate-start-postcopy", json!({}));
        source.wait_migration(Status::PostcopyActive);
    }
    if cell.mode == Mode::Recovered {
        relay.cut_all();
        for side in [&mut source, &mut destination] {
            side.wait_migration(Status::PostcopyPaused);
        }
        source.qmp("migrate", json!({ "uri": relay.uri(), "resume": true }));
        source.wait_migration(Status::PostcopyActive);
    }
    source.set_parameters(json!({ "max-bandwidth": 0, "downtime-limit": 300 }));
    let info = source.wait_migration_end();
    assert_eq!(info.status, Some(Status::Completed), "{info:?}");
    wait_until("the earlier guest to have arrived", LONG, || {
        (destination.migration().status == Some(Status::Completed)).then_some(())
    });
    source.quit();
    destination.quit();
    relay.recorded(spot)
}
