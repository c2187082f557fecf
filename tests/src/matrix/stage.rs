//! The stage of a cell: a source with a guest that works on memory and a disk, a destination, a
//! relay between the two, and the third party that watches.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferry_guest::workload::{Order, Rate};
use ferry_migration::Handshake;
use ferry_migration::info::Status;
use ferry_qmp::client::Client;
use serde_json::{Value, json};

use super::actor::{Actor, View};
use super::catalogue::stalls::BULK_LINKS;
use super::cell::{Cell, Mode, Side, What, When};
use super::evidence::{ContTried, PlainRun, Reason, Role};
use super::note::Notes;
use super::watch::{Sampler, Strain, disk};
use crate::random::Random;
use crate::relay::{Relay, Spot};
use crate::wait::{LONG, wait_until};
use crate::{Ferry, GuestLog, Lab, Spec};

/// What a side waits for an answer, for a load, or for a sign of life.
pub const DEADLINE: Duration = Duration::from_millis(1500);
/// Bytes of the disk image.
const IMAGE: u64 = 256 << 10;
/// The bandwidth while a moment is awaited, so that there is something left to be sent.
const SLOW: u64 = 8 << 20;

/// A cell's stage.
#[derive(Debug)]
pub struct Stage {
    /// Which cell.
    pub cell: Cell,
    /// Chooses what the cell leaves open.
    pub random: Random,
    /// The seed of it all.
    pub seed: u64,
    /// What the machines are made of.
    pub spec: Spec,
    /// The disk image that the guest began with; its path changes when another takes its place.
    pub image: PathBuf,
    record: PathBuf,
    /// Has the guest.
    pub source: Actor,
    /// Is to get it.
    pub destination: Actor,
    /// Between the two.
    pub relay: Relay,
    /// The processes' CPU time.
    pub sampler: Sampler,
    /// Who writes into the image.
    pub writes: Result<disk::Watch, String>,
    /// What the harness did.
    pub notes: Notes,
    /// Plain runs of the same guest beside the migration.
    pub plain: Vec<PlainRun>,
    /// What became of `cont` where the migration had ended.
    pub conts: Vec<ContTried>,
    /// What the sides gave as the reason while the migration had come to rest.
    pub reasons: Vec<Reason>,
    /// A destination that waits for another guest, with the relay to the right one while this one
    /// has its place.
    pub wrong: Option<(Ferry, Relay)>,
    /// The migration under test has begun.
    pub begun: bool,
    /// What was broken works again.
    pub mended: bool,
    asked_for_postcopy: bool,
    at_full_speed: bool,
    /// The last to go, so that a failed cell's files can be kept.
    pub lab: Lab,
}

impl Stage {
    /// Sets the stage: the guest runs, nothing has begun. `None` where KVM is skipped.
    ///
    /// # Panics
    /// When a process does not start.
    #[must_use]
    pub fn set(cell: &Cell, seed: u64, strain: Arc<Strain>) -> Option<Self> {
        let lab = Lab::new()?;
        lab.observe(move |label, pid| strain.watch(label, pid));
        let mut random = Random(seed);
        let image = crate::disk::image(&lab, "disk.img", IMAGE);
        let spec = spec(cell, &mut random).disk(&image);
        let source = lab.start(&spec);
        let mut guest = GuestLog::new(&source, spec.cpus);
        guest.wait_ready();
        guest.wait_reports(1);
        let first = match (cell.what, cell.when) {
            (What::ImageReplaced, When::Throughout) => replace(&image),
            _ => image.clone(),
        };
        let mut of_destination = spec_of_destination(cell, &spec, &mut random);
        if cell.what == What::ImageOther {
            of_destination = of_destination.disk(&crate::disk::image(&lab, "other.img", IMAGE));
        }
        let destination = lab.start_destination(&of_destination);
        let relay = Relay::new(&destination.wait_listening(), None);
        let record = image.with_extension("img.owner");
        let writes = disk::Watch::start(&first, (cell.handshake == Handshake::Owned).then(|| record.clone()));
        let sampler = Sampler::start();
        let source = Actor::new(source, Role::Source);
        let destination = Actor::new(destination, Role::Destination);
        sampler.watch(0, source.ferry.pid());
        sampler.watch(1, destination.ferry.pid());
        Some(Stage {
            cell: cell.clone(),
            random,
            seed,
            spec,
            image: first,
            record,
            source,
            destination,
            relay,
            sampler,
            writes,
            notes: Notes::new(),
            plain: Vec::new(),
            conts: Vec::new(),
            reasons: Vec::new(),
            wrong: None,
            begun: false,
            mended: false,
            asked_for_postcopy: false,
            at_full_speed: false,
            lab,
        })
    }

