//! `ferry status`: one readable block about a Ferry process, or the same as JSON.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use ferry_devices::fault::{Direction, FaultControl};
use ferry_migration::{MigrationInfo, Status};
use ferry_qmp::client::Client;
use ferry_record::OwnershipInfo;
use ferry_record::file::{FileRecord, LOCK_TIMEOUT};
use serde_json::{Value, json};

use super::style::Style;
use super::{CliError, QMP_TIMEOUT, print, qmp_path, summary, units};

/// The options of `ferry status`.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// QMP socket of the process
    #[arg(long, value_name = "unix:PATH", value_parser = qmp_path, required_unless_present = "ownership")]
    qmp: Option<PathBuf>,
    /// Show an ownership record by itself, without any process
    #[arg(long, value_name = "file:PATH", value_parser = record_path, conflicts_with = "qmp")]
    ownership: Option<PathBuf>,
    /// Print JSON: name, status, migration and ownership as QMP has them
    #[arg(long)]
    json: bool,
}

/// Runs `ferry status`.
pub(super) fn run(options: &Options) -> Result<(), CliError> {
    let Some(qmp) = &options.qmp else { return show_record(options) };
    let mut client = Client::connect(qmp, QMP_TIMEOUT)?;
    let name = client.execute("query-name", json!({}))?["name"].take();
    let run_state = client.execute("query-status", json!({}))?["status"].take();
    let migration = client.execute("query-migrate", json!({}))?;
    let ownership = client.execute("x-ferry-query-ownership", json!({}))?;
    if options.json {
        let all = json!({ "name": name, "status": run_state, "migration": migration, "ownership": ownership });
        return print(&format!("{all:#}"));
    }
    let ownership = serde_json::from_value::<OwnershipInfo>(ownership).ok();
    let info: MigrationInfo = serde_json::from_value(migration.clone())
        .map_err(|error| CliError::failed("the reply to 'query-migrate' is not understood", error))?;
    let listening = migration.get("socket-address").and_then(|all| all.get(0)).map(socket_address);
    let mut text =
        block(name.as_str().unwrap_or_default(), run_state.as_str().unwrap_or("unknown"), &info, listening.as_deref());
    if let Some(ownership) = ownership {
        text.push_str(&owner(&ownership));
    }
    print(&text)
}

/// Shows a record by itself, without a process.
fn show_record(options: &Options) -> Result<(), CliError> {
    let path = options.ownership.clone().unwrap_or_default();
    let faults = Arc::new(FaultControl::new(Direction::Outgoing));
    let info = OwnershipInfo::read(&FileRecord::new(path, LOCK_TIMEOUT, faults), None);
    print(&if options.json { format!("{:#}", json!(info)) } else { owner(&info) })?;
    match info.error {
        Some(error) => Err(CliError::Failed(error)),
        None => Ok(()),
    }
}

/// Who owns the guest, by its record.
fn owner(info: &OwnershipInfo) -> String {
    let style = Style::stdout();
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {} {value}", style.dim(&format!("{name:<10}")));
    };
    line("record", &info.place);
    if let Some(error) = &info.error {
        line("", &style.bad(error));
    }
    if let Some(why) = &info.may_run_twice {
        line("", &style.bad(why));
    }
    if let (Some(owner), Some(generation), Some(settled)) = (&info.owner, info.generation, info.settled) {
        let here = if info.owned_here == Some(true) { " (this process)" } else { "" };
        let state = if settled { "" } else { ", a hand-over is under way" };
        line("owner", &format!("{}{here}, generation {generation}{state}", style.bold(owner)));
    }
    if let Some(partner) = &info.partner {
        line("partner", &format!("{partner}, which may take the guest over"));
    }
    text
}

fn record_path(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("file:") {
        Some(path) if !path.is_empty() => Ok(path.into()),
        _ => Err("write file:PATH".into()),
    }
}

fn block(name: &str, run_state: &str, info: &MigrationInfo, listening: Option<&str>) -> String {
    let style = Style::stdout();
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {} {value}", style.dim(&format!("{name:<10}")));
    };
    line("guest", &style.bold(name));
    line("state", run_state);
    if let Some(at) = listening {
        line("listening", at);
    }
    let status = info.status.unwrap_or_default();
    let painted = match status {
        Status::Completed => style.good(status.as_str()),
        Status::Failed | Status::Uncertain => style.bad(status.as_str()),
        _ => status.as_str().to_owned(),
    };
    let direction = info.x_ferry_direction.as_deref().map(|direction| format!(" ({direction})")).unwrap_or_default();
    let since = info.total_time.map(|ms| format!(", {}", units::millis(ms))).unwrap_or_default();
    line("migration", &format!("{painted}{direction}{since}"));
    if let Some(ram) = info.ram.as_ref().filter(|_| status.is_active()) {
        line("memory", &format!("{} of {} left", units::bytes(ram.remaining), units::bytes(ram.total)));
    }
    if let Some(error) = &info.error_desc {
        line("error", &style.bad(error));
    }
    summary::numbers(&mut text, info, style);
    text
}

fn socket_address(address: &Value) -> String {
    let text = |name: &str| address[name].as_str().unwrap_or("?").to_owned();
    match address["type"].as_str() {
        Some("unix") => format!("unix:{}", text("path")),
        _ => format!("tcp:{}:{}", text("host"), text("port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_may_run_twice_is_shown_with_its_owner() {
        let why = "the guest may run twice".to_owned();
        let info = OwnershipInfo {
            place: "file:/a.owner".into(),
            error: None,
            may_run_twice: Some(why.clone()),
            vm: Some("vm".into()),
            generation: Some(3),
            owner: Some("host:7 (0)".into()),
            owned_here: Some(false),
            partner: Some("host:8 (1)".into()),
            settled: Some(false),
        };
        let text = owner(&info);
        assert!(text.contains(&why) && text.contains("host:7") && text.contains("host:8"), "{text}");
        assert_eq!(json!(info)["may-run-twice"], json!(why));
    }

    #[test]
    fn the_block_holds_the_reason_of_a_failure() {
        let info = MigrationInfo {
            status: Some(Status::Failed),
            error_desc: Some("fault/0: told to fail in load".into()),
            x_ferry_direction: Some("outgoing".into()),
            ..MigrationInfo::default()
        };
        let text = block("vm1", "running", &info, None);
        for part in ["vm1", "running", "failed", "(outgoing)", "fault/0: told to fail in load"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
