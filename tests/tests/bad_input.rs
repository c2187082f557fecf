//! Bad input of every kind is answered with an error that names the item; the table is
//! `ferry_tests::bad_input`.

use ferry_tests::bad_input::{Row, command_line, files, qmp, stream};
use ferry_tests::{Lab, bad_input};

fn check(rows: fn(&Lab) -> Vec<Row>) {
    let Some(lab) = Lab::new() else { return };
    let rows = rows(&lab);
    assert!(!rows.is_empty());
    if std::env::var_os("FERRY_PRINT_BAD_INPUT").is_some() {
        println!("{}", bad_input::markdown(&rows));
    }
    let wrong: Vec<_> = rows.iter().filter(|row| !row.is_right()).collect();
    assert!(wrong.is_empty(), "{} of {} answers are not as they should be: {wrong:#?}", wrong.len(), rows.len());
    let page = bad_input::page();
    let stale: Vec<_> = rows.iter().filter(|row| !is_on(&page, row)).map(Row::markdown).collect();
    assert!(
        stale.is_empty(),
        "docs/bad-input.md is stale, print it anew as it says. It has no line\n{}",
        stale.join("\n")
    );
    let on_page = page.lines().filter(|line| line.starts_with("| `") && in_group(&page, line, rows[0].group)).count();
    assert_eq!(on_page, rows.len(), "docs/bad-input.md has other rows under '{}'", rows[0].group);
}

/// Whether the page has this row. How a side notices that a stream has ended depends on which of
/// its threads is first, so of those only the input and what must be said are compared.
fn is_on(page: &str, row: &Row) -> bool {
    let line = row.markdown();
    if row.group != "Migration stream" {
        return page.lines().any(|on_page| on_page == line);
    }
    let input = line.split(" | ").next().expect("a line begins");
    page.lines().any(|on_page| on_page.starts_with(&format!("{input} | ")) && on_page.contains(&row.expected))
}

/// Whether `line` stands under the heading `group`.
fn in_group(page: &str, line: &str, group: &str) -> bool {
    let sections = page.split("\n## ");
    sections
        .filter(|section| section.starts_with(&format!("{group}\n")))
        .any(|section| section.lines().any(|l| l == line))
}

#[test]
fn options() {
    check(command_line::rows);
}

#[test]
fn kernel_images() {
    check(files::kernels);
}

#[test]
fn disk_images() {
    check(files::disks);
}

#[test]
fn files_to_write() {
    check(files::outputs);
}

#[test]
fn qmp_requests() {
    check(qmp::rows);
}

#[test]
fn migration_streams() {
    check(stream::rows);
}
