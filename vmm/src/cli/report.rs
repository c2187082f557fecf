//! `ferry report`: makes a page, and JUnit XML, from the files of a run of the fault matrix or of a
//! traced migration.

use std::path::{Path, PathBuf};

use clap::Args;
use ferry_observe::output_file::{self, Purpose};

use super::{CliError, print};

/// The options of `ferry report`.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// A fault matrix, or its shards; or the traces of one migration, from one side or both
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where the page goes; beside the first file, with the ending html, when left out
    #[arg(short, long, value_name = "OUT.html")]
    out: Option<PathBuf>,
    /// Also write the verdicts of a matrix as JUnit XML
    #[arg(long, value_name = "OUT.xml")]
    junit: Option<PathBuf>,
}

/// Runs `ferry report`.
pub(super) fn run(options: &Options) -> Result<(), CliError> {
    let report = ferry_report::read(&options.files).map_err(CliError::because)?;
    let out = options.out.clone().unwrap_or_else(|| options.files[0].with_extension("html"));
    if options.files.contains(&out) {
        return Err(CliError::Usage(format!(
            "{} would be overwritten: give the page a name with --out",
            out.display()
        )));
    }
    if let Some(path) = &options.junit {
        write(path, Purpose::JUnit, &report.junit().map_err(CliError::because)?)?;
    }
    write(&out, Purpose::Page, &report.html())?;
    print(&out.display().to_string())
}

/// The path may be that of any file: only a file from an earlier report is replaced.
fn write(path: &Path, purpose: Purpose, text: &str) -> Result<(), CliError> {
    output_file::replace(path, purpose, text).map_err(CliError::because)
}
