use super::*;
use crate::broker::refusal::Difference;

fn every_refusal() -> Vec<(Refusal, &'static str)> {
    let fault = Fault { field: "a".into(), message: "b".into(), code: "c" };
    let difference = Difference { field: "replicas", wanted: "3".into(), actual: "1".into() };
    vec![
        (Refusal::Unauthenticated, "unauthenticated"),
        (Refusal::BadCredentials, "bad-credentials"),
        (Refusal::Forbidden { needs: "x" }, "forbidden"),
        (Refusal::NotOwner { what: "queue" }, "not-owner"),
        (Refusal::RegistrationClosed, "registration-closed"),
        (Refusal::UserNotFound, "user-not-found"),
        (Refusal::SessionNotFound, "session-not-found"),
        (Refusal::ApiKeyNotFound, "api-key-not-found"),
        (Refusal::QueueNotFound, "queue-not-found"),
        (Refusal::MessageNotFound, "message-not-found"),
        (Refusal::NameTaken { what: "queue" }, "name-taken"),
        (Refusal::ConfigDiffers(vec![difference]), "config-differs"),
        (Refusal::LeaseLost, "lease-lost"),
        (Refusal::NotEmpty, "not-empty"),
        (Refusal::StillOwns { count: 2 }, "still-owns"),
        (Refusal::Draining, "draining"),
        (Refusal::PreconditionFailed, "precondition-failed"),
        (Refusal::Invalid(vec![fault]), "validation"),
        (Refusal::TooLarge { limit: 7 }, "too-large"),
        (Refusal::IdempotencyMismatch, "idempotency-mismatch"),
        (Refusal::ReceiptInvalid, "receipt-invalid"),
        (Refusal::RateLimited { retry_after_seconds: 7 }, "rate-limited"),
        (Refusal::InFlightLimit, "in-flight-limit"),
        (Refusal::Quota { what: "queues", limit: 2 }, "quota"),
        (Refusal::NotEnoughReplicas { outcome: Outcome::Unknown }, "not-enough-replicas"),
        (Refusal::Overloaded { why: "w" }, "overloaded"),
        (Refusal::Internal, "internal"),
    ]
}

#[test]
fn every_refusal_has_its_code_and_headers() {
    for (refusal, word) in every_refusal() {
        let problem = Problem::from(refusal);
        assert_eq!(problem.code, word);
        assert!(problem.kind.ends_with(&format!("/{word}")));
        let response = problem.respond();
        assert_eq!(response.content_type(), Some(CONTENT_TYPE));
        let waits = matches!(problem.status, 429 | 503);
        assert_eq!(response.header("retry-after").is_some(), waits, "{word}");
        assert_eq!(
            response.header("www-authenticate"),
            (problem.status == 401).then_some("Bearer")
        );
    }
    let limited = Problem::from(Refusal::RateLimited { retry_after_seconds: 7 });
    assert_eq!(limited.respond().header("retry-after"), Some("7"));
}

#[test]
fn a_server_error_tells_nothing() {
    let error = poem::Error::from_string("secret path /x", StatusCode::INTERNAL_SERVER_ERROR);
    let problem = from_error(&error);
    assert_eq!((problem.code.as_str(), problem.detail.as_str()), ("internal", "internal error"));
    assert_eq!(from_status(StatusCode::BAD_GATEWAY, "x").code, "internal");
}

#[test]
fn statuses_of_the_http_layer_keep_their_text() {
    let error = poem::Error::from_string("at most 5 bytes", StatusCode::PAYLOAD_TOO_LARGE);
    let problem = from_error(&error);
    assert_eq!((problem.code.as_str(), problem.detail.as_str()), ("too-large", "at most 5 bytes"));
    let bare = from_error(&poem::Error::from_status(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!((bare.code.as_str(), bare.retry_after_seconds), ("overloaded", Some(1)));
}
