//! The files for launchd: they are what launchd reads, and say what the product promises. They have not been run on macOS.

use std::path::{Path, PathBuf};

use plist::{Dictionary, Value};

/// All of them, with their paths below `packaging/launchd`.
fn agents_and_daemons() -> Vec<(PathBuf, Dictionary)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/launchd");
    let mut found = Vec::new();
    for folder in [root.clone(), root.join("user")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "plist") {
                let value =
                    Value::from_file(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let name = path.strip_prefix(&root).unwrap().to_path_buf();
                found.push((name, value.into_dictionary().unwrap()));
            }
        }
    }
    found
}

#[test]
fn each_starts_with_the_session_in_the_background_and_again_after_a_failure() {
    let found = agents_and_daemons();
    assert_eq!(found.len(), 3);
    for (path, plist) in found {
        let name = path.display();
        assert_eq!(plist["RunAtLoad"], Value::Boolean(true), "{name}");
        assert_eq!(plist["ProcessType"], Value::String("Background".into()), "{name}");
        let keep_alive = plist["KeepAlive"].as_dictionary().unwrap();
        assert_eq!(keep_alive["SuccessfulExit"], Value::Boolean(false), "{name}");
        assert_eq!(plist["Umask"].as_unsigned_integer(), Some(0o077), "{name}");
        // launchd takes a file by its name and an agent by its label; people take them for the same.
        let label = plist["Label"].as_string().unwrap();
        assert_eq!(path.file_stem().unwrap().to_str(), Some(label), "{name}");
    }
}

#[test]
fn each_starts_a_program_of_ours_with_a_log_that_somebody_rotates_or_that_stays_small() {
    for (path, plist) in agents_and_daemons() {
        let name = path.display();
        let words: Vec<&str> = plist["ProgramArguments"]
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word.as_string().unwrap())
            .collect();
        let log = plist.get("StandardErrorPath").and_then(Value::as_string);
        match plist["Label"].as_string() {
            Some("ai.coditect.sync") => {
                assert_eq!(words, ["@PROGRAM@", "run", "--log-file", "@LOG@"], "{name}");
                // Nobody would rotate it.
                assert_eq!(log, None, "{name}");
            }
            Some("ai.coditect.server") => {
                assert_eq!(words[1], "serve", "{name}");
                assert!(log.is_some(), "{name}");
            }
            other => panic!("{name}: {other:?} is none of ours"),
        }
        // A daemon of the system runs as a user of its own.
        let is_daemon = path.parent() == Some(Path::new("")) && words[1] == "serve";
        assert_eq!(plist.contains_key("UserName"), is_daemon, "{name}");
    }
    let rotation = include_str!("../../packaging/launchd/coditect-server.newsyslog.conf");
    assert!(rotation.contains("/usr/local/var/log/coditect/server.log "));
}
