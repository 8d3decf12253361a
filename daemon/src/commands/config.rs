//! `config`: what is set and why, what is wrong with it, and changing it.

use std::io;

use serde_json::json;

use crate::cli::{ConfigCheck, ConfigCommand, ConfigSet, Place};
use crate::config::{self, ConfigError, DEFAULT_FILE, Holding, Overrides, Source};
use crate::output::{self, Fault, remark};
use crate::paths::make_private_folder;
use crate::policy::Policy;

pub(crate) fn run(command: ConfigCommand, place: &Place) -> Result<(), Fault> {
    match command {
        ConfigCommand::Default => output::text(DEFAULT_FILE),
        ConfigCommand::Show(args) => show(args.json, place),
        ConfigCommand::Check(args) => check(&args, place),
        ConfigCommand::Set(args) => set(&args, place),
    }
}

fn show(json: bool, place: &Place) -> Result<(), Fault> {
    let path = place.paths()?.config;
    let holding = place
        .overrides()?
        .over_file(&path)
        .map_err(|error| Fault::Usage(error.to_string()))?;
    let settings = holding.settings();
    if json {
        return output::json(&json!({"file": path, "exists": path.exists(), "settings": settings}));
    }
    let mut text = match path.exists() {
        true => format!("# {}\n", path.display()),
        false => format!("# {} does not exist\n", path.display()),
    };
    for setting in settings {
        let source = match setting.source {
            Source::Default => "default".into(),
            Source::File => "file".into(),
            Source::Environment(name) => format!("environment, {name}"),
            Source::Flag(name) => format!("command line, {name}"),
        };
        let line = match setting.value {
            Some(value) => format!("{} = {value}", setting.key),
            None => format!("# {} is not set", setting.key),
        };
        text.push_str(&format!("{line:<55}  # {source}\n"));
    }
    output::text(&text)
}

/// The answer to a file that is wrong is no, and no wrong usage.
fn check(args: &ConfigCheck, place: &Place) -> Result<(), Fault> {
    let path = match &args.file {
        Some(file) => file.clone(),
        None => place.paths()?.config,
    };
    if args.file.is_some() && !path.exists() {
        return Err(Fault::failed(format!("{} does not exist", path.display())));
    }
    // The file is judged by itself: what is set over it is this shell's.
    let problems = match Overrides::default().over_file(&path) {
        Ok(holding) => match Policy::new(&holding.config) {
            Ok(_) => Vec::new(),
            Err(text) => vec![format!("{}: {text}", path.display())],
        },
        Err(ConfigError::Invalid(problems)) => problems.iter().map(ToString::to_string).collect(),
        Err(error @ ConfigError::Unreadable { .. }) => vec![error.to_string()],
    };
    let is_fine = problems.is_empty();
    if args.json {
        output::json(&json!({"file": path, "ok": is_fine, "problems": problems}))?;
    } else if is_fine {
        output::text(&match path.exists() {
            true => format!("{} is fine", path.display()),
            false => format!("{} does not exist: all defaults hold", path.display()),
        })?;
    }
    match (is_fine, args.json) {
        (true, _) => Ok(()),
        (false, true) => Err(Fault::failed("the file is wrong, see above")),
        (false, false) => Err(Fault::failed(problems.join("\n"))),
    }
}

fn set(args: &ConfigSet, place: &Place) -> Result<(), Fault> {
    let path = place.paths()?.config;
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Fault::failed(format!("reading {}: {error}", path.display()))),
    };
    let after = config::with_setting(&before, &args.key, &args.value).map_err(Fault::Usage)?;
    if after == before {
        return output::text(&format!(
            "{} = {} already, in {}",
            args.key,
            args.value,
            path.display()
        ));
    }
    // A value that fits its key may still be none, such as a pattern that is not well-formed; and what was wrong
    // before is not made to look right.
    let holding = Overrides::default()
        .over_text(&after, &path)
        .map_err(|error| Fault::Usage(error.to_string()))?;
    Policy::new(&holding.config).map_err(Fault::Usage)?;
    if let Some(folder) = path.parent() {
        make_private_folder(folder)?;
    }
    config::write_file(&path, &after)?;
    output::text(&format!("{} = {}, in {}", args.key, args.value, path.display()))?;
    tell_what_is_gone(args, &before, &holding, &path);
    warn_if_outweighed(args, place, &path)
}

/// A list is replaced, and an entry that gets lost may have kept something here.
fn tell_what_is_gone(args: &ConfigSet, before: &str, now: &Holding, path: &std::path::Path) {
    let entries = |holding: &Holding| -> Vec<String> {
        let all = holding.settings();
        let setting = all.into_iter().find(|setting| setting.key == args.key);
        match setting.and_then(|setting| setting.value) {
            Some(toml::Value::Array(entries)) => entries.iter().map(ToString::to_string).collect(),
            Some(_) | None => Vec::new(),
        }
    };
    let Ok(before) = Overrides::default().over_text(before, path) else {
        return;
    };
    let now = entries(now);
    let gone: Vec<String> = entries(&before)
        .into_iter()
        .filter(|entry| !now.contains(entry))
        .collect();
    if !gone.is_empty() {
        remark(&format!(
            "the list is a new one; no longer in {}: {}",
            args.key,
            gone.join(", ")
        ));
    }
}

fn warn_if_outweighed(args: &ConfigSet, place: &Place, path: &std::path::Path) -> Result<(), Fault> {
    let holding = place.overrides()?.over_file(path);
    let settings = holding.map(|holding| holding.settings()).unwrap_or_default();
    let setting = settings.into_iter().find(|setting| setting.key == args.key);
    if let Some(Source::Environment(name)) = setting.map(|setting| setting.source) {
        remark(&format!(
            "the variable {name} is set here too, and outweighs the file"
        ));
    }
    Ok(())
}
