//! The table of handshakes in `docs/protocol-results.md` says what the explorer finds, no more and
//! no less.

use ferry_tests::explorer::variants::{compare, mode, table_bounds};
use ferry_tests::explorer::{Invariant, variants};

const MOST_WORLDS: usize = 2_000_000;

#[test]
fn each_variant_breaks_what_it_is_known_to_break_and_the_document_says_so() {
    let rows = compare(table_bounds(), MOST_WORLDS);
    for row in &rows {
        let name = format!("{}, {}", row.variant.name, mode(row.postcopy));
        assert!(row.report.is_complete, "{name}: more than {MOST_WORLDS} worlds");
        let broken: Vec<Invariant> = row.report.findings.keys().copied().collect();
        let expected = row.variant.breaks[usize::from(row.postcopy)];
        assert_eq!(broken, expected, "{name}:\n{}", variants::traces(std::slice::from_ref(row)));
    }
    let found = ferry_tests::explorer::results::document(&rows);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol-results.md");
    let written = std::fs::read_to_string(path).expect("docs/protocol-results.md is there");
    assert!(
        written == found,
        "docs/protocol-results.md is not what the explorer finds now; make it anew with: \
         cargo run -p ferry-tests --bin ferry-explore -- results > docs/protocol-results.md"
    );
}
