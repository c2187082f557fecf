//! A fault matrix that nobody ran: large, with a little red, and with text that a page must not
//! take for its own.

use ferry_report::matrix::{Cell, Entry, FORMAT, Finding, Kind, Lane, Log, Matrix, Mode, Oracle, Place, Verdict};

/// Text that would end the page's script, were it not kept from it.
const HOSTILE: &str = "</script><img src=x onerror=\"document.body.dataset.error='ran'\">\u{1b}[31m & 'quoted'";

/// One of two shards of about 800 cells, some of them red or skipped.
pub(crate) fn made_up(shard: usize) -> Matrix {
    const ORDER: [&str; 17] = [
        "Hello",
        "HelloAck",
        "SendRound",
        "MarkerReached",
        "Snapshot",
        "Rehearse",
        "Rehearsed",
        "StopGuest",
        "Save",
        "SendLastPages",
        "Package",
        "Load",
        "Ready",
        "Permit",
        "Claim",
        "Started",
        "DrainedAck",
    ];
    const WHAT: [(&str, Place); 12] = [
        ("source killed", Place::Source),
        ("source frozen", Place::Source),
        ("save fails", Place::Source),
        ("destination killed", Place::Destination),
        ("load fails", Place::Destination),
        ("load hangs", Place::Destination),
        ("link cut", Place::Link),
        ("frame held for 400 ms", Place::Link),
        ("frame corrupted", Place::Link),
        ("record unreachable", Place::Record),
        ("record hangs", Place::Record),
        ("disk lock kept", Place::Disk),
    ];
    let variants = [
        (Mode::Precopy, "owned", 1),
        (Mode::Precopy, "setup", 2),
        (Mode::Postcopy, "owned", 2),
        (Mode::Recovered, "setup", 1),
    ];
    let all = WHAT.iter().flat_map(|what| ORDER.iter().map(move |when| (what, when)));
    let all = all.flat_map(|((what, place), when)| variants.map(|variant| (*what, *place, *when, variant)));
    let cells = all.enumerate().filter(|(at, _)| at % 2 == shard);
    Matrix {
        format: FORMAT.to_owned(),
        made: "2026-11-22T03:12:45Z".to_owned(),
        seed: u64::MAX,
        host: "Linux 6.18, 2 cores, software-nested KVM".to_owned(),
        command: format!("ci/matrix --shard {}/2", shard + 1),
        seconds: 917.5,
        order: ORDER.map(str::to_owned).to_vec(),
        cells: cells.map(|(at, (what, place, when, variant))| made_up_cell(at, what, place, when, variant)).collect(),
    }
}

fn made_up_cell(at: usize, what: &str, place: Place, when: &str, (mode, handshake, cpus): (Mode, &str, u32)) -> Cell {
    let verdict = match at {
        _ if at % 211 == 100 => Verdict::Fail,
        _ if at % 53 == 20 => Verdict::Skip,
        _ => Verdict::Pass,
    };
    let says = "3 pages differ from what the guest had written: 0x1a2000, 0x1a3000, 0x3ff000";
    let name = format!("{}-{handshake}-{cpus}-{when}-{what}", mode.as_str());
    Cell {
        rerun: format!("ci/matrix --seed 7 --only '{name}'"),
        name,
        mode,
        handshake: handshake.to_owned(),
        cpus,
        when: when.to_owned(),
        what: what.to_owned(),
        place,
        seed: u64::MAX - at as u64,
        verdict,
        millis: 1900 + at as u64,
        injected: format!("At {when}: {what}. Everything else is left alone."),
        ending: "the source runs the guest".to_owned(),
        resume_ms: Some(14.25),
        why: match verdict {
            Verdict::Pass => None,
            Verdict::Fail => Some(says.to_owned()),
            Verdict::Skip => Some("this host has no second path to the record".to_owned()),
        },
        oracles: vec![
            Oracle {
                name: "one runner".to_owned(),
                verdict: Finding::Pass,
                says: "never two, in 412 looks".to_owned(),
            },
            Oracle {
                name: "memory".to_owned(),
                verdict: if verdict == Verdict::Fail { Finding::Fail } else { Finding::Pass },
                says: says.to_owned(),
            },
            Oracle { name: "disk".to_owned(), verdict: Finding::None, says: "this guest has none".to_owned() },
        ],
        timeline: made_up_timeline(what),
        logs: vec![Log {
            name: "source, standard error".to_owned(),
            text: format!("{HOSTILE}\nthe link was lost\n").repeat(20),
        }],
    }
}

fn made_up_timeline(what: &str) -> Vec<Entry> {
    use Lane::{Destination, Guest, Harness, Link, Source};
    let plain = |at_us, lane, kind, text: &str| Entry {
        at_us,
        lane,
        kind,
        text: text.to_owned(),
        to: None,
        link: None,
        fate: None,
    };
    let message = |at_us, lane, to, text, fate: Option<&str>| Entry {
        to: Some(to),
        link: Some("control".to_owned()),
        fate: fate.map(str::to_owned),
        ..plain(at_us, lane, Kind::Message, text)
    };
    vec![
        plain(0, Harness, Kind::Note, "the guest boots; three reports are read"),
        plain(1200, Source, Kind::Status, "setup"),
        message(1900, Source, Destination, "Hello", None),
        message(3100, Destination, Source, "HelloAck", None),
        plain(3200, Source, Kind::Status, "active"),
        plain(3300, Destination, Kind::Status, "active"),
        Entry {
            to: Some(Destination),
            link: Some("bulk 0".to_owned()),
            ..plain(3400, Source, Kind::Pages, "round 1: 16,384 pages")
        },
        message(50_000, Source, Destination, "Heartbeat", None),
        plain(165_100, Source, Kind::Step, "StopGuest"),
        plain(165_300, Source, Kind::Event, "STOP"),
        plain(165_310, Guest, Kind::Note, "the last report before the stop: s=41, no error"),
        message(166_100, Source, Destination, "Package", Some("held for 400 ms")),
        plain(166_200, Source, Kind::Status, "device"),
        plain(167_000, Harness, Kind::Fault, what),
        plain(167_100, Link, Kind::Fault, "both directions are closed"),
        message(569_000, Destination, Source, "Ready", Some("lost")),
        plain(1_569_000, Source, Kind::Note, "no sign of life within x-ferry-heartbeat-timeout-ms"),
        plain(1_569_400, Source, Kind::Step, "ResumeGuest"),
        plain(1_569_800, Source, Kind::Event, "RESUME"),
        plain(1_570_000, Source, Kind::Status, "failed"),
        plain(1_570_200, Destination, Kind::Status, "failed"),
        plain(1_671_000, Guest, Kind::Note, HOSTILE),
    ]
}
