use std::collections::BTreeSet;
use std::ffi::OsString;

use super::schema::KEYS;
use super::*;

fn parse(text: &str) -> Result<Config, String> {
    let holding = Overrides::default().over_text(text, Path::new("/h/config.toml"));
    holding
        .map(|holding| holding.config)
        .map_err(|error| error.to_string())
}

fn with(environment: &[(&str, &str)], set: &[&str], text: &str) -> Result<Holding, String> {
    let environment = environment
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let given = Given {
        set: set.iter().map(|text| (*text).to_owned()).collect(),
        context_db: None,
    };
    Overrides::new(environment, &given)
        .and_then(|overrides| overrides.over_text(text, Path::new("/h/config.toml")))
        .map_err(|error| error.to_string())
}

/// Every field has a value. A field that is added has to be added here, and then to the schema and the file.
fn with_every_field() -> Config {
    Config {
        context_db: Some("/h/context.db".into()),
        server: Some("https://sync.acme.test".parse().unwrap()),
        ca_file: Some("/h/ca.pem".into()),
        log: Log {
            level: LogLevel::Debug,
        },
        ingest: Ingest {
            claude_projects: true,
            claude_projects_dir: "/h/projects".into(),
        },
        projects: Projects {
            default: Sharing::Exclude,
            include: vec!["a".into()],
            exclude: vec!["b".into()],
        },
        redaction: Redaction {
            enabled: false,
            allow: vec!["x".into()],
            rules: vec![RedactionRule {
                kind: "k".into(),
                pattern: "p".into(),
            }],
        },
    }
}

#[test]
fn a_missing_file_means_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let holding = Overrides::default()
        .over_file(&folder.path().join("config.toml"))
        .unwrap();
    assert_eq!(holding.config, Config::default());
}

#[test]
fn the_file_that_documents_the_defaults_is_the_defaults() {
    assert_eq!(parse(DEFAULT_FILE).unwrap(), Config::default());
    assert_eq!(parse("").unwrap(), Config::default());
}

