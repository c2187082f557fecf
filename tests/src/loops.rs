//! Plain `ferry run`s, one after the other without an end, beside migrations to and fro that are
//! killed, cut and cancelled at random: for `ferry-loops`, `ci/matrix --loops` and a short test.
//!
//! The disk has one history in every case: at each moment one process may write it, which the
//! record names; every plain run is refused as long as a process has the guest; and what is on the
//! disk at the end are whole stamps of this guest. A guest that was killed with its process is
//! lost: then, and only then, a plain run may boot, and the operator, who knows that both sides
//! are dead, boots it anew.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use ferry_guest::workload::Rate;
use ferry_migration::info::Status;
use serde_json::json;

use crate::matrix::actor::{Actor, View};
use crate::matrix::evidence::{PlainRun, Role};
use crate::matrix::oracles::{disk_log, plain_run};
use crate::matrix::plain::{Plain, Runs};
use crate::matrix::watch::disk::Watch;
use crate::random::Random;
use crate::wait::{LONG, SOON, poll};
use crate::{Ferry, GuestLog, Lab, Relay, Spec, disk};

/// How long a side may be silent, and what is done on the way may take.
const DEADLINE_MS: u64 = 1500;
/// Nothing is done to a migration later than this after its beginning.
const MOST_MS: u64 = 700;
/// The record, which answers, has given the guest back within so long, or it does not.
const UNCERTAIN: Duration = Duration::from_secs(5);

/// What is done to a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    Nothing,
    KillSource,
    KillDestination,
    Cut,
    Reset,
    Cancel,
}

/// Where a migration has left the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Source,
    Destination,
    Lost,
}

/// What the loops came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Migrations that moved the guest.
    pub moved: u32,
    /// Migrations that left it at the source.
    pub stayed: u32,
    /// Guests that were killed with their process, and booted anew.
    pub lost: u32,
    /// Postcopies that were reconnected.
    pub recovered: u32,
    /// Plain runs that were refused.
    pub refused: usize,
    /// Plain runs that booted a guest which no process had.
    pub booted: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { moved, stayed, lost, recovered, refused, booted } = self;
        write!(f, "{moved} moved, {stayed} stayed, {lost} lost with a killed process, {recovered} recoveries; ")?;
        write!(f, "{refused} plain runs refused, {booted} booted a guest which no process had")
    }
}

/// The guest and what goes on beside it.
#[derive(Debug)]
pub struct Loops {
    random: Random,
    spec: Spec,
    image: PathBuf,
    here: Actor,
    guest: GuestLog,
    runs: Option<Runs>,
    watch: Result<Watch, String>,
    /// Processes that may have had the guest since the watch began.
    known: Vec<(u32, String)>,
    /// What has happened so far.
    pub summary: Summary,
    /// The last to go.
    lab: Lab,
}

impl Loops {
    /// Boots the guest, and begins the plain runs. `None` where tests that need KVM are skipped.
    #[must_use]
    pub fn begin(seed: u64) -> Option<Self> {
        let lab = Lab::new()?;
        let mut random = Random(seed);
        let image = disk::image(&lab, "disk.img", 256 << 10);
        let spec = Spec::new().cpus(random.one_of(&[1, 2])).memory("32M").disk(&image).workload(|load| {
            load.working_set = 4 << 20;
            load.rate = Rate::BytesPerSecond(8 << 20);
            load.report_ms = 50;
            load.seed = 1 + random.below(1 << 32);
        });
        let (here, guest) = boot(&lab, &spec);
        let watch = Watch::start(&image, Some(record_of(&lab)));
        let known = vec![(here.ferry.pid(), here.ferry.label().to_owned())];
        let mut loops =
            Loops { random, spec, image, here, guest, runs: None, watch, known, summary: Summary::default(), lab };
        loops.start_runs();
        Some(loops)
    }

