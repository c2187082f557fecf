//! `ferry report`: makes a page, and JUnit XML, of what a run of the fault matrix or a traced migration has left behind.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{CliError, say};
use crate::report;

/// The options of `ferry report`.
#[derive(Args, Debug)]
pub struct Options {
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
pub fn run(options: &Options) -> Result<(), CliError> {
    let report = report::read(&options.files).map_err(CliError::because)?;
    if let Some(path) = &options.junit {
        write(path, &report.junit().map_err(CliError::because)?)?;
    }
    let out = options.out.clone().unwrap_or_else(|| options.files[0].with_extension("html"));
    if options.files.contains(&out) {
        return Err(CliError::Usage(format!(
            "{} would be overwritten: give the page a name with --out",
            out.display()
        )));
    }
    write(&out, &report.html())?;
    say(&out.display().to_string());
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), CliError> {
    std::fs::write(path, text)
        .map_err(|error| CliError::failed(&format!("{} cannot be written", path.display()), error))
}