#[test]
fn every_key_of_the_struct_is_in_the_schema_and_in_the_file_and_the_reverse() {
    let mut of_struct = BTreeSet::new();
    for (name, value) in toml::Table::try_from(with_every_field()).unwrap() {
        match value.as_table() {
            Some(section) => of_struct.extend(section.keys().map(|key| format!("{name}.{key}"))),
            None => drop(of_struct.insert(name)),
        }
    }
    let of_schema: BTreeSet<String> = KEYS.iter().map(|key| key.dotted()).collect();
    assert_eq!(of_struct, of_schema);

    // A setting that stands there as an example has a # right before it, prose has a space between.
    let all_set: String = DEFAULT_FILE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(example) if !example.starts_with(' ') => format!("{example}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let of_file = file::read(&all_set, Path::new("default.toml")).unwrap();
    let of_file: BTreeSet<String> = of_file.iter().map(|(key, _)| key.dotted()).collect();
    assert_eq!(of_file, of_schema);
}

#[test]
fn each_key_takes_its_example_in_the_file_in_the_environment_and_on_the_command_line() {
    for key in KEYS {
        let in_file = parse(&match key.section {
            "" => format!("{} = {}", key.name, key.example),
            section => format!("[{section}]\n{} = {}", key.name, key.example),
        });
        let in_file = in_file.unwrap_or_else(|error| panic!("{error}"));
        let in_environment = with(&[(&key.variable(), key.example)], &[], "").unwrap().config;
        let as_option = format!("{}={}", key.dotted(), key.example);
        assert_eq!(in_file, in_environment, "{}", key.variable());
        assert_eq!(
            in_file,
            with(&[], &[&as_option], "").unwrap().config,
            "{as_option}"
        );
    }
}

#[test]
fn what_is_wrong_in_a_file_is_named_with_its_line_and_what_is_right() {
    let cases = [
        (
            "[ingest]\n\nclaude_project = true",
            "line 3: unknown key `claude_project` in [ingest]: did you mean `claude_projects`?",
        ),
        (
            "contextdb = \"x\"",
            "line 1: unknown key `contextdb` at the top: did you mean `context_db`?",
        ),
        ("Server = \"http://x\"", "did you mean `server`?"),
        (
            "claude-projects = true",
            "unknown key `claude-projects` at the top: did you mean `claude_projects` in [ingest]?",
        ),
        (
            "[log]\nserver = \"http://x\"",
            "unknown key `server` in [log]: did you mean `server` at the top?",
        ),
        (
            "\n[ingst]\nclaude_projects = true",
            "line 2: unknown key `ingst` at the top: did you mean [ingest]?",
        ),
        (
            "ingst.claude_projects = true",
            "line 1: unknown key `ingst` at the top: did you mean [ingest]?",
        ),
        (
            "ingest.claude_project = true",
            "unknown key `claude_project` in [ingest]: did you mean `claude_projects`?",
        ),
        (
            "[projects]\nq = 1",
            "line 2: unknown key `q` in [projects]: known here are default, include, exclude",
        ),
        (
            "x = 1",
            "unknown key `x` at the top: known here are context_db, server, ca_file, log, ingest, projects, redaction",
        ),
        (
            "ingest = true",
            "`ingest` is a section: write [ingest], and its keys below",
        ),
        (
            "[projects]\ndefault = \"exlude\"",
            "line 2: projects.default: \"exlude\" is no value of it: did you mean \"exclude\"?",
        ),
        ("[projects]\ndefault = \"Exclude\"", "did you mean \"exclude\"?"),
        (
            "[projects]\ndefault = \"no\"",
            "\"no\" is no value of it: it takes \"include\", \"exclude\"",
        ),
        (
            "[projects]\ndefault = false",
            "projects.default: expected a text in quotes, found a boolean; write it as in `default = \"exclude\"`",
        ),
        ("[log]\nlevel = \"warning\"", "did you mean \"warn\"?"),
        (
            "[ingest]\nclaude_projects = \"yes\"",
            "ingest.claude_projects: expected true or false, found the text \"yes\"; write it as in `claude_projects = true`",
        ),
        ("[ingest]\nclaude_projects_dir = \"\"", "the path is empty"),
        (
            "\nserver = \"no url\"",
            "line 2: server: \"no url\" is no address",
        ),
        (
            "server = 8377",
            "server: expected an address in quotes, found an integer",
        ),
        (
            "[projects]\nexclude = \"acme\"",
            "projects.exclude: expected a list of texts, found the text \"acme\"; write it as in `exclude = [\"private-*\"]`",
        ),
        (
            "[projects]\nexclude = [\n  \"a\",\n  3,\n]",
            "line 4: projects.exclude: expected a list of texts, found an integer",
        ),
        (
            "[[redaction.rule]]\nkind = \"a\"",
            "line 1: redaction.rule: `pattern` is missing",
        ),
        (
            "[[redaction.rule]]\nkind = \"a\"\npatern = \"b\"",
            "line 3: redaction.rule: unknown key `patern` in [[redaction.rule]]: did you mean `pattern`?",
        ),
        (
            "[[redaction.rule]]\nkind = 3\npattern = \"b\"",
            "line 2: redaction.rule: `kind`: expected a text in quotes",
        ),
        (
            "[redaction]\nrule = [1]",
            "redaction.rule: expected a list of tables",
        ),
        (
            "[log]\nlevel = \"info\"\nlevel = \"info\"",
            "line 3: this is no TOML: duplicate key",
        ),
        ("[log\n", "line 1: this is no TOML"),
    ];
    for (text, expected) in cases {
        let error = parse(text).expect_err(text);
        assert!(error.starts_with("/h/config.toml"), "{error}");
        assert!(
            error.contains(expected),
            "{text:?} says\n  {error}\ninstead of\n  {expected}"
        );
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let error = parse("x = 1\n[log]\nlevel = 2\n").unwrap_err();
    assert_eq!(error.lines().count(), 2, "{error}");
}

#[test]
fn what_is_wrong_in_the_environment_or_on_the_command_line_is_named_by_variable_or_option() {
    let in_environment = [
        (
            ("CODITECT_INGEST_CLAUDE_PROJECTS", "maybe"),
            "CODITECT_INGEST_CLAUDE_PROJECTS: expected true, found \"maybe\"",
        ),
        (
            ("CODITECT_PROJECTS_DEFAULT", "exlude"),
            "CODITECT_PROJECTS_DEFAULT: \"exlude\" is no value of it: did you mean \"exclude\"?",
        ),
        (
            ("CODITECT_SERVER", "nowhere"),
            "CODITECT_SERVER: \"nowhere\" is no address",
        ),
        (
            ("CODITECT_INGEST_CLAUDE_PROJECT", "true"),
            "CODITECT_INGEST_CLAUDE_PROJECT: it sets no key of config.toml: did you mean CODITECT_INGEST_CLAUDE_PROJECTS?",
        ),
        (
            ("CODITECT_PROJECTS_INCLUDE", "[1]"),
            "CODITECT_PROJECTS_INCLUDE: expected a list of texts",
        ),
        (
            ("CODITECT_PROJECTS_INCLUDE", "[x"),
            "CODITECT_PROJECTS_INCLUDE: expected [\"acme-*\"], found \"[x\"",
        ),
    ];
    for (variable, expected) in in_environment {
        let error = with(&[variable], &[], "").unwrap_err();
        assert!(error.contains(expected), "{error}\ninstead of\n{expected}");
    }
    let as_options = [
        (
            "ingest.claude_projects",
            "--set: \"ingest.claude_projects\" has no `=`",
        ),
        (
            "ingest.claude_project=true",
            "unknown key \"ingest.claude_project\": did you mean `ingest.claude_projects`?",
        ),
        ("claude_projects=true", "did you mean `ingest.claude_projects`?"),
        ("nonsense=1", "known are context_db, server"),
        (
            "ingest.claude_projects=1",
            "--set: ingest.claude_projects: expected true or false, found an integer",
        ),
    ];
    for (option, expected) in as_options {
        let error = with(&[], &[option], "").unwrap_err();
        assert!(error.contains(expected), "{error}\ninstead of\n{expected}");
    }
}

#[test]
fn variables_of_other_programs_and_empty_ones_set_nothing() {
    let environment = [
        ("CODITECT_HOME", "/x"),
        ("CODITECT_DATABASE_URL", "postgresql://x"),
        ("CODITECT_SERVER", ""),
        ("PATH", "/bin"),
    ];
    assert_eq!(with(&environment, &[], "").unwrap().config, Config::default());
}

#[test]
fn the_command_line_outweighs_the_environment_which_outweighs_the_file_which_outweighs_the_defaults() {
    let text =
        "[log]\nlevel = \"error\"\n[projects]\ninclude = [\"of the file\"]\nexclude = [\"of the file\"]\n";
    let environment = [
        ("CODITECT_PROJECTS_INCLUDE", "a, b/*"),
        ("CODITECT_LOG_LEVEL", "warn"),
    ];
    let holding = with(&environment, &["log.level=trace"], text).unwrap();
    assert_eq!(holding.config.log.level, LogLevel::Trace);
    assert_eq!(holding.config.projects.include, ["a", "b/*"]);
    assert_eq!(holding.config.projects.exclude, ["of the file"]);
    let source_of = |key: &str| {
        let settings = holding.settings();
        settings
            .into_iter()
            .find(|setting| setting.key == key)
            .unwrap()
            .source
    };
    assert_eq!(source_of("log.level"), Source::Flag("--set".into()));
    assert_eq!(
        source_of("projects.include"),
        Source::Environment("CODITECT_PROJECTS_INCLUDE".into())
    );
    assert_eq!(source_of("projects.exclude"), Source::File);
    assert_eq!(source_of("redaction.enabled"), Source::Default);
}

#[test]
fn a_relative_path_of_the_command_line_starts_where_the_command_was_typed() {
    let given = Given {
        context_db: Some("x.db".into()),
        ..Given::default()
    };
    let overrides = Overrides::new([("CODITECT_CONTEXT_DB".into(), "y.db".into())], &given).unwrap();
    let config = overrides
        .over_text("", Path::new("/h/config.toml"))
        .unwrap()
        .config;
    assert_eq!(
        config.context_db,
        Some(std::env::current_dir().unwrap().join("x.db"))
    );
}

#[test]
fn a_setting_is_changed_and_everything_else_of_the_file_stays() {
    let text =
        "# mine\nserver = \"http://localhost:1\" # why\n\n[projects] # theirs\nexclude = [\"x\"]  # secret\n";
    let changed = with_setting(text, "server", "http://localhost:2").unwrap();
    assert_eq!(changed, text.replace(":1", ":2"));
    let changed = with_setting(text, "projects.exclude", "x,y").unwrap();
    assert_eq!(changed, text.replace("[\"x\"]", "[\"x\", \"y\"]"));
    let changed = with_setting(text, "ingest.claude_projects", "true").unwrap();
    assert_eq!(changed, format!("{text}\n[ingest]\nclaude_projects = true\n"));
    assert_eq!(
        with_setting(&changed, "ingest.claude_projects", "true").unwrap(),
        changed
    );
    assert!(parse(&changed).unwrap().ingest.claude_projects);
}

#[test]
fn a_new_file_says_where_all_keys_are_told() {
    let text = with_setting("", "context_db", "~/x.db").unwrap();
    assert!(
        text.starts_with("# ") && text.contains("config default"),
        "{text}"
    );
    assert_eq!(parse(&text).unwrap().context_db, Some("~/x.db".into()));
}

#[test]
fn remarks_stay_before_the_first_setting() {
    let text = with_setting("# mine\n\n# more\n", "log.level", "warn").unwrap();
    assert_eq!(text, "# mine\n\n# more\n\n[log]\nlevel = \"warn\"\n");
}

#[test]
fn a_setting_that_is_none_changes_nothing() {
    assert!(
        with_setting("", "ingest.claude_project", "true")
            .unwrap_err()
            .contains("did you mean")
    );
    assert!(
        with_setting("", "projects.default", "exlude")
            .unwrap_err()
            .contains("\"exclude\"")
    );
    assert!(with_setting("ingest = 1", "ingest.claude_projects", "true").is_err());
}

#[test]
fn a_file_that_is_a_link_stays_one_and_keeps_its_mode() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (
        folder.path().join("dotfiles.toml"),
        folder.path().join("config.toml"),
    );
    std::fs::write(&real, "").unwrap();
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::symlink("dotfiles.toml", &link).unwrap();
    write_file(&link, "# new").unwrap();
    assert!(link.is_symlink());
    assert_eq!(std::fs::read_to_string(&real).unwrap(), "# new");
    assert_eq!(
        std::fs::metadata(&real).unwrap().permissions().mode() & 0o777,
        0o644
    );
}

#[test]
fn the_home_is_written_as_a_tilde() {
    let home = directories::BaseDirs::new().unwrap().home_dir().to_path_buf();
    assert_eq!(expand_home(Path::new("~/.claude")), home.join(".claude"));
    assert_eq!(expand_home(Path::new("~")), home);
    assert_eq!(expand_home(Path::new("/a/~/b")), Path::new("/a/~/b"));
    assert_eq!(expand_home(Path::new("~other/b")), Path::new("~other/b"));
}