    /// One migration, with what chance does to it, to where the guest works again.
    ///
    /// # Panics
    /// When a promise is broken.
    pub fn step(&mut self) {
        let there = self.lab.start_destination(&self.spec);
        let relay = Relay::new(&there.wait_listening(), None);
        self.known.push((there.pid(), there.label().to_owned()));
        let mut there = Actor::new(there, Role::Destination);
        let blow = self.begin_migration(&relay);
        let at = self.strike(blow, &mut there, &relay);
        match self.settle(&mut there, &relay) {
            Where::Destination => {
                let mut left = std::mem::replace(&mut self.here, there);
                self.guest.moved_to(&self.here.ferry);
                assert!(left.was_killed() || left.end(), "the source, whose guest is elsewhere, does not end");
                self.here.role = Role::Source;
                self.summary.moved += 1;
            }
            Where::Source => {
                assert!(there.was_killed() || there.end(), "the destination, which has no guest, does not end");
                self.let_it_run();
                self.summary.stayed += 1;
            }
            Where::Lost => {
                assert!(self.here.was_killed() || there.was_killed(), "the guest is lost, and neither side was killed");
                for side in [&mut self.here, &mut there] {
                    if !side.has_ended() {
                        side.kill();
                    }
                }
                drop(there);
                self.begin_anew(at);
                self.summary.lost += 1;
            }
        }
        self.guest.wait_reports(1);
        self.judge_writes();
    }

    /// Ends everything, and looks at the whole.
    ///
    /// # Panics
    /// When a promise is broken.
    pub fn end(mut self) -> Summary {
        self.end_runs(None);
        assert!(self.here.end(), "the guest's process does not end");
        self.judge_writes();
        let _stamped = disk::assert_intact(&self.image, self.spec.workload.seed);
        self.summary
    }

    fn begin_migration(&mut self, relay: &Relay) -> Blow {
        let postcopy = self.random.one_of(&[true, false]);
        let capability = json!({ "capability": "postcopy-ram", "state": postcopy });
        self.here.ferry.qmp("migrate-set-capabilities", json!({ "capabilities": [capability] }));
        let when = self.random.one_of(&["manual", "first-round"]);
        self.here.ferry.set_parameters(json!({
            "max-bandwidth": self.random.one_of(&[0_u64, 8, 32]) << 20, "x-ferry-postcopy-when": when,
            "x-ferry-setup-timeout-ms": DEADLINE_MS, "x-ferry-load-timeout-ms": DEADLINE_MS,
            "x-ferry-heartbeat-timeout-ms": DEADLINE_MS,
        }));
        self.here.ferry.begin_migration(&relay.uri());
        if postcopy && when == "manual" {
            self.start_postcopy();
        }
        use Blow::{Cancel, Cut, KillDestination, KillSource, Nothing, Reset};
        self.random.one_of(&[
            Nothing,
            Nothing,
            Nothing,
            KillSource,
            KillDestination,
            KillDestination,
            Cut,
            Reset,
            Cancel,
        ])
    }

    /// As soon as the migration goes so far; one that is over already needs none.
    fn start_postcopy(&mut self) {
        let _over = poll(SOON, || {
            let setting_up = matches!(self.here.view(), View::Answers(Some(Status::Setup), _));
            (!setting_up).then_some(())
        });
        let _ = self.here.ask("migrate-start-postcopy", json!({}));
    }

    /// Does it, after a while; returns since when the guest may be nowhere.
    fn strike(&mut self, blow: Blow, there: &mut Actor, relay: &Relay) -> SystemTime {
        // Where in a migration it comes is what a seed is for.
        std::thread::sleep(Duration::from_micros(self.random.below(MOST_MS * 1000)));
        let at = SystemTime::now();
        match blow {
            Blow::Nothing => {}
            Blow::KillSource => self.here.kill(),
            Blow::KillDestination => there.kill(),
            Blow::Cut => relay.cut_all(),
            Blow::Reset => relay.reset_all(),
            Blow::Cancel => drop(self.here.ask("migrate_cancel", json!({}))),
        }
        at
    }

