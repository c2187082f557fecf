//! The oracles of the fault matrix against the real thing: clean migrations that all of them must
//! pass, and planted defects that they must catch. The defects that each must catch besides are
//! scripted beside it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ferry_migration::{Handshake, Status};
use ferry_qmp::client::{Client, ClientError};
use ferry_tests::failing::{diskless, working};
use ferry_tests::matrix::evidence::{CellFacts, Ending, Evidence, Role};
use ferry_tests::matrix::oracles::{ORACLES, Verdict};
use ferry_tests::matrix::watch::{Sampler, disk::Watch, left, process::process, record};
use ferry_tests::procfs::Inventory;
use ferry_tests::relay::{Fault, Spot};
use ferry_tests::wait::{SOON, wait_for};
use ferry_tests::{Ferry, Lab, Relay, Scene, Spec, disk};
use serde_json::json;

/// A migration that a test plays by hand and has judged.
struct Stage {
    scene: Scene,
    destination: Ferry,
    relay: Relay,
    sampler: Sampler,
    writes: Option<Result<Watch, String>>,
    before: [Option<Inventory>; 2],
    facts: CellFacts,
    broken: Option<SystemTime>,
    /// When the test killed the destination.
    killed: Option<SystemTime>,
}

impl Stage {
    fn new(handshake: Handshake, describe: impl FnOnce(&Lab, Spec) -> Spec, device: Option<&str>) -> Option<Self> {
        let mut scene = Scene::with(describe)?;
        scene.source.set_parameters(json!({ "x-ferry-handshake": handshake.as_str(), "x-ferry-rehearsal": false }));
        let destination = device.map_or_else(|| scene.destination(), |device| scene.destination_with(device));
        let relay = Relay::new(&destination.wait_listening(), None);
        let sampler = Sampler::start();
        sampler.watch(0, scene.source.pid());
        sampler.watch(1, destination.pid());
        let image = scene.spec.disk.as_ref().map(|(image, _)| image.clone());
        let facts = CellFacts {
            handshake,
            postcopy: false,
            cpus: scene.spec.cpus,
            seed: scene.spec.workload.seed,
            disk: image.is_some(),
            record: image.is_some(),
            reboots: false,
            may_end: vec![Ending::SourceRuns],
            cause: vec![],
            stalled: None,
            source_becomes: None,
            resume_within: None,
        };
        let writes = image.map(|image| Watch::start(&image, Some(record_of(&image))));
        let before = [&scene.source, &destination].map(|ferry| Inventory::of(ferry.pid()).ok());
        Some(Stage { scene, destination, relay, sampler, writes, before, facts, broken: None, killed: None })
    }

    /// Lets everything settle, gathers the evidence, and asks all oracles.
    fn judge(mut self) -> Verdicts {
        let settled = SystemTime::now() + Evidence::REST;
        wait_for("the rest before the end", SOON, || SystemTime::now() >= settled);
        let mut sides = [(&mut self.scene.source, Role::Source), (&mut self.destination, Role::Destination)];
        let mut processes = sides.each_mut().map(|(ferry, role)| process(ferry, *role, true));
        processes[1].killed = self.killed;
        let settled = SystemTime::now();
        let mut gone = Vec::new();
        for (at, before) in self.before.into_iter().enumerate() {
            processes[at].before = before;
            match processes[at].exit {
                // It had no chance to tidy up.
                Some(_) if processes[at].killed.is_some() => {}
                Some(_) => gone.push(sides[at].0.qmp_path().to_owned()),
                // Nobody writes while the image is looked at. One that has handed its guest over
                // refuses.
                None => {
                    let stopped = sides[at].0.try_qmp("stop", json!({}));
                    assert!(matches!(stopped, Ok(_) | Err(ClientError::Refused { .. })), "{stopped:?}");
                }
            }
        }
        let pids: Vec<_> = processes.iter().map(|process| process.pid).collect();
        let image = self.scene.spec.disk.as_ref().map(|(image, _)| image);
        let evidence = Evidence {
            resolved: None,
            broken: self.broken,
            settled,
            samples: self.sampler.finish(),
            writes: self.writes.map(|watch| watch.and_then(Watch::finish)),
            disk_stamps: image.map(|image| disk::intact(image, self.facts.seed)),
            record: image.map(|image| record::read(&record_of(image))),
            plain: vec![],
            conts: vec![],
            reasons: vec![],
            image: None,
            next: None,
            left: left::behind(self.scene.lab.directory(), &gone, &pids),
            processes: processes.into(),
            cell: self.facts,
        };
        Verdicts(ORACLES.iter().map(|(name, oracle)| (*name, oracle(&evidence))).collect())
    }
}

