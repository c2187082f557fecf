//! Runs one cell, from an empty directory to the oracles' verdicts.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_migration::Handshake;
use ferry_report::matrix::{self as report, Finding};
use serde_json::json;

use super::cell::{Cell, Mode, Place, What, When};
use super::drive::Stand;
use super::evidence::{CellFacts, Evidence, Write};
use super::expect::{self, Known};
use super::moment::{Broken, Phase};
use super::next;
use super::oracles::{ORACLES, Verdict, resume};
use super::stage::Stage;
use super::starve;
use super::timeline;
use super::watch::{Strain, image, left, record};
use crate::relay::{Fault, Spot};
use crate::wait::poll;
use crate::{disk, replay};

/// How often a cell waits for its moment, and how often it is tried on a machine that keeps it
/// from happening.
const TRIES: u32 = 3;
/// No further try begins so long after the first.
const ENOUGH: Duration = Duration::from_secs(240);

/// Runs a cell. `keep`: where the files of a cell that fails are put. `None` where KVM is skipped.
///
/// A cell that fails in a way that a starved machine explains, on a machine that was measured to
/// have starved it, says nothing: it is tried again, and after [`TRIES`] of these it counts as not
/// let happen.
#[must_use]
pub fn run(cell: &Cell, seed: u64, keep: &Path) -> Option<report::Cell> {
    let began = Instant::now();
    let mut starved = Vec::new();
    let mut cell = loop {
        let strain = Arc::new(Strain::start());
        // Whatever happens to it, a cell has a result.
        let ran = catch_unwind(AssertUnwindSafe(|| once(cell, seed, keep, &strain)));
        let ran = ran.unwrap_or_else(|panic| {
            let why = Some(format!("the harness broke off: {}", text_of(&*panic)));
            Some(Ran::of(report::Cell { verdict: report::Verdict::Fail, why, ..unplayed(cell, seed) }))
        })?;
        let Some(excuse) = starve::excuse(&ran, &strain.denied()) else { break ran.cell };
        starved.push(format!("{excuse} ({})", ran.cell.why.as_deref().unwrap_or_default()));
        if starved.len() >= TRIES as usize || began.elapsed() > ENOUGH {
            let why =
                format!("not let happen: the machine starved it in {} tries: {}", starved.len(), starved.join("; "));
            break report::Cell { verdict: report::Verdict::Skip, why: Some(why), ..ran.cell };
        }
    };
    cell.millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Some(cell)
}

/// One try of a cell.
#[derive(Debug)]
pub struct Ran {
    /// What came of it.
    pub cell: report::Cell,
    /// The moment did not come, and the migration went well.
    pub missed: bool,
}

impl Ran {
    fn of(cell: report::Cell) -> Self {
        Ran { cell, missed: false }
    }
}

fn once(cell: &Cell, seed: u64, keep: &Path, strain: &Arc<Strain>) -> Option<Ran> {
    let (mut tries, mut missed) = (1, false);
    let (stage, played_out) = loop {
        let mut stage = Stage::set(cell, seed, strain.clone())?;
        let played = catch_unwind(AssertUnwindSafe(|| play(&mut stage)));
        match played {
            Ok(Ok(played)) => break (stage, Ok(played)),
            // The guest did not need a page in time, or the host was busy elsewhere: nothing was
            // tried yet.
            Ok(Err(Broken::NeverCame(_))) if tries < TRIES => tries += 1,
            Ok(Err(Broken::NeverCame(why))) => {
                missed = stage.went_well();
                break (stage, Err(why));
            }
            Ok(Err(Broken::Off(why))) => break (stage, Err(why)),
            // A busy host was so slow that the guest had ended before the migration began.
            Err(_) if !stage.begun && tries < TRIES => tries += 1,
            Err(panic) => break (stage, Err(text_of(&*panic))),
        }
    };
    Some(Ran { cell: conclude(stage, played_out, keep), missed })
}