    /// Where the ownership record is.
    #[must_use]
    pub fn record(&self) -> PathBuf {
        self.record.clone()
    }

    /// Sets what a migration of this cell needs.
    pub fn prepare(&mut self) {
        let postcopy = self.cell.mode != Mode::Precopy;
        if postcopy {
            self.source.ferry.allow_postcopy();
        }
        // Every lever of speed keeps the promises of safety.
        let channels = self.random.one_of(&[1, 2, 3]);
        // The last of several must be there to stall.
        let channels = if matches!(self.cell.what, What::Stall(..)) { BULK_LINKS } else { channels };
        if channels > 1 {
            self.source.ferry.use_channels(channels);
        }
        if self.random.one_of(&[true, false]) {
            self.source.ferry.switch_on("auto-converge");
        }
        let stalls = matches!(self.cell.what, What::Stall(..));
        // A slow link would never come to its last pages in precopy.
        let stalls = stalls && !matches!(self.cell.when, When::Step(..));
        let slow = postcopy || stalls || self.wants_rounds();
        // Compressed, the guest's pages would be gone before their moment comes.
        if !slow && self.random.one_of(&[true, false]) {
            self.source.ferry.set_parameters(json!({ "x-ferry-compression": "lz4" }));
        }
        if self.cell.handshake == Handshake::Setup && self.cell.has_record() {
            self.source.ferry.set_parameters(json!({ "x-ferry-handshake": "setup" }));
        }
        // What is waited for while a frame is held must not be what breaks the migration.
        let deadline = match self.cell.what {
            What::GuestReboots | What::GuestShutsDown => 3 * DEADLINE,
            What::PlainRun | What::PlainRuns | What::PastRecord => 8 * DEADLINE,
            _ => DEADLINE,
        };
        let ms = deadline.as_millis();
        self.source.ferry.set_parameters(json!({
            "max-bandwidth": if stalls && postcopy { SLOW / 4 } else if slow { SLOW } else { 0 }, "downtime-limit": if slow { 1 } else { 300 },
            "x-ferry-setup-timeout-ms": ms, "x-ferry-load-timeout-ms": ms, "x-ferry-heartbeat-timeout-ms": ms,
        }));
    }

    /// Whether the migration is completed on both sides.
    pub fn went_well(&mut self) -> bool {
        let completed = |view: View| matches!(view, View::Answers(Some(Status::Completed), _));
        let destination = completed(self.destination.view());
        completed(self.source.view()) && destination
    }

    /// Begins the migration under test.
    pub fn begin(&mut self) {
        self.begun = true;
        self.source.begins();
        self.destination.begins();
        self.notes.say("the migration begins");
        self.tell_source("migrate", json!({ "uri": self.relay.uri() }));
    }

    /// Tells the source to do something, which shows in what becomes of the migration. A source
    /// that is to freeze at a step may do so before it answers. Whether it was accepted, as far as
    /// that is known.
    fn tell_source(&mut self, command: &'static str, arguments: Value) -> bool {
        if !matches!(self.cell.when, When::Step(Side::Source, _)) {
            return self.source.ask(command, arguments).is_some();
        }
        let client = Client::connect(self.source.ferry.qmp_path(), LONG);
        client.map(|mut client| std::thread::spawn(move || client.execute(command, arguments))).is_ok()
    }

    /// Whether the moment lies behind the first round of a precopy.
    fn wants_rounds(&self) -> bool {
        match self.cell.when {
            When::Frame(Spot::Message("Heartbeat" | "Cancel")) => true,
            When::Frame(Spot::Pages(number)) => number > 0,
            _ => false,
        }
    }

