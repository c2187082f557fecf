//! A browser that looks at pages: what its script makes of them, and how they look.

use std::path::Path;
use std::process::{Command, Stdio};

/// A browser without a screen.
pub(crate) struct Browser(&'static str);

impl Browser {
    /// `None`, with a line that says so, where there is none.
    pub(crate) fn find() -> Option<Browser> {
        let runs = |name: &&str| {
            Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
        };
        let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(runs);
        if found.is_none() {
            eprintln!(
                "skipped: the page was made, and no chromium is on the path to look at it (Debian: apt-get install chromium)"
            );
        }
        found.map(Browser)
    }

    /// Opens `url` and returns what the browser prints.
    fn run(&self, url: &str, options: &[String]) -> String {
        let profile = tempfile::tempdir().expect("a temporary directory can be made");
        let output = Command::new("timeout")
            .args(["60", self.0, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--hide-scrollbars",
            ])
            .args(["--virtual-time-budget=5000", "--no-pdf-header-footer"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(options)
            .arg(url)
            .output()
            .expect("the browser can be started");
        assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The page's document once its script has run, without an error.
    pub(crate) fn dom(&self, url: &str) -> String {
        let dom = self.run(url, &["--dump-dom".to_owned()]);
        let body = &dom[dom.find("<body").unwrap_or(0)..];
        let body = &body[..body.find('>').unwrap_or(0)];
        assert!(body.contains("data-ready=\"1\"") && !body.contains("data-error"), "{url}: {body}");
        dom
    }

    /// Pictures at the widths of a phone and of a desk, in the dark, and on paper.
    pub(crate) fn pictures(&self, url: &str, name: &str) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
        std::fs::create_dir_all(&folder).expect("a folder for pictures can be made");
        // A window is never as narrow as a phone; a frame in it is.
        let phone = folder.join(format!("{name}-phone.html"));
        let frame =
            format!("<body style='margin:0'><iframe src='{url}' style='width:390px;height:2400px;border:0'></iframe>");
        std::fs::write(&phone, frame).expect("a page can be written");
        let dark = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"];
        for (look, url, window, more) in [
            ("phone", address(&phone, ""), "390,2400", &[][..]),
            ("desk", url.to_owned(), "1360,2000", &[]),
            ("dark", url.to_owned(), "1360,2000", &dark),
        ] {
            let picture = folder.join(format!("{name}-{look}.png"));
            let mut options = vec![format!("--screenshot={}", picture.display()), format!("--window-size={window}")];
            options.extend(more.iter().map(|option| (*option).to_owned()));
            self.run(&url, &options);
            assert!(std::fs::read(&picture).is_ok_and(|bytes| bytes.starts_with(b"\x89PNG")), "{}", picture.display());
        }
        let paper = folder.join(format!("{name}.pdf"));
        self.run(url, &[format!("--print-to-pdf={}", paper.display())]);
        assert!(std::fs::read(&paper).is_ok_and(|bytes| bytes.starts_with(b"%PDF")), "{}", paper.display());
    }
}

/// The address of a page, with a fragment.
pub(crate) fn address(page: &Path, fragment: &str) -> String {
    format!("file://{}{fragment}", page.display())
}
