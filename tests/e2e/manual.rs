//! What the programs say of themselves to shells and to `man`.

use std::path::Path;
use std::process::{Command, Stdio};

use coditect_tests::program::program;

const PROGRAMS: [(&str, &str); 2] = [
    ("coditect-sync", "quarantine"),
    ("coditect-server", "database-url"),
];

#[test]
fn completions_are_made_for_every_shell_and_a_shell_that_is_here_understands_them() {
    for (name, command) in PROGRAMS {
        for (shell, check) in [
            ("bash", Some("-n")),
            ("zsh", Some("-n")),
            ("fish", Some("--no-execute")),
        ] {
            let script = said(name, &["completions", shell]);
            assert!(
                script.contains(name) && script.contains(command),
                "{shell}: {script}"
            );
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("script");
            std::fs::write(&file, script).unwrap();
            let checked = Command::new(shell).args(check).arg(&file).output();
            if let Ok(checked) = checked {
                assert!(checked.status.success(), "{shell}: {checked:?}");
            }
        }
    }
}

#[test]
fn every_command_has_a_man_page_that_man_takes_without_a_warning() {
    for (name, command) in PROGRAMS {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("man1");
        said(name, &["man", "--dir", dir.to_str().unwrap()]);
        let main = std::fs::read_to_string(dir.join(format!("{name}.1"))).unwrap();
        assert_eq!(
            main,
            said(name, &["man"]),
            "the page that is printed is the one that is written"
        );
        assert!(dir.join(format!("{name}-{command}.1")).exists(), "{command}");
        for page in std::fs::read_dir(&dir).unwrap() {
            assert_readable(&page.unwrap().path());
        }
    }
}

fn assert_readable(page: &Path) {
    let text = std::fs::read_to_string(page).unwrap();
    assert!(text.contains(".SH NAME"), "{}", page.display());
    let shown = Command::new("man")
        .args(["--warnings", "-l"])
        .arg(page)
        .env("MANROFFSEQ", "")
        .stdin(Stdio::null())
        .output();
    // Not every machine has man, and not every man this option.
    if let Ok(shown) = shown
        && shown.status.success()
    {
        let warnings = String::from_utf8_lossy(&shown.stderr);
        assert!(warnings.is_empty(), "{}: {warnings}", page.display());
    }
}

fn said(name: &str, args: &[&str]) -> String {
    let output = Command::new(program(name)).args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
