//! Makes the moment of a cell come, and tells when it is there: a plan of the relay for a frame, a
//! fault point for a step, and what provokes a moment that a migration in which all goes well does
//! not have.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use ferry_migration::info::Status;

use super::actor::{Actor, View};
use super::cell::{Cell, Mode, Side, What, When};
use super::stage::{DEADLINE, MOMENT, Stage};
use crate::relay::{self, Fault, Spot};
use crate::wait::poll;

/// Why a cell broke off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The migration was over before the cell's moment, so nothing was shown.
    NeverCame(String),
    /// Something else than was to be.
    Off(String),
}

impl From<String> for Broken {
    fn from(why: String) -> Self {
        Broken::Off(why)
    }
}

/// When the plan or the rule is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before the migration begins.
    First,
    /// When a postcopy is active and about to be broken.
    BeforeTheBreak,
    /// When a broken postcopy is about to be resumed.
    BeforeTheResume,
}

impl Stage {
    /// When the moment of this cell is prepared.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match (self.cell.mode, self.cell.when) {
            (Mode::Recovered, When::Step(_, "Paused")) => Phase::BeforeTheBreak,
            (Mode::Recovered, _) => Phase::BeforeTheResume,
            _ => Phase::First,
        }
    }

    /// Prepares the moment.
    pub fn arm(&mut self) {
        match self.cell.when {
            When::Frame(spot) => {
                let fault = self.fault();
                if self.cell.mode == Mode::Recovered {
                    self.relay.plan_for_new_connections(spot, fault);
                } else {
                    self.relay.set_plan(spot, fault);
                }
            }
            When::HalfPackage => self.relay.set_plan(Spot::Message("Package"), Fault::HoldHalf),
            When::Step(side, name) => {
                let action = if matches!(self.cell.what, What::Kill(_)) { "kill" } else { "freeze" };
                let rule = json!({ "at": format!("step:{name}"), "do": action, "times": 1 });
                self.actor(side).ferry.set_fault(rule);
            }
            When::Throughout => {
                if let What::Rule(side, rule) = self.cell.what {
                    let mut value = json!({ "at": rule.at, "do": rule.action });
                    if let Some(of) = rule.of {
                        value["of"] = Value::from(of);
                    }
                    self.actor(side).ferry.set_fault(value);
                }
            }
        }
    }

    /// What the relay does to the frame by itself, or that it holds it until the harness has done
    /// the rest.
    fn fault(&mut self) -> Fault {
        let Stage { cell, random, .. } = self;
        match cell.what {
            What::Reset => Fault::Reset,
            What::Close => Fault::Cut,
            What::BlackHole(None) => Fault::Stall,
            What::BlackHole(Some(side)) => Fault::StallOnly(Some(side.into()), None),
            What::Delay => Fault::Delay(DEADLINE * 3),
            What::Trickle => Fault::Trickle,
            // Headers only: of what lies behind them, the data of pages has no checksum but TCP's.
            What::FlipBit => Fault::Corrupt(random.below(20) as usize),
            What::Truncate => Fault::Truncate(1 + random.below(19) as usize),
            What::Duplicate => Fault::Repeat,
            What::Lose => Fault::Lose,
            // It comes while the frame passes: to hold it would be a fault of its own.
            What::Stranger => Fault::Delay(Duration::ZERO),
            // What the earlier migration said is known later.
            _ => Fault::Hold,
        }
    }

    /// Sets what leads to a moment that nobody meets in good weather.
    pub fn provoke(&mut self) {
        let fail = |at: &str| json!({ "at": at, "do": "fail" });
        match self.cell.when {
            When::Frame(Spot::Message("RehearsalFailed")) => self.destination.ferry.set_fault(fail("load")),
            When::Frame(Spot::Message("LoadFailed")) | When::Step(Side::Source, "ResumeGuest" | "Settle") => {
                self.source.ferry.set_parameters(json!({ "x-ferry-rehearsal": false }));
                self.destination.ferry.set_fault(fail("load"));
            }
            When::Frame(Spot::Message("NotStarted")) | When::Step(_, "GiveBack") => {
                let rule = json!({ "at": "disk:lock", "do": "errno:EIO", "in": "incoming" });
                self.destination.ferry.set_fault(rule);
            }
            When::Step(Side::Source, "TakeBack") => self.relay.set_plan(Spot::Message("Permit"), Fault::Reset),
            _ => {}
        }
    }

    /// Waits for the moment. An error: it did not come, and nothing was done to the migration.
    pub fn await_moment(&mut self) -> Result<SystemTime, Broken> {
        let cell = self.cell.clone();
        if cell.when == When::Throughout {
            return Ok(SystemTime::now());
        }
        let hurry = comes_late(&cell);
        let mut provoked = false;
        let there = poll(MOMENT, || {
            self.tend(hurry && provoked);
            provoked = provoked || self.provoke_on_the_way();
            self.moment_is_there(cell.when)
        });
        there.ok_or_else(|| {
            let (source, destination) = (self.source.view(), self.destination.view());
            Broken::NeverCame(format!(
                "the moment never came: the source is {source:?}, the destination {destination:?}"
            ))
        })
    }

    /// What leads to the moment when the migration has come so far; true once it is done.
    fn provoke_on_the_way(&mut self) -> bool {
        match self.cell.when {
            // Before there is a destination to be told, nobody is.
            When::Frame(Spot::Message("Cancel")) => {
                let active = matches!(self.source.view(), View::Answers(Some(Status::Active), _));
                active && self.source.ask("migrate_cancel", json!({})).is_some()
            }
            When::Step(Side::Destination, "LoseGuest") => {
                let active = matches!(self.destination.view(), View::Answers(Some(Status::PostcopyActive), _));
                let rule = json!({ "at": "USERFAULTFD_READ", "do": "fail" });
                active && self.destination.ask("x-ferry-fault-set", rule).is_some()
            }
            // Some page that was asked for must come after the source has said that it has sent
            // all.
            When::Frame(Spot::Message("Drained")) => {
                let active = matches!(self.destination.view(), View::Answers(Some(Status::PostcopyActive), _));
                if active {
                    self.relay.stall(Some(relay::Side::Source), Some(relay::Link::Urgent));
                }
                active
            }
            _ => true,
        }
    }

    fn moment_is_there(&mut self, when: When) -> Option<SystemTime> {
        match when {
            When::Frame(_) | When::HalfPackage => self.relay.fired(),
            When::Step(side, _) => {
                let actor = self.actor(side);
                (actor.has_ended() || actor.is_stopped()).then(SystemTime::now)
            }
            When::Throughout => Some(SystemTime::now()),
        }
    }

    /// The process of a side.
    pub fn actor(&mut self, side: Side) -> &mut Actor {
        match side {
            Side::Source => &mut self.source,
            Side::Destination => &mut self.destination,
        }
    }
}

/// Whether the moment lies at the end of a migration, which must get there.
fn comes_late(cell: &Cell) -> bool {
    matches!(
        cell.when,
        When::Frame(Spot::Message("Drained" | "DrainedAck")) | When::Step(_, "CloseLinks" | "Finish" | "Settle")
    )
}

impl From<Side> for relay::Side {
    fn from(side: Side) -> Self {
        match side {
            Side::Source => relay::Side::Source,
            Side::Destination => relay::Side::Destination,
        }
    }
}
