//! Every kind of answer and what it means.

use serde_json::json;

use super::*;

fn error_body(code: &str, details: Value) -> Vec<u8> {
    let body = json!({
        "error": {"code": code, "message": "because", "details": details},
        "meta": {"request_id": "r", "timestamp": "t"},
    });
    serde_json::to_vec(&body).unwrap()
}

fn push_answer() -> Value {
    json!({"synced": 1, "skipped": 0, "rejected": [], "verdicts": [], "cursor": 7, "mark": "m", "epoch": 1, "timestamp": "t"})
}

fn said(status: u16, body: &[u8]) -> Problem {
    let answer = Answer {
        status,
        content_type: Some("application/json"),
        retry_after: Some("3"),
        location: None,
        body,
    };
    interpret::<PushAnswer>(&answer).unwrap_err()
}

#[test]
fn what_the_server_says_is_understood() {
    let refused = |status, code: &str| {
        Problem::Failed(Failure::Refused {
            status,
            code: code.into(),
            message: "because".into(),
        })
    };
    let message = || "because".to_owned();
    let conflict = json!({"digest": "00".repeat(32), "answer": push_answer()});
    let cases = [
        (
            401,
            "token_expired",
            json!({}),
            Problem::Failed(Failure::Unauthorized { message: message() }),
        ),
        (
            403,
            "forbidden",
            json!({}),
            Problem::Failed(Failure::Forbidden { message: message() }),
        ),
        (404, "not_found", json!({}), refused(404, "not_found")),
        (409, "push_seq_gap", json!({}), Problem::Gap),
        (409, "push_seq_stale", json!({}), Problem::Stale),
        (
            409,
            "epoch_mismatch",
            json!({"epoch": 3}),
            Problem::EpochMismatch { epoch: 3 },
        ),
        (
            409,
            "history_diverged",
            json!({}),
            Problem::Diverged { message: message() },
        ),
        (409, "something_new", json!({}), refused(409, "something_new")),
        (
            409,
            "push_seq_conflict",
            conflict.clone(),
            Problem::Conflict(serde_json::from_value(conflict).unwrap()),
        ),
        (
            413,
            "too_large",
            json!({"limit": 99}),
            Problem::Failed(Failure::TooLarge { limit: Some(99) }),
        ),
        (
            413,
            "too_large",
            json!(null),
            Problem::Failed(Failure::TooLarge { limit: None }),
        ),
        (
            422,
            "invalid_field",
            json!({"field": "x"}),
            refused(422, "invalid_field"),
        ),
    ];
    for (status, code, details, expected) in cases {
        assert_eq!(
            said(status, &error_body(code, details)),
            expected,
            "{status} {code}"
        );
    }
    for status in [429, 503] {
        let expected = Failure::Busy {
            status,
            code: "wait".into(),
            message: message(),
            retry_after_ms: Some(3000),
        };
        assert_eq!(
            said(status, &error_body("wait", json!({}))),
            Problem::Failed(expected)
        );
    }
    for status in [500, 502, 504] {
        let expected = Failure::Server {
            status,
            code: "internal".into(),
            message: message(),
        };
        assert_eq!(
            said(status, &error_body("internal", json!({}))),
            Problem::Failed(expected)
        );
    }
}

#[test]
fn p8_a_conflict_that_is_not_understood_is_a_failure_to_be_tried_again() {
    let problem = said(409, &error_body("push_seq_conflict", json!({"digest": "short"})));
    assert!(
        matches!(problem, Problem::Failed(Failure::Server { .. })),
        "{problem:?}"
    );
}

#[test]
fn what_others_say_neither_logs_out_nor_divides_histories() {
    let html = b"<html>please log in</html>";
    for status in [
        301, 302, 307, 400, 401, 403, 404, 405, 407, 408, 409, 410, 422, 511,
    ] {
        let problem = said(status, html);
        assert!(
            matches!(problem, Problem::Failed(Failure::Unreachable { .. })),
            "{status}: {problem:?}"
        );
    }
    assert_eq!(
        said(413, html),
        Problem::Failed(Failure::TooLarge { limit: None })
    );
    for status in [500, 502, 504] {
        assert!(
            matches!(said(status, html), Problem::Failed(Failure::Server { .. })),
            "{status}"
        );
    }
    for status in [429, 503] {
        let problem = said(status, html);
        let waits = matches!(
            problem,
            Problem::Failed(Failure::Busy {
                retry_after_ms: Some(3000),
                ..
            })
        );
        assert!(waits, "{status}: {problem:?}");
    }
}

#[test]
fn a_result_is_json_and_whole() {
    let whole = serde_json::to_vec(&push_answer()).unwrap();
    let read = |content_type, body: &[u8]| {
        interpret::<PushAnswer>(&Answer {
            status: 200,
            content_type,
            body,
            ..Answer::default()
        })
    };
    assert_eq!(
        read(Some("application/json; charset=utf-8"), &whole)
            .unwrap()
            .cursor,
        7
    );
    for (content_type, body) in [
        (Some("text/html"), &whole[..]),
        (None, &whole),
        (Some("application/json"), &whole[..whole.len() - 1]),
        (Some("application/json"), b"{}"),
        (Some("application/json"), b""),
    ] {
        let problem = read(content_type, body).unwrap_err();
        assert!(
            matches!(problem, Problem::Failed(Failure::Unreachable { .. })),
            "{problem:?}"
        );
    }
}

#[test]
fn p15_a_garbled_answer_is_not_quoted() {
    let answer = Answer {
        status: 200,
        content_type: Some("application/json"),
        body: br#"{"synced": "my secret words"}"#,
        ..Answer::default()
    };
    let Err(Problem::Failed(failure)) = interpret::<PushAnswer>(&answer) else {
        panic!("taken")
    };
    assert!(!failure.to_string().contains("secret"), "{failure}");
}

#[test]
fn retry_after_is_taken_in_seconds_and_anything_else_ignored() {
    for (text, expected) in [
        ("5", Some(5000)),
        (" 0 ", Some(0)),
        ("soon", None),
        ("-1", None),
        ("99999999999999999999", None),
    ] {
        let answer = Answer {
            retry_after: Some(text),
            ..Answer::default()
        };
        assert_eq!(retry_after_ms(&answer), expected, "{text}");
    }
}
