//! One process of a cell, with what the harness did to it and when: [`Ferry`] as the runner needs
//! it, which never takes an answer for granted.

use std::time::{Duration, SystemTime};

use ferry_migration::info::{MigrationInfo, Status};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::evidence::{Event, Exit, Process, Role};
use super::oracles::leaks::more;
use crate::procfs::{self, Inventory};
use crate::wait::{poll, wait_for};
use crate::{Ferry, GuestLog};

/// For threads and descriptors of a migration that has ended.
const GOES: Duration = Duration::from_secs(3);
/// For what a process that is asked to end does, and for what the kernel does with its VM: it
/// waits for a worker, which a busy host may not run for ten seconds.
const END: Duration = Duration::from_secs(60);

/// For a process to take note of a signal, before it gets another.
const TAKES_NOTE: Duration = Duration::from_secs(1);

/// For the kernel to end a process that was killed.
const KILLED: Duration = Duration::from_secs(120);

/// A process of a cell.
#[derive(Debug)]
pub struct Actor {
    /// The process.
    pub ferry: Ferry,
    /// What it is for.
    pub role: Role,
    killed: Option<SystemTime>,
    frozen: Vec<(SystemTime, SystemTime)>,
    exit: Option<Exit>,
    before: Option<Inventory>,
    events: Vec<Value>,
    newest: Option<MigrationInfo>,
    /// Told to end by the operator.
    pub quit: bool,
}

/// What a process says of itself at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// It has ended.
    Ended,
    /// It answers nothing, or that it is about to end.
    Silent,
    /// Its migration's status, if it has one, and whether its guest runs.
    Answers(Option<Status>, bool),
}

impl Actor {
    /// Takes a process on, and looks at what it holds.
    #[must_use]
    pub fn new(mut ferry: Ferry, role: Role) -> Self {
        ferry.forget_events();
        let before = Inventory::of(ferry.pid()).ok();
        Actor {
            ferry,
            role,
            killed: None,
            frozen: vec![],
            exit: None,
            before,
            events: vec![],
            newest: None,
            quit: false,
        }
    }

    /// Looks again at what it holds: the migration under test begins now.
    pub fn begins(&mut self) {
        self.ferry.forget_events();
        self.before = Inventory::of(self.ferry.pid()).ok();
    }

    /// Asks how it is.
    pub fn view(&mut self) -> View {
        if self.has_ended() {
            return View::Ended;
        }
        let info = self.ask("query-migrate", json!({})).and_then(|value| serde_json::from_value(value).ok());
        let state = self.ask("query-status", json!({}));
        match (info, state) {
            (Some(info), Some(state)) => {
                let info: MigrationInfo = info;
                let status = info.status;
                self.newest = Some(info);
                match state["status"].as_str() {
                    // Its guest has ended, and it does next.
                    Some("shutdown") => View::Silent,
                    state => View::Answers(status, state == Some("running")),
                }
            }
            _ if self.has_ended() => View::Ended,
            _ => View::Silent,
        }
    }

    /// A command whose refusal is no matter. Whoever is stopped by a signal is not asked.
    pub fn ask(&mut self, command: &str, arguments: Value) -> Option<Value> {
        self.try_ask(command, arguments).ok()
    }

    /// As [`Actor::ask`], with why not.
    ///
    /// # Errors
    /// The refusal's text, or that there was nobody to ask.
    pub fn try_ask(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        if self.has_ended() {
            return Err("it has ended".to_owned());
        }
        if self.is_stopped() {
            return Err("it is stopped by a signal".to_owned());
        }
        self.ferry.try_qmp(command, arguments).map_err(|error| error.to_string())
    }

    /// The text of the last answer to `query-migrate`.
    #[must_use]
    pub fn error(&self) -> &str {
        self.newest.as_ref().and_then(|info| info.error_desc.as_deref()).unwrap_or_default()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        use std::os::unix::process::ExitStatusExt;
        if self.exit.is_none() {
            let at = SystemTime::now();
            self.exit =
                self.ferry.exit_status().map(|status| Exit { code: status.code(), signal: status.signal(), at });
        }
        self.exit.is_some()
    }

