//! A trace is read as it was written, and a migration is sampled for as long as it lasts.

use std::path::Path;

use ferry_migration::{MigrationInfo, Status};

use super::*;

fn lines(path: &Path) -> Vec<Entry> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_is_noted_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.trace");
    let writer = Writer::open(&path).unwrap();
    let hostile = "</script>\u{1}\n\"\u{2028}";
    let info = MigrationInfo { error_desc: Some(hostile.to_owned()), ..MigrationInfo::default() };
    let noted = [
        What::Start(Start { format: FORMAT.to_owned(), vm: hostile.to_owned(), ..Start::default() }),
        What::Migration { side: Side::Source, id: "7".to_owned(), peer: None },
        What::Status { status: Status::PostcopyActive },
        What::Sent(writer.message("Permit", 17)),
        What::Round(Round {
            number: None,
            pages: 1,
            zero_pages: 2,
            bytes: 3,
            took_us: 4,
            dirty_pages: Some(u64::MAX),
            cpu_throttle: Some(99),
        }),
        What::Sample(Sample { bandwidth: 5, ..Sample::default() }),
        What::Summary(Box::new(info)),
    ];
    for what in &noted {
        writer.put(what.clone());
    }
    writer.flush();
    let read = lines(&path);
    assert!(read.is_sorted_by_key(|entry| entry.at_us));
    assert_eq!(read.into_iter().map(|entry| entry.what).collect::<Vec<_>>(), noted);
}

#[test]
fn a_watched_migration_is_sampled_until_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.trace");
    let writer = Writer::open(&path).unwrap();
    let (asked, ask) = std::sync::mpsc::channel();
    let left = std::sync::atomic::AtomicU32::new(2);
    writer.watch(Box::new(move || {
        let last = left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) == 0;
        asked.send(()).unwrap();
        (!last).then(MigrationInfo::default)
    }));
    let patience = std::time::Duration::from_secs(20);
    for _ in 0..3 {
        ask.recv_timeout(patience).unwrap();
    }
    // It has said that it is over, and is forgotten.
    assert!(ask.recv_timeout(patience).is_err_and(|end| end == std::sync::mpsc::RecvTimeoutError::Disconnected));
    writer.flush();
    assert_eq!(lines(&path).len(), 2);
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let error = Writer::open(Path::new("/nowhere/a.trace")).unwrap_err().to_string();
    assert!(error.starts_with("the trace /nowhere/a.trace cannot be opened"), "{error}");
}
