//! Reports as a reader gets them: a traced migration and a fault matrix, rendered by `ferry
//! report`, opened in a browser.
//!
//! Without a browser (`chromium`) on the path the pages are made and not looked at. Pictures of
//! them stay in the build's folder for temporary files, `tmp/report`, for people to look at.

mod browser;
mod made_up;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use ferry_tests::lab::binary;
use ferry_tests::wait::wait_until;
use ferry_tests::{Ferry, LONG, Scene, Spec};
use serde_json::Value;

use self::browser::{Browser, address};
use self::made_up::made_up;

/// The one address in a page, which names a vocabulary.
const NAMESPACE: &str = "http://www.w3.org/2000/svg";

/// Runs `ferry report` and returns the page's data.
fn report(arguments: &[&OsStr], page: &Path) -> Value {
    let output = Command::new(binary())
        .arg("report")
        .args(arguments)
        .arg("-o")
        .arg(page)
        .output()
        .expect("ferry can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let html = std::fs::read_to_string(page).expect("the page was written");
    assert!(!html.replace(NAMESPACE, "").contains("://"), "the page fetches nothing");
    let (_, rest) = html.split_once("id=\"data\">").expect("the page has data");
    serde_json::from_str(rest.split_once("</script>").expect("the data ends").0).expect("the data is JSON")
}

fn traced(spec: &Spec, trace: &Path) -> Spec {
    let mut spec = spec.clone();
    spec.more = vec!["--trace".to_owned(), trace.display().to_string()];
    spec
}

/// A scene whose source writes `a.trace`, and a destination that writes `b.trace`.
fn traced_scene() -> Option<(Scene, Ferry, [PathBuf; 2])> {
    let scene = Scene::with(|lab, spec| traced(&spec.cpus(2), &lab.path("a.trace")))?;
    let traces = ["a.trace", "b.trace"].map(|name| scene.lab.path(name));
    let destination = scene.lab.start_destination(&traced(&scene.spec, &traces[1]));
    Some((scene, destination, traces))
}

#[test]
fn a_traced_postcopy_makes_a_page() {
    let Some((mut scene, mut destination, [source_trace, destination_trace])) = traced_scene() else { return };
    scene.source.allow_postcopy();
    scene.source.set_parameters(serde_json::json!({ "x-ferry-postcopy-when": "first-round", "downtime-limit": 0 }));
    let moved = scene.source.migrate_to(&destination.wait_listening());
    scene.guest.moved_to(&destination);
    destination.wait_migration_end();
    scene.source.quit();
    destination.quit();

    let page = scene.lab.path("page.html");
    let data = report(&[source_trace.as_ref(), destination_trace.as_ref()], &page);
    let [one] = &data["story"]["migrations"].as_array().expect("migrations")[..] else { panic!("{data}") };
    let sides: Vec<_> = one["sides"].as_array().unwrap().iter().map(|side| side["side"].as_str().unwrap()).collect();
    assert_eq!(sides, ["source", "destination"]);
    // The page says what the client was told.
    let summary = &one["sides"][0]["summary"];
    assert_eq!(summary["x-ferry-downtime-us"], serde_json::json!(moved.x_ferry_downtime_us), "{summary}");
    let rounds = one["sides"][0]["rounds"].as_array().unwrap();
    let pages = |field: &str| rounds.iter().map(|round| round[field].as_u64().unwrap()).sum::<u64>();
    assert!(pages("pages") > 0 && pages("pages") + pages("zero_pages") >= scene_pages(&scene.spec), "{rounds:?}");
    let timeline = one["timeline"].as_array().unwrap();
    for name in ["Hello", "HelloAck", "Permit", "Started", "DrainedAck"] {
        // A long one has its size behind its name.
        let is_it = |text: &str| text.split(',').next() == Some(name);
        let is_arrow =
            |entry: &&serde_json::Value| entry["kind"] == "message" && entry["text"].as_str().is_some_and(is_it);
        let arrows: Vec<_> = timeline.iter().filter(is_arrow).collect();
        let [arrow] = &arrows[..] else { panic!("{name}: {arrows:?}") };
        assert!(arrow["fate"].is_null(), "{arrow}");
    }
    assert!(timeline.is_sorted_by_key(|entry| entry["at_us"].as_i64()));
    let serial = std::fs::read(scene.source.serial()).unwrap().len();
    let position = format!("output so far: serial/0 at {serial}");
    assert!(timeline.iter().any(|entry| entry["text"] == position.as_str()), "{position}");
    let samples = one["sides"][1]["samples"].as_array().unwrap();
    assert!(samples.iter().any(|sample| sample["postcopy"]["missing-pages"] == 0), "{samples:?}");

    let Some(browser) = Browser::find() else { return };
    let dom = browser.dom(&address(&page, ""));
    let drawn = dom.matches("class=\"entry message\"").count();
    let noted = timeline.iter().filter(|entry| entry["kind"] == "message").count();
    assert!(drawn >= 8 && drawn <= noted, "{drawn} arrows of {noted} messages");
    assert!(dom.contains("stood still for") && dom.contains("Postcopy"), "{dom}");
    browser.pictures(&address(&page, ""), "migration");
}

/// Every page goes in the first round.
fn scene_pages(spec: &Spec) -> u64 {
    let mebibytes: u64 = spec.memory.trim_end_matches('M').parse().expect("the scene's memory is given in MiB");
    mebibytes << 8
}

#[test]
fn the_trace_of_a_killed_process_tells_how_far_it_came() {
    let Some((mut scene, destination, [source_trace, destination_trace])) = traced_scene() else { return };
    scene.slow_down();
    scene.source.begin_migration(&destination.wait_listening());
    let sampled =
        |text: &str| text.lines().any(|line| line.contains("\"sample\"") && !line.contains("\"transferred\":0,"));
    wait_until("a sample in the source's trace", LONG, || {
        sampled(&std::fs::read_to_string(&source_trace).unwrap_or_default()).then_some(())
    });
    scene.source.kill();
    let mut destination = destination;
    let _why = ferry_tests::scene::gave_up(&mut destination);
    let page = scene.lab.path("page.html");
    let data = report(&[source_trace.as_ref(), destination_trace.as_ref()], &page);
    let sides = &data["story"]["migrations"][0]["sides"];
    assert_eq!((&sides[0]["status"], &sides[0]["summary"]), (&Value::from("active"), &Value::Null));
    assert_eq!(sides[1]["status"], "failed");
    assert!(sides[1]["error"].as_str().is_some_and(|error| error.contains("closed")), "{sides}");
    if let Some(browser) = Browser::find() {
        assert!(browser.dom(&address(&page, "")).contains("active when the trace ends"));
    }
}

#[test]
fn a_matrix_of_shards_makes_a_page_that_opens_its_cells() {
    let lab = tempfile::tempdir().expect("a temporary directory can be made");
    let (page, xml) = (lab.path().join("page.html"), lab.path().join("junit.xml"));
    let files: Vec<_> = (0..2).map(|shard| lab.path().join(format!("{shard}.json"))).collect();
    for (shard, file) in files.iter().enumerate() {
        let text = serde_json::to_string(&made_up(shard)).expect("a matrix is plain data");
        std::fs::write(file, text).expect("a shard can be written");
    }
    let arguments = [files[0].as_ref(), files[1].as_ref(), OsStr::new("--junit"), xml.as_ref()];
    let cells = report(&arguments, &page)["matrix"]["cells"].as_array().expect("cells").len();
    let xml = std::fs::read_to_string(xml).expect("JUnit XML was written");
    assert_eq!(xml.matches("<testcase ").count(), cells);

    let Some(browser) = Browser::find() else { return };
    let dom = browser.dom(&address(&page, ""));
    assert_eq!(dom.matches("\" data-cell=\"").count(), cells);
    // Its address opens a cell: what was done to it, its arrows, the text of its log as text.
    let fragment = "#cell-precopy-owned-1-Permit-link%20cut";
    let dom = browser.dom(&address(&page, fragment));
    assert!(dom.contains("class=\"arrow lost\"") && dom.contains("class=\"arrow held\""), "{dom}");
    assert!(dom.contains("&lt;/script&gt;&lt;img src=x") && !dom.contains("<img"), "{dom}");
    browser.pictures(&address(&page, ""), "matrix");
    browser.pictures(&address(&page, fragment), "cell");
}
