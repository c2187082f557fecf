//! Figures of both sides.

use super::*;

const ENDS: [Status; 3] = [Status::Completed, Status::Failed, Status::Cancelled];

fn progress(direction: Direction) -> Arc<Progress> {
    Progress::new(direction, 8 * PAGE_SIZE, Arc::default())
}

#[test]
fn both_sides_say_how_long_it_took_and_that_nothing_remains() {
    for direction in [Direction::Outgoing, Direction::Incoming] {
        let progress = progress(direction);
        assert_eq!(progress.info(), MigrationInfo::default(), "nothing has begun");
        progress.set_status(Status::Setup);
        let info = progress.info();
        assert!(info.total_time.is_some(), "{direction:?}");
        assert_eq!(info.ram.map(|ram| (ram.remaining, ram.total)), Some((8 * PAGE_SIZE, 8 * PAGE_SIZE)));
        progress.set_status(Status::Completed);
        let info = progress.info();
        assert_eq!(info.ram.map(|ram| (ram.remaining, ram.total)), Some((0, 8 * PAGE_SIZE)), "{direction:?}");
        assert_eq!(progress.info().total_time, info.total_time, "an end fixes it");
    }
}

#[test]
fn the_wait_for_a_source_is_no_part_of_the_migration() {
    let progress = progress(Direction::Incoming);
    let hour = std::time::Duration::from_secs(3600);
    let Some(early) = Instant::now().checked_sub(hour) else { return };
    progress.facts().began = early;
    progress.set_status(Status::Setup);
    progress.set_status(Status::Active);
    let info = progress.info();
    assert!(info.total_time.is_some_and(|ms| ms < 3_600_000), "{info:?}");
    assert!(info.setup_time.is_some_and(|ms| ms < 3_600_000), "{info:?}");
}

#[test]
fn what_has_not_arrived_remains() {
    let progress = progress(Direction::Incoming);
    let remaining = || progress.pages.remaining_pages.load(Relaxed);
    progress.arrived(3);
    assert_eq!(remaining(), 5);
    progress.arrived(9);
    assert_eq!(remaining(), 0, "later rounds send pages again");
}

#[test]
fn memory_is_whole_unless_pages_lack_or_another_process_has_it() {
    let is_whole = |progress: &Progress, status, handed_over| {
        progress.set_status(status);
        progress.memory_is_whole(handed_over).is_ok()
    };
    let (source, postcopy) = (progress(Direction::Outgoing), progress(Direction::Incoming));
    postcopy.pages.is_postcopy.store(true, Relaxed);
    source.pages.is_postcopy.store(true, Relaxed);
    for status in [Status::PostcopySetup, Status::PostcopyActive, Status::PostcopyPaused, Status::PostcopyRecover] {
        assert!(!is_whole(&postcopy, status, false), "{status:?}");
        assert!(is_whole(&source, status, true), "the source keeps its memory: {status:?}");
    }
    assert!(!is_whole(&postcopy, Status::Failed, false), "its pages are lost");
    postcopy.pages.remaining_pages.store(0, Relaxed);
    assert!(is_whole(&postcopy, Status::PostcopyActive, false), "every page is here");
    assert!(is_whole(&postcopy, Status::Completed, false));
    let precopy = progress(Direction::Incoming);
    assert!(ENDS.into_iter().all(|end| is_whole(&precopy, end, false)));

    let local = progress(Direction::Outgoing);
    local.set_local();
    for (status, handed_over, whole) in [
        (Status::Setup, false, true),
        (Status::Active, false, true),
        (Status::Device, false, false),
        (Status::Uncertain, false, false),
        (Status::Failed, false, true),
        (Status::Cancelled, false, true),
        (Status::Failed, true, false),
        (Status::Completed, true, false),
    ] {
        assert_eq!(is_whole(&local, status, handed_over), whole, "{status:?}");
    }
}