    /// Whether it ended by SIGKILL.
    #[must_use]
    pub fn was_killed(&self) -> bool {
        self.killed.is_some() || self.exit.is_some_and(|exit| exit.signal == Some(Signal::KILL.as_raw()))
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        self.drain_events();
        self.killed = Some(SystemTime::now());
        self.kill_for_sure();
    }

    /// A process that has SIGKILL executes nothing of its own any more: how long it takes to go is
    /// the kernel's matter.
    fn kill_for_sure(&mut self) {
        self.ferry.signal(Signal::KILL);
        wait_for(&format!("the kernel to end {}", self.ferry.label()), KILLED, || self.has_ended());
    }

    /// Stops it by a signal for a while. One that has stopped itself is stopped already.
    pub fn freeze(&mut self, meanwhile: impl FnOnce()) {
        let from = SystemTime::now();
        self.ferry.freeze();
        meanwhile();
        self.frozen.push((from, SystemTime::now()));
        self.ferry.thaw();
    }

    /// Whether it is stopped by a signal.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        procfs::is_stopped(self.ferry.pid())
    }

    /// Tells it to end.
    ///
    /// # Errors
    /// Why it does not.
    pub fn tell_to_quit(&mut self) -> Result<(), String> {
        self.drain_events();
        let answer = self.try_ask("quit", json!({})).map(drop);
        // One that ends may do so before it has answered.
        self.quit = answer.is_ok() || self.view() == View::Ended;
        if self.quit { Ok(()) } else { answer }
    }

    /// Ends it, one way or the other; true if it did so by itself.
    pub fn end(&mut self) -> bool {
        if !self.has_ended() {
            // A source that holds what the destination may need refuses; two signals end it all
            // the same. Any other that refuses does not end, which is a finding.
            let needed = matches!(self.view(), View::Answers(Some(Status::PostcopyPaused | Status::Uncertain), _));
            if self.tell_to_quit().is_err() && needed && self.role == Role::Source {
                // What such a process leaves behind is a killed one's.
                self.killed = Some(SystemTime::now());
                for _ in 0..2 {
                    self.ferry.signal(Signal::TERM);
                    let _ = poll(TAKES_NOTE, || self.has_ended().then_some(()));
                }
            }
        }
        let ended = poll(END, || self.has_ended().then_some(())).is_some();
        if !ended {
            self.kill_for_sure();
        }
        ended
    }

    /// Keeps the events that have come.
    pub fn drain_events(&mut self) {
        if !self.has_ended() {
            let _ = self.ask("query-status", json!({}));
        }
        self.events = self.ferry.known_events().to_vec();
    }

    /// What was seen of it.
    pub fn evidence(&mut self) -> Process {
        let answers = self.view();
        self.drain_events();
        let state = match answers {
            View::Answers(..) => self.ask("query-status", json!({})),
            View::Ended | View::Silent => None,
        };
        let after = self.holdings();
        Process {
            label: self.ferry.label().to_owned(),
            role: self.role,
            pid: self.ferry.pid(),
            killed: self.killed.or_else(|| self.exit.filter(|_| self.was_killed()).map(|exit| exit.at)),
            frozen: self.frozen.clone(),
            exit: self.exit,
            stderr: self.ferry.stderr(),
            events: self.events.iter().map(Event::from_qmp).collect(),
            final_info: self.newest.clone(),
            final_run_state: state.and_then(|state| Some(state["status"].as_str()?.to_owned())),
            serial: self.serial(),
            before: self.before.clone(),
            after,
        }
    }

    /// What it holds, once what a migration needed has had the time to go.
    fn holdings(&self) -> Option<Inventory> {
        if self.exit.is_some() {
            return None;
        }
        let look = || Inventory::of(self.ferry.pid()).ok();
        let clean = poll(GOES, || {
            look().filter(|after| self.before.as_ref().is_none_or(|before| more(before, after).is_empty()))
        });
        clean.or_else(look)
    }

    /// What its guest has said.
    #[must_use]
    pub fn serial(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.ferry.serial()).unwrap_or_default()).into_owned()
    }

    /// A reader of its guest's words from the beginning.
    #[must_use]
    pub fn guest(&self, cpus: u32) -> GuestLog {
        GuestLog::new(&self.ferry, cpus)
    }
}