    /// Does what an operator does while a migration goes on: asks for postcopy, and lets it end.
    pub fn tend(&mut self, in_a_hurry: bool) {
        // A round that postcopy ends at once has none of these.
        let of_a_round = matches!(
            self.cell.when,
            When::Frame(Spot::Pages(0) | Spot::Marker | Spot::Message("MarkerReached" | "Heartbeat"))
        );
        let waits = of_a_round && self.cell.mode == Mode::Postcopy && self.notes.broken.is_none();
        let wants_postcopy = self.cell.mode != Mode::Precopy && !self.asked_for_postcopy && !waits;
        if !wants_postcopy && (self.at_full_speed || !in_a_hurry) {
            return;
        }
        // A source that is about to stand still before it goes on to `active` would keep the one
        // who asks it waiting.
        let early = matches!(self.cell.when, When::Step(Side::Source, "Connect" | "WriteNonce"));
        let stands_early = early && self.cell.mode != Mode::Recovered;
        if stands_early && self.notes.broken.is_none() {
            return;
        }
        let View::Answers(Some(status), _) = self.source.view() else { return };
        if wants_postcopy && status == Status::Active {
            self.asked_for_postcopy = self.tell_source("migrate-start-postcopy", json!({}));
        }
        let early = matches!(status, Status::Setup | Status::Active) && self.cell.mode != Mode::Precopy;
        if in_a_hurry && !early {
            self.at_full_speed = self
                .source
                .ask("migrate-set-parameters", json!({ "max-bandwidth": 0, "downtime-limit": 300 }))
                .is_some();
        }
    }

    /// Waits until both sides are in `postcopy-active`, breaks the links, and waits until both
    /// have noticed.
    ///
    /// # Panics
    /// When they do not get there.
    pub fn break_postcopy(&mut self) {
        self.wait_both(Status::PostcopyActive);
        self.notes.say("all links are cut");
        self.relay.cut_all();
    }

    /// Waits until both sides have this status.
    ///
    /// # Panics
    /// When they do not get there.
    pub fn wait_both(&mut self, wanted: Status) {
        wait_until(&format!("both sides to be in {}", wanted.as_str()), LONG, || {
            self.tend(false);
            let is = |view: View| matches!(view, View::Answers(Some(status), _) if status == wanted);
            (is(self.source.view()) && is(self.destination.view())).then_some(())
        });
    }

    /// Puts a destination that waits for another guest, behind a relay of its own, in the place of
    /// the right one; the second time puts the right one back.
    pub fn swap_destination(&mut self) {
        let (ferry, mut relay) = self.wrong.take().unwrap_or_else(|| {
            let ferry = self.lab.start_destination(&self.spec.clone().name("another"));
            let relay = Relay::new(&ferry.wait_listening(), None);
            (ferry, relay)
        });
        std::mem::swap(&mut self.relay, &mut relay);
        self.wrong = Some((ferry, relay));
    }

    /// Reconnects a paused postcopy.
    pub fn resume(&mut self) {
        self.notes.say("the operator resumes the migration");
        self.tell_source("migrate", json!({ "uri": self.relay.uri(), "resume": true }));
    }
}

/// Puts a copy in the place of an image, as tools do that write a new file and rename it; returns
/// where the first one is now.
///
/// # Panics
/// When the files cannot be moved and copied.
#[must_use]
pub fn replace(image: &Path) -> PathBuf {
    let aside = image.with_extension("img.first");
    let moved = std::fs::rename(image, &aside).and_then(|()| std::fs::copy(&aside, image));
    moved.expect("a file of the test can be moved and copied");
    aside
}

fn spec(cell: &Cell, random: &mut Random) -> Spec {
    let mut spec = Spec::new().cpus(cell.cpus).memory(&memory("32M", random)).workload(|load| {
        load.working_set = random.one_of(&[4, 8]) << 20;
        load.rate = Rate::BytesPerSecond(random.one_of(&[8, 16]) << 20);
        load.order = random.one_of(&[Order::Seq, Order::Rand]);
        load.report_ms = 50;
        load.seed = 1 + random.below(1 << 32);
    });
    spec.console = cell.guest_ends();
    if !cell.has_record() {
        spec.more = vec!["--ownership".into(), "none".into()];
    }
    spec
}

fn spec_of_destination(cell: &Cell, spec: &Spec, random: &mut Random) -> Spec {
    let size = match cell.when {
        When::Frame(Spot::Message("Refused")) => "48M",
        _ => "32M",
    };
    spec.clone().memory(&memory(size, random))
}

/// As `--memory` takes it: each side has its own.
fn memory(size: &str, random: &mut Random) -> String {
    let (backing, prealloc) = (random.one_of(&["memfd", "anon"]), random.one_of(&["off", "off", "on"]));
    format!("{size},backing={backing},prealloc={prealloc}")
}

/// Longest that a moment is waited for.
pub const MOMENT: Duration = Duration::from_secs(30);