/// A cell of which nothing is known yet.
pub(super) fn unplayed(cell: &Cell, seed: u64) -> report::Cell {
    report::Cell {
        name: cell.name(),
        mode: timeline::mode(cell.mode),
        handshake: cell.handshake.as_str().to_owned(),
        cpus: cell.cpus,
        when: cell.when.to_string(),
        what: cell.what.to_string(),
        place: timeline::place(cell.place()),
        seed,
        verdict: report::Verdict::Pass,
        millis: 0,
        rerun: format!("ci/matrix --cell {} --seed {seed}", cell.name()),
        injected: timeline::sentence(cell),
        ending: "the cell broke off".to_owned(),
        resume_ms: None,
        why: None,
        oracles: Vec::new(),
        timeline: Vec::new(),
        logs: Vec::new(),
    }
}

/// What is known when the migration has settled.
struct Played {
    evidence: Evidence,
    stand: Stand,
}

/// The cell's story: the migration, the fault, the end, the next migration.
fn play(stage: &mut Stage) -> Result<Played, Broken> {
    let replayed = stage.replays().map(|spot| replay::frame(&stage.lab, &stage.cell, spot));
    stage.prepare();
    stage.provoke();
    let mut props = stage.lay_out();
    let arm = |stage: &mut Stage| {
        stage.arm();
        if let (Some(bytes), Some(spot)) = (&replayed, stage.replays()) {
            stage.relay.set_plan(spot, Fault::Insert(bytes.clone()));
        }
    };
    let phase = stage.phase();
    if phase == Phase::First {
        arm(stage);
    }
    stage.begin();
    if stage.cell.mode == Mode::Recovered {
        recovered(stage, phase, arm);
    }
    let at = stage.await_moment()?;
    stage.act(at, &mut props)?;
    if stage.wrong.is_some() {
        stage.swap_destination();
    }
    let stand = stage.settle(&mut props)?;
    Ok(Played { evidence: gather(stage, stand), stand })
}

/// Goes to a postcopy that is active, breaks it, and reconnects.
fn recovered(stage: &mut Stage, phase: Phase, arm: impl Fn(&mut Stage)) {
    use ferry_migration::Status;
    stage.wait_both(Status::PostcopyActive);
    if phase == Phase::BeforeTheBreak {
        arm(stage);
        stage.break_postcopy();
        return;
    }
    stage.break_postcopy();
    stage.wait_both(Status::PostcopyPaused);
    if stage.cell.when == When::Frame(Spot::Message("RecoverRefused")) {
        stage.swap_destination();
    }
    arm(stage);
    stage.resume();
}

/// What can be seen when nothing changes any more.
fn gather(stage: &mut Stage, stand: Stand) -> Evidence {
    // Whoever runs now is seen to run.
    let _ = poll(Evidence::REST, || None::<()>);
    let settled = std::time::SystemTime::now();
    let known = Known::of(stage);
    let processes = vec![stage.source.evidence(), stage.destination.evidence()];
    let image = image::of_runner(&stage.image, &processes);
    let cell = &stage.cell;
    // A record that one side cannot reach when they greet each other is none for this migration.
    let says_setup = processes[0].final_info.as_ref().and_then(|info| info.x_ferry_handshake) == Some(Handshake::Setup);
    let in_force = if cell.place() == Place::Record && says_setup { Handshake::Setup } else { cell.handshake };
    let facts = CellFacts {
        handshake: in_force,
        postcopy: cell.mode != Mode::Precopy,
        cpus: cell.cpus,
        seed: stage.spec.workload.seed,
        disk: true,
        record: in_force == Handshake::Owned,
        reboots: cell.what == What::GuestReboots,
        may_end: expect::endings(cell, known),
        cause: expect::cause(cell),
        stalled: expect::stalled(stage),
        source_becomes: expect::source_becomes(cell, known),
        resume_within: expect::resume_within(cell, known),
    };
    stage.notes.say(format!("nothing changes any more: {stand:?}"));
    Evidence {
        cell: facts,
        broken: stage.notes.broken,
        resolved: stage.notes.resolved,
        settled,
        processes,
        samples: Vec::new(),
        writes: None,
        disk_stamps: None,
        record: (in_force == Handshake::Owned).then(|| record::read(&stage.record())),
        plain: stage.plain.clone(),
        conts: stage.conts.clone(),
        reasons: stage.reasons.clone(),
        image,
        next: None,
        left: Vec::new(),
    }
}

