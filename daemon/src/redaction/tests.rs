//! Each kind with what it finds and what it almost finds, and what holds for every text.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::config::RedactionRule;

#[path = "../../../tests/src/secrets.rs"]
#[expect(
    unreachable_pub,
    reason = "the file is public where it belongs, among the support of the end-to-end tests"
)]
mod secrets;

/// Compiled once: there is a case for each text that the property tests make.
static BUILT_IN: LazyLock<Redactor> = LazyLock::new(Redactor::default);

fn redacted(redactor: &Redactor, text: &str) -> String {
    redactor.redact(text, &mut Findings::new()).into_owned()
}

fn with(change: impl FnOnce(&mut config::Redaction)) -> Result<Redactor, String> {
    let mut config = config::Redaction::default();
    change(&mut config);
    Redactor::new(&config)
}

fn own(kind: &str, pattern: &str) -> RedactionRule {
    RedactionRule {
        kind: kind.into(),
        pattern: pattern.into(),
    }
}

#[test]
fn every_kind_is_found_in_its_text_and_under_its_name() {
    let redactor = Redactor::default();
    let mut wrong = Vec::new();
    for sample in secrets::samples() {
        let redacted = redacted(&redactor, &sample.text);
        let expected = sample.text.replacen(&sample.secret, &mark(sample.kind), 1);
        if redacted != expected {
            wrong.push(format!("{}\n  {:?}\n  {redacted:?}", sample.kind, sample.text));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn secrets_in_json_inside_of_json_are_found() {
    let redactor = Redactor::default();
    let escaped = |text: &str| serde_json::to_string(text).unwrap();
    // Key blocks hold line ends, which are escaped themselves.
    for sample in secrets::samples()
        .iter()
        .filter(|sample| !sample.secret.contains('\n'))
    {
        let (once, twice) = (escaped(&sample.text), escaped(&escaped(&sample.text)));
        for text in [once, twice] {
            let redacted = redacted(&redactor, &text);
            assert!(!redacted.contains(&sample.secret), "{}: {redacted}", sample.kind);
        }
    }
}

#[test]
fn what_almost_looks_like_a_secret_stays() {
    let redactor = Redactor::default();
    let mut wrong = Vec::new();
    for sample in secrets::samples() {
        let redacted = redacted(&redactor, &sample.near_miss);
        if redacted != sample.near_miss {
            wrong.push(format!(
                "{}\n  {:?}\n  {redacted:?}",
                sample.kind, sample.near_miss
            ));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn there_is_a_sample_for_every_kind_and_no_kind_twice() {
    let redactor = Redactor::default();
    let kinds: Vec<&str> = redactor.kinds().iter().map(|kind| kind.kind).collect();
    let sampled: BTreeSet<&str> = secrets::samples().iter().map(|sample| sample.kind).collect();
    assert_eq!(kinds.iter().copied().collect::<BTreeSet<_>>(), sampled);
    assert_eq!(kinds.len(), sampled.len());
    assert!(kinds.len() >= 40, "{}", kinds.len());
    assert!(kinds.iter().all(|kind| is_kind(kind)), "{kinds:?}");
}

#[test]
fn code_prose_and_numbers_around_secret_words_stay() {
    let texts = [
        "let token = self.next_token(Mode::Strict)?;",
        "token: String, password: &str, secret: Option<Secret<'a>>",
        "const password = process.env.DB_PASSWORD1;",
        "password = os.environ[\"DB_PASSWORD_2\"]",
        "password: ${DB_PASSWORD:-postgres1}",
        "token: ${{ secrets.GITHUB_TOKEN }}",
        "PASSWORD=$(pass show db/main1)",
        "password: !vault |",
        "api_key = settings.openai.api_key_v2",
        "\"input_tokens\": 18234, \"max_tokens\": 8192",
        "\"access_token_expires_at\": \"2026-11-24T10:00:00.000Z\"",
        "\"next_page_token\": \"CAUQAA8f3kd93kfj39fjs0f2\"",
        "NEXT_PUBLIC_ANALYTICS_KEY=3f786850e387550fdab836ed7e6dc881",
        "commit 3f786850e387550fdab836ed7e6dc881de23001b",
        "tool_use_id: toolu_01A09q90qw90lq917835lq9 and 550e8400-e29b-41d4-a716-446655440000",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "token_file = /run/secrets/token_2f9a8b7c6d5e4f3a",
        "secret: arn:aws:secretsmanager:eu-west-1:123456789012:secret:db",
        "postgres://user:password@localhost/db and redis://:${REDIS_PASSWORD}@cache:6379",
        "http://localhost:8080/@scope/package and git@github.com:org/repo.git",
        "https://registry.npmjs.org/@types/node/-/node-20.1.0.tgz",
        "Authorization: Bearer $TOKEN, Authorization: Bearer <your token>, Authorization: Basic {login}",
        "The password is hashed with a token of 32 bytes; the secret key stays with you.",
        "assert!(text.contains(\"-----BEGIN PRIVATE KEY-----\"));",
        "pwd: /home/dev/work/project1",
        "\"password\": \"At least 8 characters and 1 digit\"",
        "curl -u \"$USER:$PASSWORD\" https://x.test",
        "--token TOKEN, --password-file FILE1, --secret-key <KEY>",
        "mysql -h db.test -P3306 -p shop1 && docker run -p8080:80 nginx:1.27",
        "docker login --password-stdin registry.test, docker login -p \"$TOKEN1\", redis-cli --askpass -a $PASS1",
        "store = (key: string, value: string) => { cache[key] = value.toString2(); }",
        "- name: DB_PASSWORD\n  valueFrom:\n    secretKeyRef:\n      name: db2\n      key: password1",
        "{\"name\": \"PASSWORD_FILE\", \"value\": \"run/secrets/db1\"}",
        "{\"name\": \"MAX_TOKENS\", \"value\": \"8192\"}, {\"key\": \"token\", \"value\": 12345678}",
        "Cookie: theme=dark-blue-2-columns; Set-Cookie: session=; Max-Age=0; the cookie: session=deleted-by-the-server",
        "model: claude-3-5-sonnet-20241022, token: gpt-4-turbo-2024-04-09",
    ];
    let redactor = Redactor::default();
    for text in texts {
        assert_eq!(redacted(&redactor, text), text);
    }
}

#[test]
fn a_text_in_which_findings_never_end_goes_as_a_whole() {
    // Each letter that is replaced lays the next one open.
    let redactor = with(|config| config.rules.push(own("letter", "a\\b"))).unwrap();
    let mut counts = Findings::new();
    assert_eq!(
        redactor.redact("said: aaaa", &mut counts),
        "said: ".to_owned() + &mark("letter").repeat(4)
    );
    let text = format!("said: {}", "a".repeat(2 * PASSES_MAX));
    let redacted = redactor.redact(&text, &mut counts);
    assert_eq!(redacted, mark(WHOLE_TEXT));
    assert_eq!(counts[WHOLE_TEXT], 1);
    assert_eq!(redactor.findings(&redacted), []);
    assert!(
        fits(&redacted, &text),
        "another device tells that it is a form of its own text"
    );
}

#[test]
fn overlapping_findings_are_one_mark_of_the_most_specific_kind() {
    let token = ["gh", "p_", &secrets::random(1, "abcdefgh01234567", 36)].concat();
    let text = format!("GITHUB_TOKEN={token}");
    assert_eq!(
        redacted(&Redactor::default(), &text),
        "GITHUB_TOKEN=[REDACTED:github-token]"
    );
    let text = format!("https://x-access-token:{token}@github.com/o/r");
    let expected = "https://x-access-token:[REDACTED:github-token]@github.com/o/r";
    assert_eq!(redacted(&Redactor::default(), &text), expected);
}

#[test]
fn secrets_side_by_side_each_get_their_mark() {
    let token = |seed| ["gh", "p_", &secrets::random(seed, "abcdefgh01234567", 36)].concat();
    let text = format!("{}\\n{} {}", token(1), token(2), token(3));
    let mark = "[REDACTED:github-token]";
    assert_eq!(
        redacted(&Redactor::default(), &text),
        format!("{mark}\\n{mark} {mark}")
    );
}

#[test]
fn findings_are_counted_by_kind() {
    let mut counts = Findings::new();
    let token = ["gh", "p_", &secrets::random(1, "abcdefgh01234567", 36)].concat();
    let redactor = Redactor::default();
    redactor.redact(&format!("{token} {token}"), &mut counts);
    redactor.redact("DB_PASSWORD=hunter2hunter2", &mut counts);
    assert_eq!(
        counts,
        Findings::from([("github-token".into(), 2), ("password".into(), 1)])
    );
}

#[test]
fn the_users_own_rules_come_first_and_replace_the_group_secret_alone() {
    let redactor = with(|config| {
        config.rules = vec![
            own("acme-badge", "badge (?<secret>[0-9]{6})"),
            own("acme-host", r"[a-z]+\.corp\.acme"),
        ];
    })
    .unwrap();
    assert_eq!(
        redacted(&redactor, "badge 123456 opens db.corp.acme"),
        "badge [REDACTED:acme-badge] opens [REDACTED:acme-host]"
    );
    assert!(redactor.kinds()[0].own);
}

#[test]
fn what_the_allow_list_matches_is_no_finding() {
    let redactor = with(|config| config.allow = vec!["^hunter".into()]).unwrap();
    assert_eq!(
        redacted(&redactor, "password=hunter2hunter2"),
        "password=hunter2hunter2"
    );
    assert_eq!(
        redacted(&redactor, "password=fisher2fisher2"),
        "password=[REDACTED:password]"
    );
}

#[test]
fn redaction_can_be_switched_off() {
    let redactor = with(|config| config.enabled = false).unwrap();
    assert_eq!(
        redacted(&redactor, "password=hunter2hunter2"),
        "password=hunter2hunter2"
    );
    assert!(redactor.kinds().is_empty());
}

#[test]
fn a_wrong_pattern_is_refused_by_key_value_and_reason() {
    let wrong = |change: &dyn Fn(&mut config::Redaction)| with(change).unwrap_err();
    for (error, parts) in [
        (
            wrong(&|c| c.allow = vec!["a(".into()]),
            ["redaction.allow", "a(", "unclosed group"],
        ),
        (
            wrong(&|c| c.rules = vec![own("x", "[")]),
            ["redaction.rule", "\"x\"", "unclosed character class"],
        ),
        (
            wrong(&|c| c.rules = vec![own("X y", "a")]),
            ["redaction.rule", "X y", "lower-case"],
        ),
        (
            wrong(&|c| c.rules = vec![own("x", "a*")]),
            ["redaction.rule", "a*", "nothing"],
        ),
    ] {
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn a_text_fits_what_was_redacted_of_it_and_nothing_else() {
    let text = "key AKIAX and pw x1.";
    for redacted in [
        text,
        "key [REDACTED:a] and pw x1.",
        "key AKIAX and pw [REDACTED:password].",
        "[REDACTED:own]",
        "key [REDACTED:a] and pw [REDACTED:b]",
        "[REDACTED:x][REDACTED:y] and pw x1.",
    ] {
        assert!(fits(redacted, text), "{redacted}");
    }
    for redacted in [
        "key [REDACTED:a] and pw x2.",
        "key [REDACTED:a] and pw x1. more",
        "no [REDACTED:a] and pw x1.",
        "key AKIAX and pw x1.[REDACTED:a]",
        // A password has no spaces.
        "key [REDACTED:password]",
        "[REDACTED:NO KIND]",
    ] {
        assert!(!fits(redacted, text), "{redacted}");
    }
}

/// Texts made of pieces that matter here: samples, parts of them, marks, signs and letters.
fn texts() -> impl Strategy<Value = String> {
    let samples: Vec<String> = secrets::samples()
        .into_iter()
        .flat_map(|sample| {
            let half = sample.text.floor_char_boundary(sample.text.len() / 2);
            [
                sample.text[half..].to_owned(),
                sample.text[..half].to_owned(),
                sample.secret,
                sample.text,
            ]
        })
        .collect();
    let piece = prop_oneof![
        4 => proptest::sample::select(samples),
        1 => Just("[REDACTED:password]".to_owned()),
        1 => Just("[REDACTED:".to_owned()),
        1 => "[ \\n\"'\\\\=:@/.é-]{0,3}",
        1 => "(password|token|api_key|-----)[:= \"]{0,3}",
        1 => "\\PC{0,12}",
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn what_is_redacted_is_not_redacted_again(text in texts()) {
        let redactor = &*BUILT_IN;
        let once = redacted(redactor, &text);
        prop_assert_eq!(redactor.findings(&once), vec![]);
        prop_assert_eq!(redacted(redactor, &once), once);
    }

    #[test]
    fn a_text_without_findings_is_handed_through_and_any_other_differs(text in texts()) {
        let redactor = &*BUILT_IN;
        let (found, mut counts) = (redactor.findings(&text), Findings::new());
        let redacted = redactor.redact(&text, &mut counts);
        prop_assert_eq!(found.is_empty(), matches!(redacted, Cow::Borrowed(_)));
        prop_assert_eq!(found.is_empty(), counts.is_empty());
        prop_assert_eq!(found.is_empty(), redacted == text);
    }

    #[test]
    fn a_text_fits_its_redacted_form(text in texts()) {
        let redacted = redacted(&BUILT_IN, &text);
        prop_assert!(fits(&redacted, &text), "{} {}", redacted, text);
    }

    #[test]
    fn findings_lie_in_the_text_in_order_without_overlaps_and_outside_of_marks(text in texts()) {
        let redactor = &*BUILT_IN;
        let mut end = 0;
        for finding in redactor.findings(&text) {
            prop_assert!(finding.range.start >= end && !finding.range.is_empty());
            prop_assert!(!is_marked(&text[finding.range.clone()]));
            end = finding.range.end;
        }
    }
}
