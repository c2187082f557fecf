//! Bad input of every kind is answered with an error that names the item; the table is `ferry_tests::bad_input`.

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
fn qmp_requests() {
    check(qmp::rows);
}

#[test]
fn migration_streams() {
    check(stream::rows);
}
