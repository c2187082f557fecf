//! Does what a cell is about, at its moment.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::actor::{Actor, View};
use super::cell::{Side, What, When};
use super::evidence::ContTried;
use super::plain::{Plain, Runs};
use super::stage::{Stage, replace};
use crate::disk::Lock;
use crate::ownership::Held;
use crate::relay::Spot;
use crate::wait::{SOON, poll};
use crate::{ownership, stranger};

/// How long a frozen process stands still.
const FROZEN: Duration = Duration::from_secs(10);

/// What goes on while the migration comes to its end, and is given up then.
#[derive(Debug, Default)]
pub struct Props {
    /// A third process that wants the disk's lock.
    disk: Option<Lock>,
    /// A third process that has the record's lock.
    record: Option<Held>,
    /// Strangers' connections.
    strangers: Vec<std::net::TcpStream>,
    /// Plain runs of the guest.
    runs: Option<Runs>,
}

impl Props {
    /// Whether a third process has the disk's lock.
    #[must_use]
    pub fn has_disk(&self) -> bool {
        self.disk.as_ref().is_some_and(Lock::is_taken)
    }

    /// Ends the plain runs, and returns what became of them.
    pub fn end_runs(&mut self) -> Vec<super::evidence::PlainRun> {
        self.runs.take().map(Runs::finish).unwrap_or_default()
    }

    /// Ends all of it; true if something was held that the processes may have waited for.
    pub fn strike(&mut self) -> bool {
        self.strangers.clear();
        let record = self.record.take().is_some();
        let disk = self.disk.take().is_some_and(|lock| {
            let taken = lock.is_taken();
            if taken {
                lock.release();
            }
            taken
        });
        record || disk
    }
}

impl Stage {
    /// What must be there before the migration begins.
    pub fn lay_out(&mut self) -> Props {
        let mut props = Props::default();
        match self.cell.what {
            What::PlainRuns => props.runs = Some(self.plain_run().run_on()),
            What::DiskLocked | What::LockedOut => props.disk = Some(Lock::wait_for(&self.image)),
            What::RecordLocked => props.record = Some(Held::of(&self.record())),
            What::RecordTorn => ownership::tear_next_write(&self.record()),
            _ => {}
        }
        props
    }

    /// The moment is there.
    pub fn act(&mut self, at: SystemTime, props: &mut Props) -> Result<(), String> {
        let what = self.cell.what;
        self.notes.broke(at, format!("{what} at {}", self.cell.when));
        let at_step = matches!(self.cell.when, When::Step(..));
        let thaws = at_step && !matches!(what, What::Kill(_) | What::Freeze(_));
        match what {
            What::Kill(side) if at_step => {
                let ended = poll(SOON, || self.actor(side).has_ended().then_some(()));
                ended.ok_or("the process did not die at the step")?;
            }
            What::Kill(side) => self.actor(side).kill(),
            What::Freeze(side) => {
                let Stage { source, destination, relay, notes, .. } = self;
                let actor: &mut Actor = if side == Side::Source { source } else { destination };
                actor.freeze(|| {
                    relay.release();
                    let _ = poll(FROZEN, || None::<()>);
                });
                notes.say(format!("the {side} goes on"));
            }
            What::Reset | What::LockedOut if at_step => self.relay.reset_all(),
            What::LockedOut => self.relay.reset_all(),
            What::Stall(lane, side) => {
                // What was stalled to make the moment come.
                self.relay.heal();
                self.relay.stall_lane(side.into(), lane);
            }
            What::PlainRun => {
                let run = self.plain_run().run(self.plain.len());
                self.notes.say(format!("the plain run: {}", run.says));
                self.plain.push(run);
            }
            What::PastRecord => {
                for past in self.plain_run().past_record() {
                    let run = past.run(self.plain.len());
                    self.notes.say(format!("the run past the record: {}", run.says));
                    self.plain.push(run);
                }
            }
            What::ImageGrows => crate::disk::grow(&self.image, 1 << 20),
            What::ImageReplaced if self.cell.when != When::Throughout => self.replace_image(),
            // After the break of a link half of something has arrived.
            What::Reset if self.cell.when == When::HalfPackage => self.relay.reset_all(),
            What::Close if self.cell.when == When::HalfPackage => self.relay.cut_all(),
            What::BlackHole(None) if self.cell.when == When::HalfPackage => self.relay.stall_all(),
            What::Stranger => {
                let (name, comes) = self.random.one_of(stranger::STRANGERS);
                self.notes.say(format!("the stranger {name}"));
                let target = self.relay.target();
                // A destination that has the guest listens no more.
                if stranger::somebody_listens(&target) {
                    props.strangers = comes(&target);
                }
            }
            _ => self.act_as_operator()?,
        }
        match what {
            What::BlackHole(_) => {}
            What::Stall(..) => self.relay.release(),
            _ => {
                self.relay.release();
                // What was stalled to make the moment come.
                self.relay.heal();
            }
        }
        if let (true, When::Step(side, _)) = (thaws, self.cell.when) {
            self.actor(side).ferry.thaw();
        }
        Ok(())
    }

