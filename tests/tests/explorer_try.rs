//! scratch
use ferry_migration::message::Handshake;
use ferry_tests::explorer::*;
#[test]
fn scratch() {
    for handshake in [Handshake::Setup, Handshake::Owned] {
        for postcopy in [false, true] {
            let mut s = Scenario::new(handshake, postcopy);
            for f in std::env::var("FAULTS").unwrap_or_default().split(',') {
                use Fault::*;
                for fault in [
                    Break,
                    BulkBreak,
                    Garble,
                    SourceCrash,
                    DestinationCrash,
                    FalseTimeout,
                    LoadFailure,
                    StartFailure,
                    SaveFailure,
                    Outage,
                    LostReply,
                    FaultsDeath,
                    Foreign,
                    Cancel,
                    Pause,
                    StartPostcopy,
                ] {
                    if format!("{fault:?}") == f {
                        s = s.with(fault, 1);
                    }
                }
            }
            let r = explore(&s, Limits::whole(5_000_000));
            println!(
                "== {handshake:?} postcopy {postcopy}: worlds {} transitions {} depth {} {:?} {}MB complete {}",
                r.worlds,
                r.transitions,
                r.depth,
                r.elapsed,
                r.memory_bytes >> 20,
                r.is_complete
            );
            for (i, f) in &r.findings {
                println!("{i:?}: {}\n{}", f.why, f.trace);
            }
        }
    }
}