    /// Leads the migration to its end; where the guest is then.
    fn settle(&mut self, there: &mut Actor, relay: &Relay) -> Where {
        use Status::{Cancelled, Completed, Failed, PostcopyPaused, Uncertain};
        let mut hurries = false;
        let mut uncertain: Option<Instant> = None;
        let found = poll(LONG * 2, || {
            let sides = [self.here.view(), there.view()];
            match sides {
                // A source that has not noticed yet that the link is lost would refuse to quit.
                [
                    View::Ended | View::Answers(Some(Completed | PostcopyPaused | Uncertain), _),
                    View::Answers(Some(Completed), _),
                ] => Some(Where::Destination),
                [View::Answers(Some(Failed | Cancelled), _), View::Ended | View::Answers(None, _)] => {
                    Some(Where::Source)
                }
                [View::Answers(Some(PostcopyPaused), _), View::Answers(Some(PostcopyPaused), _)] => {
                    let again = json!({ "uri": relay.uri(), "resume": true });
                    self.summary.recovered += u32::from(self.here.ask("migrate", again).is_some());
                    None
                }
                // A destination that was killed had the guest, or the record would have given it
                // back.
                [View::Answers(Some(PostcopyPaused | Completed), _), View::Ended] => Some(Where::Lost),
                // The record names a destination that is dead, and cannot tell
                // whether it has run the guest. Otherwise the record gives the guest back.
                [View::Answers(Some(Uncertain), _), View::Ended] => {
                    let since = *uncertain.get_or_insert_with(Instant::now);
                    (since.elapsed() > UNCERTAIN).then_some(Where::Lost)
                }
                // A source that was killed had it, or pages that the guest needs.
                [View::Ended, View::Ended | View::Answers(None | Some(PostcopyPaused), _)] => Some(Where::Lost),
                [View::Answers(Some(status), _), _] if !status.is_active() => None,
                _ if hurries => None,
                _ => {
                    // What chance has slowed down comes to its end.
                    hurries = true;
                    let fast = json!({ "max-bandwidth": 0, "downtime-limit": 2000 });
                    let _ = self.here.ask("migrate-set-parameters", fast);
                    None
                }
            }
        });
        let views = || (self.here.error().to_owned(), there.error().to_owned());
        found.unwrap_or_else(|| panic!("the migration comes to no end: {:?}", views()))
    }

    /// A plain run may have had the disk's lock for the moment in which the source wanted it back.
    fn let_it_run(&mut self) {
        let mut refused = String::new();
        let ran = poll(SOON, || match self.here.view() {
            View::Answers(_, true) => Some(()),
            _ => {
                refused = self.here.try_ask("cont", json!({})).err().unwrap_or_default();
                None
            }
        });
        assert!(ran.is_some(), "cont does not let the guest run at the source: {refused}");
    }

    /// Both sides are dead, which the operator knows. Until here, a plain run may have booted.
    fn begin_anew(&mut self, since: SystemTime) {
        self.end_runs(Some(since));
        self.judge_writes();
        let _stamped = disk::assert_intact(&self.image, self.spec.workload.seed);
        let mut taken = self.spec.clone();
        taken.more = vec!["--ownership".into(), "auto,take".into()];
        (self.here, self.guest) = boot(&self.lab, &taken);
        self.known.push((self.here.ferry.pid(), self.here.ferry.label().to_owned()));
        self.start_runs();
    }

    fn start_runs(&mut self) {
        self.runs = Some(Plain::of(&self.lab, &self.spec, &record_of(&self.lab)).run_on());
    }

    /// Ends the plain runs and judges them: one may have booted only after the guest was lost.
    fn end_runs(&mut self, lost: Option<SystemTime>) {
        for run in self.runs.take().map(Runs::finish).unwrap_or_default() {
            self.known.push((run.pid, "a plain run".to_owned()));
            let had_cause = lost.is_some_and(|lost| run.ended >= lost);
            let PlainRun { booted, code, says, .. } = &run;
            if *booted || code.is_none() {
                assert!(had_cause, "a plain run booted a guest that another process had: {run:?}");
                self.summary.booted += 1;
            } else {
                assert!(plain_run::is_refusal(&run), "a plain run was refused with '{says}', status {code:?}");
                self.summary.refused += 1;
            }
        }
    }

    /// Judges who has written since the last time.
    fn judge_writes(&mut self) {
        if self.runs.is_some() {
            return;
        }
        // The next watch begins before this one ends.
        let next = Watch::start(&self.image, Some(record_of(&self.lab)));
        let writes = std::mem::replace(&mut self.watch, next).and_then(Watch::finish);
        match writes {
            Ok(writes) => {
                let broken = disk_log::broken(&writes, &self.known);
                assert!(broken.is_none(), "{broken:?}");
            }
            // Without the right to watch there is no judgement; the stamps are looked at all the
            // same.
            Err(why) => eprintln!("who writes into the image is not judged: {why}"),
        }
        self.known.retain(|(pid, _)| *pid == self.here.ferry.pid());
    }
}

fn boot(lab: &Lab, spec: &Spec) -> (Actor, GuestLog) {
    let ferry = Ferry::start(lab, spec);
    let mut guest = GuestLog::new(&ferry, spec.cpus);
    guest.wait_ready();
    guest.wait_reports(1);
    (Actor::new(ferry, Role::Source), guest)
}

fn record_of(lab: &Lab) -> PathBuf {
    lab.path("disk.img.owner")
}
