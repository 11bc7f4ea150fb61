//! Publishing.

use super::messages::{SendResponse, SendResult};
use poem_openapi::Object;
use serde::Serialize;

/// What became of the messages, at least one of which is stored.
#[derive(Debug, Object, Serialize)]
pub struct PublishResponse {
    /// One per message, in order.
    pub results: Vec<PublishResult>,
    /// How many are not known to be stored.
    pub failed_count: i32,
}

/// What became of one message.
#[derive(Debug, Object, Serialize)]
pub struct PublishResult {
    /// Its place in the request, from 0.
    pub index: i32,
    /// `stored`: it is safe. `duplicate`: it was, under the same key. `failed`: it will never be
    /// delivered. `unknown`: it may or may not be. More may come.
    pub status: String,
    /// The message's id, when it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Copies on disk when this was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Why it is not stored: a problem's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Whether publishing it once more may succeed.
    pub retryable: bool,
    /// Subscriptions that get it.
    pub matched_subscriptions: i32,
}

impl PublishResponse {
    /// What became of each message, and how many subscriptions get it.
    #[must_use]
    pub fn new(response: SendResponse, matched: Vec<i32>) -> Self {
        let result = |(result, matched): (SendResult, i32)| PublishResult {
            index: result.index,
            status: result.status,
            id: result.id,
            replicas: result.replicas,
            code: result.code,
            detail: result.detail,
            retryable: result.retryable,
            matched_subscriptions: matched,
        };
        let results = response.results.into_iter().zip(matched).map(result).collect();
        Self { results, failed_count: response.failed_count }
    }
}