    /// A plain run of the guest.
    #[must_use]
    pub fn plain_run(&self) -> Plain {
        Plain::of(&self.lab, &self.spec, &self.record())
    }

    fn replace_image(&mut self) {
        self.image = replace(&self.image);
        self.notes.say("a copy has taken the image's place");
    }

    /// Puts the image back in its place.
    pub fn put_image_back(&mut self) {
        let path = self.lab.path("disk.img");
        if self.image != path {
            std::fs::rename(&self.image, &path).expect("a file of the test can be moved");
            self.image = path;
        }
    }

    /// Says `cont` at the source, and notes what comes of it.
    pub fn try_cont(&mut self, must_run: bool, because: &str) {
        let answer = self.source.try_ask("cont", json!({})).map(drop).and_then(|()| {
            let running = poll(SOON, || matches!(self.source.view(), View::Answers(_, true)).then_some(()));
            running.ok_or_else(|| "it was accepted, and the guest does not run".to_owned())
        });
        self.notes.say(format!("cont at the source: {answer:?}"));
        self.conts.push(ContTried { must_run, because: because.to_owned(), answer });
    }

    fn act_as_operator(&mut self) -> Result<(), String> {
        match self.cell.what {
            What::Cancel => drop(self.source.ask("migrate_cancel", json!({}))),
            What::Stop => self.tell_who_has_the_guest("stop")?,
            What::StopCont => {
                self.tell_who_has_the_guest("stop")?;
                self.tell_who_has_the_guest("cont")?;
            }
            What::SystemReset => {
                // A guest between the two sides cannot be reset: that is said.
                if let Err(refused) = self.tell_who_has_the_guest("system_reset") {
                    self.notes.say(refused);
                }
            }
            What::Cont => {
                // Either may have no guest to run, or not any more: what becomes of the migration
                // is on trial.
                for (name, actor) in [("source", &mut self.source), ("destination", &mut self.destination)] {
                    let answer = actor.try_ask("cont", json!({}));
                    self.notes.say(format!("cont at the {name}: {:?}", answer.map(drop)));
                }
            }
            What::Quit(side) => self.quit(side)?,
            What::SecondMigration => {
                let elsewhere = json!({ "uri": "tcp:127.0.0.1:9" });
                if self.source.ask("migrate", elsewhere).is_some() {
                    return Err("a second migration was accepted while one goes on".to_owned());
                }
            }
            What::GuestReboots | What::GuestShutsDown => self.end_guest()?,
            _ => {}
        }
        Ok(())
    }

    /// Tells a process to end. A source whose pages are needed must not.
    fn quit(&mut self, side: Side) -> Result<(), String> {
        use ferry_migration::Status::{PostcopyActive, PostcopyPaused, PostcopyRecover};
        let before = self.actor(side).view();
        let accepted = self.actor(side).tell_to_quit();
        self.notes.say(format!("quit at the {side}: {accepted:?}"));
        let needed = matches!(before, View::Answers(Some(PostcopyActive | PostcopyPaused | PostcopyRecover), _));
        match (side, accepted) {
            (Side::Source, Ok(())) if needed => {
                Err("the source took a quit while the destination needs pages that only it has".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Types what ends the guest, where it is.
    fn end_guest(&mut self) -> Result<(), String> {
        // A guest that stands still for a page cannot end: what was stalled to make the moment
        // come goes on.
        self.relay.heal();
        let there = matches!(self.destination.view(), View::Answers(_, true));
        let actor = self.actor(if there { Side::Destination } else { Side::Source });
        let serial = actor.ferry.serial().to_owned();
        let (key, word) = match self.cell.what {
            What::GuestReboots => ("r", "ferry boot"),
            _ => ("q", "ferry shutdown"),
        };
        let actor = self.actor(if there { Side::Destination } else { Side::Source });
        let count = || std::fs::read_to_string(&serial).unwrap_or_default().matches(word).count();
        let before = count();
        actor.ferry.type_in(key);
        poll(SOON, || (count() > before).then_some(())).ok_or("the guest did not end by itself")?;
        Ok(())
    }

    /// An operator who knows where the guest is.
    fn tell_who_has_the_guest(&mut self, command: &str) -> Result<(), String> {
        let Err(source) = self.source.try_ask(command, json!({})) else { return Ok(()) };
        let Err(destination) = self.destination.try_ask(command, json!({})) else { return Ok(()) };
        Err(format!(
            "neither side took the operator's {command}: the source says '{source}', the destination '{destination}'"
        ))
    }

    /// Puts the frame of an earlier migration before the frame that is held.
    #[must_use]
    pub fn replays(&self) -> Option<Spot> {
        match (self.cell.what, self.cell.when) {
            (What::Replay, When::Frame(spot)) => Some(spot),
            _ => None,
        }
    }
}
