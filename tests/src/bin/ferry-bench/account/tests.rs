//! A failure costs its own value and nothing else.

use std::io;

use ferry_qmp::client::ClientError;
use serde::Serialize;

use super::*;

#[derive(Serialize)]
struct Sample(f64);

impl Measured for Sample {
    fn readings(&self) -> Vec<Reading> {
        vec![Reading::new("total time", "ms", self.0), Reading::perhaps("downtime", "ms", None)]
    }
}

fn broken() -> Result<Sample, BenchError> {
    Err(BenchError::system("do it")(io::Error::other("it is full")))
}

#[test]
fn values_are_gathered_by_figure_and_contender() {
    let mut section = Section::new("row", "a row");
    let case = section.case("a case");
    for (run, value) in [(1, 5.0), (2, 1.0), (3, 9.0)] {
        assert!(case.attempt(Contender::Ferry, run, || Ok(Sample(value))).is_some());
    }
    assert_eq!(case.figures.len(), 2);
    assert_eq!(case.figures[0].median(Contender::Ferry), Some(5.0));
    assert_eq!(case.figures[0].median(Contender::Qemu), None);
    assert_eq!(case.figures[1].median(Contender::Ferry), None);
    assert_eq!(case.samples.len(), 3);
}

#[test]
fn what_is_shown_is_in_the_order_that_was_asked_for() {
    let mut section = Section::new("row", "a row");
    let case = section.case("a case").showing(&["downtime", "total time"]);
    case.attempt(Contender::Ferry, 1, || Ok(Sample(5.0)));
    assert_eq!(case.figures.iter().map(|figure| figure.name).collect::<Vec<_>>(), ["downtime", "total time"]);
    let case = section.case("another case").showing(&["downtime"]);
    case.attempt(Contender::Ferry, 1, || Ok(Sample(5.0)));
    assert_eq!((case.figures.len(), case.samples.len()), (1, 1));
}

#[test]
fn a_failure_is_noted_and_the_next_run_goes_on() {
    let mut section = Section::new("row", "a row");
    let case = section.case("a case");
    assert!(case.attempt(Contender::Qemu, 1, broken).is_none());
    assert!(case.attempt(Contender::Qemu, 2, || Ok(Sample(1.0))).is_some());
    assert!(case.attempt(Contender::Qemu, 3, broken).is_none());
    assert_eq!(case.notes, ["QEMU, run 1: cannot do it: it is full", "QEMU, run 3: cannot do it: it is full"]);
    assert!(!case.ferry_failed);
}

#[test]
fn who_fails_twice_in_a_row_is_left_out_and_nobody_else() {
    let mut section = Section::new("row", "a row");
    let case = section.case("a case");
    for run in [1, 2] {
        assert!(case.attempt(Contender::Ferry, run, broken).is_none());
    }
    assert!(case.ferry_failed);
    assert!(case.notes[1].ends_with("left out from here on"));
    assert!(case.attempt(Contender::Ferry, 3, || -> Result<Sample, _> { panic!("it is asked again") }).is_none());
    assert!(case.attempt(Contender::Qemu, 3, || Ok(Sample(1.0))).is_some());
}

#[test]
fn a_refusal_is_no_failure_and_is_not_repeated() {
    let mut section = Section::new("row", "a row");
    let case = section.case("a case");
    let refused = || -> Result<Sample, BenchError> {
        let (command, class) = ("migrate-set-capabilities".to_owned(), "GenericError".to_owned());
        let source = ClientError::Refused { command, class, desc: "there is no capability 'warp'".into() };
        Err(BenchError::Qmp { process: "ferry (source)".into(), source })
    };
    assert!(case.attempt(Contender::Ferry, 1, refused).is_none());
    assert!(case.attempt(Contender::Ferry, 2, || -> Result<Sample, _> { panic!("it is asked again") }).is_none());
    assert!(!case.ferry_failed);
    let note = "ferry is left out: it refuses migrate-set-capabilities: there is no capability 'warp'";
    assert_eq!(case.notes, [note]);
}
