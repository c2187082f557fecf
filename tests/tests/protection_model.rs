//! The Promela model of continuous checkpoints, checked by spin where spin is installed: a second
//! statement of the protocol. Its broken variants must be caught.

use std::path::Path;

use ferry_tests::model::{self, Case};

/// Both sides have a history that the other contradicts.
const KEPT: &str = "shown<=from";
/// A partner has something to go on from.
const READY: &str = "committed>0";

#[test]
fn spin_finds_no_error_but_in_the_broken_variants() {
    if !model::is_there() {
        return;
    }
    let epochs = std::env::var("FERRY_MODEL_EPOCHS").unwrap_or_else(|_| "2".to_owned());
    for broken in 0..=9 {
        let breaks = match broken {
            0 => None,
            4 => Some(READY),
            _ => Some(KEPT),
        };
        let settings = format!("-DBROKEN={broken} -DEPOCHS={epochs}");
        // Processes that wait for ever are the explorer's: it knows what may still come.
        let case = Case { model: "protection.pml", settings, arguments: &["-E"], breaks };
        model::check(&case, &Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("protection-model-{broken}")));
    }
}