/// Where the record of a guest with this image is.
fn record_of(image: &Path) -> PathBuf {
    let mut path = image.as_os_str().to_owned();
    path.push(".owner");
    path.into()
}

/// What all oracles said.
#[derive(Debug)]
struct Verdicts(Vec<(&'static str, Verdict)>);

impl Verdicts {
    fn failing(&self) -> Vec<&str> {
        self.0.iter().filter(|(_, verdict)| verdict.is_fail()).map(|(name, _)| *name).collect()
    }

    fn of(&self, name: &str) -> &Verdict {
        &self.0.iter().find(|(found, _)| *found == name).expect("an oracle has this name").1
    }

    /// Nothing is wrong, and these were on trial.
    fn all_pass(&self, tried: &[&str]) {
        assert!(self.failing().is_empty(), "{self:#?}");
        for name in tried {
            assert!(matches!(self.of(name), Verdict::Pass(_)), "{name} in {self:#?}");
        }
    }

    /// Each of these fails with these words in what it says.
    fn catch(&self, wanted: &[(&str, &str)]) {
        for (name, told) in wanted {
            assert!(matches!(self.of(name), Verdict::Fail(says) if says.contains(told)), "{name}: {told} in {self:#?}");
        }
    }
}

const EVERYWHERE: [&str; 7] = ["one-runner", "ending", "guest", "serial", "disk-stamps", "story", "leaks"];

#[test]
fn a_guest_that_moves_passes_all_of_them() {
    for postcopy in [false, true] {
        let Some(mut stage) = Stage::new(Handshake::Owned, working, None) else { return };
        (stage.facts.postcopy, stage.facts.may_end) = (postcopy, vec![Ending::DestinationRuns]);
        if postcopy {
            stage.scene.source.allow_postcopy();
            stage.scene.begin_postcopy(&stage.relay.uri());
        } else {
            stage.scene.source.begin_migration(&stage.relay.uri());
        }
        stage.scene.arrived(&mut stage.destination);
        stage.judge().all_pass(&EVERYWHERE);
    }
}

#[test]
fn a_guest_that_resumes_passes_all_of_them_and_tells_how_soon() {
    let Some(mut stage) = Stage::new(Handshake::Owned, working, None) else { return };
    stage.facts.cause = vec!["link".into()];
    stage.facts.resume_within = Some(Duration::from_secs(5));
    stage.relay.set_plan(Spot::Message("Ready"), Fault::Cut);
    let _ = stage.scene.fails(&stage.relay.uri());
    stage.broken = Some(stage.relay.fired_at());
    let _ = stage.destination.wait_exit(SOON);
    let verdicts = stage.judge();
    verdicts.all_pass(&EVERYWHERE);
    verdicts.all_pass(&["resume"]);
}

#[test]
fn an_uncertain_source_and_a_cancelled_one_pass_as_what_they_are() {
    let Some(mut stage) = Stage::new(Handshake::Setup, diskless, None) else { return };
    stage.facts.may_end = vec![Ending::Uncertain];
    stage.relay.set_plan(Spot::Message("Permit"), Fault::Cut);
    stage.scene.source.begin_migration(&stage.relay.uri());
    stage.scene.source.wait_migration(Status::Uncertain);
    let _ = stage.destination.wait_exit(SOON);
    stage.judge().all_pass(&["one-runner", "ending", "story", "leaks"]);

    let Some(mut stage) = Stage::new(Handshake::Owned, working, None) else { return };
    stage.scene.slow_down();
    stage.scene.source.begin_migration(&stage.relay.uri());
    stage.scene.source.wait_migration(Status::Active);
    stage.scene.source.qmp("migrate_cancel", json!({}));
    assert_eq!(stage.scene.source.wait_migration_end().status, Some(Status::Cancelled));
    let _ = stage.destination.wait_exit(SOON);
    stage.judge().all_pass(&EVERYWHERE);
}

#[test]
fn a_broken_postcopy_is_paused_while_both_sides_live_and_lost_without_its_destination() {
    for (killed, ending) in [(false, Ending::Paused), (true, Ending::Lost)] {
        let Some(mut stage) = Stage::new(Handshake::Owned, working, None) else { return };
        (stage.facts.postcopy, stage.facts.may_end) = (true, vec![ending]);
        stage.scene.source.allow_postcopy();
        stage.relay.set_plan(Spot::Message("Started"), Fault::CutAfter);
        stage.scene.begin_slow_postcopy(&stage.relay.uri());
        stage.relay.wait_fired();
        stage.scene.source.wait_migration(Status::PostcopyPaused);
        stage.destination.wait_migration(Status::PostcopyPaused);
        if killed {
            stage.killed = Some(SystemTime::now());
            stage.destination.kill();
        }
        stage.judge().all_pass(&["one-runner", "ending", "story", "leaks"]);
    }
}

#[test]
fn two_runners_are_caught() {
    // The destination's answer is lost: it runs, and the source takes it for dead.
    let Some(mut stage) = Stage::new(Handshake::Pong, diskless, None) else { return };
    stage.relay.set_plan(Spot::Message("Ready"), Fault::Cut);
    let _ = stage.scene.fails(&stage.relay.uri());
    stage.destination.wait_run_state("running");
    // Where the two part, the lines overlap or do not even parse.
    let told = [("one-runner", "after it had begun to run on"), ("ending", "at the end"), ("serial", "")];
    stage.judge().catch(&told);
}

#[test]
fn a_stranded_guest_is_caught() {
    let device = Some("fault,at=load,do=fail,in=incoming");
    let Some(mut stage) = Stage::new(Handshake::None, diskless, device) else { return };
    stage.scene.source.begin_migration(&stage.relay.uri());
    assert_eq!(stage.scene.source.wait_migration_end().status, Some(Status::Failed));
    let _ = stage.destination.wait_exit(SOON);
    stage.judge().catch(&[("ending", "nobody runs the guest")]);
}

#[test]
fn a_stranger_who_writes_to_the_disk_and_one_who_stays_connected_are_caught() {
    let describe = |lab: &Lab, spec| working(lab, spec).disk(&disk::image(lab, "large.img", 4 << 20));
    let Some(mut stage) = Stage::new(Handshake::Owned, describe, None) else { return };
    stage.relay.set_plan(Spot::Message("Ready"), Fault::Cut);
    let _ = stage.scene.fails(&stage.relay.uri());
    let _ = stage.destination.wait_exit(SOON);
    // Beyond what the guest uses, which therefore cannot notice.
    let image = File::options().write(true).open(stage.scene.lab.path("large.img")).unwrap();
    image.write_all_at(b"not a stamp", 3 << 20).unwrap();
    let connected = Client::connect(stage.scene.source.qmp_path(), SOON).unwrap();
    let watched = matches!(stage.writes, Some(Ok(_)));
    let verdicts = stage.judge();
    drop(connected);
    verdicts.catch(&[("disk-stamps", "sector 6144"), ("leaks", "guest")]);
    if watched {
        verdicts.catch(&[("disk-log", "stranger")]);
    }
    assert!(matches!(verdicts.of("guest"), Verdict::Pass(_)), "{verdicts:#?}");
}
