//! Does what a cell is about, at its moment.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::actor::Actor;
use super::cell::{Side, What, When};
use super::stage::Stage;
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
}

impl Props {
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
            What::DiskLocked => props.disk = Some(Lock::wait_for(&self.image)),
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
            What::Reset if at_step => {
                self.relay.reset_all();
                let When::Step(side, _) = self.cell.when else { return Ok(()) };
                self.actor(side).ferry.thaw();
            }
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
        if !matches!(what, What::BlackHole(_)) {
            self.relay.release();
            // What was stalled to make the moment come.
            self.relay.heal();
        }
        Ok(())
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
            What::Quit(side) => self.actor(side).tell_to_quit(),
            What::SecondMigration => {
                let elsewhere = json!({ "uri": "tcp:127.0.0.1:9" });
                if self.source.ask("migrate", elsewhere).is_some() {
                    return Err("a second migration was accepted while one goes on".to_owned());
                }
            }
            What::GuestReboots | What::GuestShutsDown => {
                let serial = self.source.ferry.serial().to_owned();
                let word = if self.cell.what == What::GuestReboots { "ferry boot" } else { "ferry shutdown" };
                let wanted = if self.cell.what == What::GuestReboots { 2 } else { 1 };
                let said = || {
                    let text = std::fs::read_to_string(&serial).unwrap_or_default();
                    (text.matches(word).count() >= wanted).then_some(())
                };
                poll(SOON, said).ok_or("the guest did not end by itself")?;
            }
            _ => {}
        }
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