/// The next migration, what the third party saw, the verdicts, and the end of everything.
fn conclude(mut stage: Stage, played: Result<Played, String>, keep: &Path) -> report::Cell {
    let (mut evidence, mut why) = match played {
        Ok(Played { mut evidence, stand }) => {
            let migrate = || next::migrate(&mut stage, stand, &mut evidence);
            if let Err(panic) = catch_unwind(AssertUnwindSafe(migrate)) {
                evidence.next = Some(Err(text_of(&*panic)));
            }
            (Some(evidence), None)
        }
        Err(why) => (None, Some(why)),
    };
    let frames = stage.relay.frames();
    let (mut gone, mut stay): (Vec<PathBuf>, Vec<String>) = (Vec::new(), Vec::new());
    for actor in [&mut stage.source, &mut stage.destination] {
        if !actor.was_killed() {
            match actor.end() {
                true if actor.was_killed() => {}
                true => gone.push(actor.ferry.qmp_path().to_owned()),
                false => stay.push(format!("itself: {} did not end when it was told to", actor.ferry.label())),
            }
        }
    }
    let Stage { cell, seed, spec, image, source, destination, relay, sampler, writes, notes, lab, .. } = stage;
    drop(relay);
    let samples = sampler.finish();
    let writes = writes.and_then(super::watch::disk::Watch::finish);
    let mut oracles = Vec::new();
    if let Some(evidence) = &mut evidence {
        evidence.samples = samples;
        evidence.writes = Some(writes.map(|writes| of_this_migration(writes, evidence.cell.record)));
        evidence.disk_stamps = Some(disk::intact(&image, spec.workload.seed));
        evidence.left = left::behind(lab.directory(), &gone, &[]);
        evidence.left.extend(stay);
        for (name, judge) in ORACLES {
            let verdict = catch_unwind(|| judge(evidence)).unwrap_or_else(|panic| Verdict::Fail(text_of(&*panic)));
            let (verdict, says) = match verdict {
                Verdict::Pass(says) => (Finding::Pass, says),
                Verdict::Fail(says) => {
                    why.get_or_insert_with(|| format!("{name}: {says}"));
                    (Finding::Fail, says)
                }
                Verdict::None(says) => (Finding::None, says),
            };
            oracles.push(report::Oracle { name: name.to_owned(), verdict, says });
        }
    }
    let failed = why.is_some();
    let logs = timeline::logs([&source, &destination], failed);
    let entries = timeline::entries(&notes, &frames, evidence.as_ref());
    if failed {
        keep_files(&lab, keep, evidence.as_ref());
    }
    let unplayed = unplayed(&cell, seed);
    let ending = oracles.iter().find(|oracle| oracle.name == "ending");
    report::Cell {
        verdict: if failed { report::Verdict::Fail } else { report::Verdict::Pass },
        ending: ending.map_or(unplayed.ending, |oracle| oracle.says.clone()),
        resume_ms: evidence.as_ref().and_then(resume::time).map(|time| time.as_secs_f64() * 1e3),
        why,
        oracles,
        timeline: entries,
        logs,
        ..unplayed
    }
}

/// A record that the migration could do without says nothing about it.
fn of_this_migration(writes: Vec<Write>, record: bool) -> Vec<Write> {
    let without = |write| Write { named: vec![], ..write };
    if record { writes } else { writes.into_iter().map(without).collect() }
}

/// Everything that a failed cell has left, for whoever looks into it.
fn keep_files(lab: &crate::Lab, keep: &Path, evidence: Option<&Evidence>) {
    let copied = std::fs::create_dir_all(keep).and_then(|()| {
        for entry in std::fs::read_dir(lab.directory())?.flatten() {
            if entry.file_type()?.is_file() {
                std::fs::copy(entry.path(), keep.join(entry.file_name()))?;
            }
        }
        if let Some(evidence) = evidence {
            std::fs::write(keep.join("evidence.json"), json!(evidence).to_string())?;
        }
        Ok(())
    });
    if let Err(error) = copied {
        eprintln!("{}: the cell's files cannot be kept: {error}", keep.display());
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the harness panicked").to_owned()
}
