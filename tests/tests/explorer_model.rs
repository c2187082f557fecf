//! The Promela model of the switchover, checked by spin where spin is installed: a second
//! statement of the protocol, which the explorer's world and the state machines had no part in.
//! Its broken variants must be caught.

use std::path::Path;

use ferry_tests::model;

/// The handshakes, as the model numbers them.
const OWNED: u8 = 1;
const SETUP: u8 = 2;
const SETUP_UNSHARED: u8 = 3;
const SETUP_WITHOUT_RECORD: u8 = 4;

/// The promises that a broken variant breaks, by words of their assertions.
const FRESH: &str = "(s_has==runs)";
const KEPT: &str = "t_takes";
const TOGETHER: &str = "s_stopped";
const UNDISTURBED: &str = "t_late";

/// What the model is told, and the promise that spin must find broken.
struct Case {
    settings: String,
    breaks: Option<&'static str>,
}

fn holds(handshake: u8) -> Case {
    Case { settings: format!("-DHANDSHAKE={handshake}"), breaks: None }
}

fn breaks(handshake: u8, settings: &str, promise: &'static str) -> Case {
    Case { settings: format!("-DHANDSHAKE={handshake} {settings}"), breaks: Some(promise) }
}

fn cases() -> Vec<Case> {
    let mut cases = vec![
        breaks(OWNED, "-DBROKEN=1", FRESH),
        breaks(SETUP_WITHOUT_RECORD, "-DBROKEN=1", FRESH),
        breaks(OWNED, "-DBROKEN=2", TOGETHER),
    ];
    // A boot that asks the disk alone.
    for (handshake, past) in [(OWNED, "-DPAST=1"), (SETUP, "-DPAST=1"), (SETUP_WITHOUT_RECORD, "-DPAST=0")] {
        cases.extend([
            breaks(handshake, &format!("{past} -DBROKEN=8"), KEPT),
            breaks(handshake, &format!("{past} -DBROKEN=8 -DKEPT=0"), FRESH),
        ]);
    }
    for handshake in [OWNED, SETUP, SETUP_UNSHARED] {
        cases.push(Case { settings: format!("-DHANDSHAKE={handshake} -DPAST=1"), breaks: None });
    }
    cases.extend([OWNED, SETUP, SETUP_UNSHARED, SETUP_WITHOUT_RECORD].map(holds));
    for handshake in [OWNED, SETUP, SETUP_UNSHARED] {
        cases.extend([
            breaks(handshake, "-DBROKEN=3", KEPT),
            breaks(handshake, "-DBROKEN=3 -DKEPT=0 -DLATE=1", FRESH),
            breaks(handshake, "-DBROKEN=4", KEPT),
            breaks(handshake, "-DBROKEN=6", FRESH),
            breaks(handshake, "-DBROKEN=7", UNDISTURBED),
        ]);
    }
    for handshake in [SETUP, SETUP_UNSHARED] {
        cases.extend([
            breaks(handshake, "-DBROKEN=5", KEPT),
            breaks(handshake, "-DBROKEN=5 -DALSO=6 -DKEPT=0 -DLATE=1", FRESH),
        ]);
    }
    cases
}

#[test]
fn spin_finds_no_error_but_in_the_broken_variants() {
    if !model::is_there() {
        return;
    }
    for (number, Case { settings, breaks }) in cases().into_iter().enumerate() {
        let case = model::Case { model: "switchover.pml", settings, arguments: &[], breaks };
        model::check(&case, &Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("model-{number}")));
    }
}
