//! The pages in a real browser: what a person sees, on a screen and on a phone.
//! The screenshots are left in target/tmp/screenshots.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{App, Redis, installed};

/// Keep the browser from looking for its maker's servers.
const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];

struct View {
    name: &'static str,
    /// In CSS pixels.
    width: u32,
    height: u32,
    dark: bool,
}

const VIEWS: &[View] = &[
    View {
        name: "desktop",
        width: 1280,
        height: 1100,
        dark: false,
    },
    View {
        name: "desktop-dark",
        width: 1280,
        height: 1100,
        dark: true,
    },
    View {
        name: "phone",
        width: 390,
        height: 1300,
        dark: false,
    },
    View {
        name: "phone-dark",
        width: 390,
        height: 1300,
        dark: true,
    },
];

#[test]
fn the_pages_fit_a_screen_and_a_phone_in_either_scheme() {
    if !installed("chromium") {
        return;
    }
    let Some(mut redis) = Redis::start() else {
        return;
    };
    let app = App::start(&redis.url());
    app.becomes_ready();
    let folder = screenshots();
    for view in VIEWS {
        for (page, path) in [("count", "/"), ("architecture", "/architecture")] {
            shoot(
                &app,
                path,
                view,
                &folder.join(format!("{page}-{}.png", view.name)),
            );
        }
    }
    // One visit per shot of the count, none for icons or anything else.
    let next = app.get("/").number("visits").unwrap();
    assert_eq!(next, VIEWS.len() as u64 + 1);

    redis.kill();
    for view in VIEWS {
        shoot(
            &app,
            "/",
            view,
            &folder.join(format!("away-{}.png", view.name)),
        );
    }
}

/// The browser's own layout says whether the page is wider than the window: the
/// page is put into a frame of that width by a page of the test, which measures it.
#[test]
fn no_page_is_wider_than_a_phone() {
    if !installed("chromium") {
        return;
    }
    let Some(redis) = Redis::start() else {
        return;
    };
    let app = App::start(&redis.url());
    app.becomes_ready();
    for path in ["/", "/architecture"] {
        // Without its policy, as a file, so that the test may measure it.
        let page = app.get(path).body;
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("page.html"), page).unwrap();
        let frame = "<iframe id=f src=page.html width=390 height=900></iframe><script>
            onload = () => {
                const root = f.contentDocument.documentElement;
                document.title = 'measured ' + root.scrollWidth + ' of ' + root.clientWidth;
            }</script>";
        let outer = folder.path().join("outer.html");
        fs::write(&outer, frame).unwrap();
        let dump = browser()
            .args(["--allow-file-access-from-files", "--dump-dom"])
            .arg(format!(
                "--user-data-dir={}",
                folder.path().join("profile").display()
            ))
            .arg(format!("file://{}", outer.display()))
            .output()
            .unwrap();
        let dom = String::from_utf8(dump.stdout).unwrap();
        assert!(dom.contains("measured 390 of 390"), "{path}: {dom}");
    }
}

fn screenshots() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("screenshots");
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn browser() -> Command {
    let mut command = Command::new("chromium");
    command.args(FLAGS).stderr(Stdio::null());
    command
}

fn shoot(app: &App, path: &str, view: &View, file: &Path) {
    let _none_yet = fs::remove_file(file);
    let profile = tempfile::tempdir().unwrap();
    let mut command = browser();
    if view.dark {
        command.arg("--blink-settings=preferredColorScheme=0");
    } else {
        command.arg("--blink-settings=preferredColorScheme=1");
    }
    let status = command
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--window-size={},{}", view.width, view.height))
        .arg(format!("--screenshot={}", file.display()))
        .arg(format!("http://{}{path}", app.address))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "chromium: {status}");
    assert_eq!(size(file), (view.width, view.height), "{}", file.display());
}

/// Width and height from a PNG's header.
fn size(file: &Path) -> (u32, u32) {
    let png = fs::read(file).unwrap();
    assert!(png.starts_with(b"\x89PNG"), "{}", file.display());
    let word = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    (word(16), word(20))
}
