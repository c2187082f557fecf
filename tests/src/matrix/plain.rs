//! A plain `ferry run` of the guest on its disk, as an administrator or a script would start it
//! who knows nothing of the migration: once, or again and again for as long as the migration goes
//! on.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use super::evidence::PlainRun;
use super::watch::record;
use crate::lab::binary;
use crate::wait::{LONG, poll};
use crate::{Lab, Spec};

/// Between the end of one of many and the beginning of the next.
const PAUSE: Duration = Duration::from_millis(20);

/// Where a plain run works, and what it is to run.
#[derive(Clone, Debug)]
pub struct Plain {
    spec: Spec,
    record: PathBuf,
    directory: PathBuf,
    past_record: bool,
}

impl Plain {
    /// The guest of `spec`, whose ownership record is at `record`.
    #[must_use]
    pub fn of(lab: &Lab, spec: &Spec, record: &Path) -> Self {
        // It is told nothing of the migration, and takes the record that lies beside the image.
        let spec = Spec { console: false, incoming: None, more: Vec::new(), ..spec.clone() };
        Plain { spec, record: record.to_owned(), directory: lab.directory().to_owned(), past_record: false }
    }

    /// The same guest by the ways that do not look at its record: by a hard link of its image, and
    /// without a record.
    ///
    /// # Panics
    /// When the image is not there or cannot be linked.
    #[must_use]
    pub fn past_record(&self) -> [Plain; 2] {
        let (image, _) = self.spec.disk.as_ref().expect("the guest has a disk");
        let link = image.with_extension("link");
        // An earlier one may have made it.
        let _ = std::fs::remove_file(&link);
        std::fs::hard_link(image, &link).expect("a link in the test's folder can be made");
        let without = Spec { more: vec!["--ownership".into(), "none".into()], ..self.spec.clone() };
        [self.spec.clone().disk(&link), without].map(|spec| Plain { spec, past_record: true, ..self.clone() })
    }

    /// Starts one and waits for its end. One that does not end has booted, and is killed.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn run(&self, number: usize) -> PlainRun {
        let file = |kind: &str| self.directory.join(format!("plain-{number}.{kind}"));
        let (serial, stderr) = (file("serial"), file("stderr"));
        // What an earlier one of this number has said is not this one's; mostly there is none.
        let _ = std::fs::remove_file(&serial);
        let named = || record::named(&self.record);
        let before = named();
        let at = SystemTime::now();
        let mut child = Command::new(binary())
            .args(self.spec.arguments(&file("qmp"), &serial))
            .env("FERRY_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&stderr).expect("a file of the test can be made"))
            .spawn()
            .expect("the ferry binary can be started");
        let has_spoken = || std::fs::metadata(&serial).is_ok_and(|file| file.len() > 0);
        let code = poll(LONG, || match ended(&mut child) {
            None if has_spoken() => Some(None),
            None => None,
            code => Some(code),
        });
        if code.flatten().is_none() {
            // Gone already is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
        let text = std::fs::read_to_string(&stderr).unwrap_or_default();
        PlainRun {
            pid: child.id(),
            past_record: self.past_record,
            at,
            ended: SystemTime::now(),
            code: code.flatten(),
            booted: has_spoken(),
            says: text.lines().last().unwrap_or_default().to_owned(),
            named: [before, named()],
        }
    }

    /// Starts one after the other until told to end.
    #[must_use]
    pub fn run_on(self) -> Runs {
        let end = Arc::new(AtomicBool::new(false));
        let told = end.clone();
        let running = std::thread::spawn(move || {
            let mut runs = Vec::new();
            while !told.load(Relaxed) {
                runs.push(self.run(runs.len()));
                std::thread::park_timeout(PAUSE);
            }
            runs
        });
        Runs { end, running: Some(running) }
    }
}

fn ended(child: &mut Child) -> Option<i32> {
    let status = child.try_wait().expect("a child can be waited for")?;
    // One that a signal ended has no status, and is no refusal.
    Some(status.code().unwrap_or(-1))
}

/// Plain runs that go on.
#[derive(Debug)]
pub struct Runs {
    end: Arc<AtomicBool>,
    running: Option<JoinHandle<Vec<PlainRun>>>,
}

impl Runs {
    /// Ends them, and returns what became of each.
    ///
    /// # Panics
    /// When the thread has panicked.
    #[must_use]
    pub fn finish(mut self) -> Vec<PlainRun> {
        self.end.store(true, Relaxed);
        let running = self.running.take().expect("it is there until now");
        running.join().expect("a plain run can be started")
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        self.end.store(true, Relaxed);
        if let Some(running) = self.running.take() {
            // A panic has said so.
            let _ = running.join();
        }
    }
}
