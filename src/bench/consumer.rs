//! A receiver: one connection, receive and acknowledge in turn.

use super::body::{message_name, parse};
use super::exchange::{PAUSE, Purpose, REQUEST_TIME, Run, ask, kind};
use super::history::{Op, Span};
use super::http::{Answer, Authorization, Connection, Failure};
use super::ledger::{Arrival, MessageNumber};
use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a receive waits for a message, in seconds.
const WAIT_SECONDS: u64 = 5;
/// Characters of a foreign body that name it in a history.
const NAME_CHARS_MAX: usize = 64;

#[derive(Deserialize)]
struct Received<'a> {
    #[serde(borrow)]
    messages: Vec<Message<'a>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    /// Empty for one of bytes: that is none of ours.
    #[serde(borrow, default)]
    body: Cow<'a, str>,
    receipt: &'a str,
    fence: i64,
}

#[derive(Deserialize)]
struct Settled<'a> {
    #[serde(borrow)]
    results: Vec<SettledItem<'a>>,
}

#[derive(Deserialize)]
struct SettledItem<'a> {
    status: &'a str,
}

/// Receives and acknowledges until `stop` is true. An acknowledgement that has begun is ended.
pub(super) async fn consume(
    run: Arc<Run>,
    process: usize,
    authorization: Authorization,
    mut stop: watch::Receiver<bool>,
) {
    let mut connection = run.client.connection(process);
    connection.authorize(&authorization);
    let path = format!("{}/leases", run.queue_path);
    let wanted =
        format!("{{\"max_messages\":{},\"wait_seconds\":{WAIT_SECONDS}}}", run.plan.receive_batch);
    let wanted = Bytes::from(wanted);
    let time = REQUEST_TIME + Duration::from_secs(WAIT_SECONDS);
    loop {
        let request = (Method::POST, path.as_str(), wanted.clone());
        let invoked_ns = run.clock.now_ns();
        let reply = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            reply = ask(&run, &mut connection, Purpose::Receive, request, time) => reply,
        };
        let span = Span { process, invoked_ns, returned_ns: run.clock.now_ns() };
        let received = match &reply {
            Ok(answer) if answer.status == 200 => {
                serde_json::from_slice::<Received<'_>>(&answer.body).ok()
            }
            _ => None,
        };
        let Some(received) = received else {
            run.tally().error(kind(Purpose::Receive, &reply), 1);
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(PAUSE) => continue,
            }
        };
        let ours = take(&run, span, &received.messages);
        if !ours.is_empty() {
            settle(&run, &mut connection, process, &ours).await;
        }
    }
}

/// Enters what was received; returns what is to be acknowledged: numbers and receipts. What nobody
/// of this run sent is left alone.
fn take<'a>(run: &Run, span: Span, messages: &[Message<'a>]) -> Vec<(MessageNumber, &'a str)> {
    let mut ours = Vec::with_capacity(messages.len());
    let mut tally = run.tally();
    for message in messages {
        let parsed = parse(&run.name, &message.body);
        let arrival = parsed.map_or(Arrival::Unexpected, |(number, _)| run.ledger.received(number));
        match (arrival, parsed) {
            (Arrival::First, Some((number, due_ns))) => {
                tally.received += 1;
                tally.end_to_end.record(span.returned_ns.saturating_sub(due_ns));
                tally.last_received_ns = tally.last_received_ns.max(span.returned_ns);
                ours.push((number, message.receipt));
            }
            (Arrival::Duplicate, Some((number, _))) => {
                tally.duplicates += 1;
                ours.push((number, message.receipt));
            }
            _ => tally.unexpected += 1,
        }
    }
    drop(tally);
    let ops = messages.iter().map(|message| {
        let name = match parse(&run.name, &message.body) {
            Some((number, _)) => message_name(&run.name, number),
            None => message.body.chars().take(NAME_CHARS_MAX).collect(),
        };
        (Op::Receive(message.fence), name)
    });
    run.history.note(span, ops);
    ours
}

async fn settle(
    run: &Run,
    connection: &mut Connection,
    process: usize,
    ours: &[(MessageNumber, &str)],
) {
    let invoked_ns = run.clock.now_ns();
    let reply = match ours {
        [(_, receipt)] => {
            let path = format!("{}/leases/{receipt}", run.queue_path);
            let request = (Method::DELETE, path.as_str(), Bytes::new());
            ask(run, connection, Purpose::Ack, request, REQUEST_TIME).await
        }
        _ => {
            // Receipts are base64url: they need no escaping.
            let receipts: Vec<&str> = ours.iter().map(|(_, receipt)| *receipt).collect();
            let body = Bytes::from(format!("{{\"ack\":[\"{}\"]}}", receipts.join("\",\"")));
            let path = format!("{}/settlements", run.queue_path);
            let request = (Method::POST, path.as_str(), body);
            ask(run, connection, Purpose::Ack, request, REQUEST_TIME).await
        }
    };
    let span = Span { process, invoked_ns, returned_ns: run.clock.now_ns() };
    let words = verdicts(&reply, ours.len());
    let mut tally = run.tally();
    for word in &words {
        match *word {
            "done" => tally.acked += 1,
            "lost" => tally.error("ack lease-lost", 1),
            _ => tally.error(kind(Purpose::Ack, &reply), 1),
        }
    }
    drop(tally);
    let ops = ours
        .iter()
        .zip(words)
        .map(|((number, _), word)| (Op::Ack(word), message_name(&run.name, *number)));
    run.history.note(span, ops);
}

/// What became of each acknowledgement: `done`, `lost` or `unknown`.
fn verdicts(reply: &Result<Answer, Failure>, count: usize) -> Vec<&'static str> {
    match reply {
        Ok(answer) if answer.status == 204 && count == 1 => vec!["done"],
        Ok(answer) if answer.status == 409 && count == 1 => vec!["lost"],
        Ok(answer) if answer.status == 200 => {
            match serde_json::from_slice::<Settled<'_>>(&answer.body) {
                Ok(settled) if settled.results.len() == count => {
                    let word = |item: &SettledItem<'_>| match item.status {
                        "done" => "done",
                        "lost" => "lost",
                        _ => "unknown",
                    };
                    settled.results.iter().map(word).collect()
                }
                _ => vec!["unknown"; count],
            }
        }
        _ => vec!["unknown"; count],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn answer(status: u16, body: &'static str) -> Result<Answer, Failure> {
        let body = Bytes::from_static(body.as_bytes());
        Ok(Answer { status, retry_after_seconds: None, body })
    }

    #[test]
    fn each_acknowledgement_has_its_verdict() {
        assert_eq!(verdicts(&answer(204, ""), 1), ["done"]);
        assert_eq!(verdicts(&answer(409, "{}"), 1), ["lost"]);
        let mixed = "{\"results\":[{\"status\":\"done\"},{\"status\":\"lost\"},\
                     {\"status\":\"invalid\"}],\"failed_count\":2}";
        assert_eq!(verdicts(&answer(200, mixed), 3), ["done", "lost", "unknown"]);
        for reply in [answer(200, mixed), answer(503, "{}"), Err(Failure::Broken)] {
            assert_eq!(verdicts(&reply, 2), ["unknown"; 2]);
        }
    }

    #[test]
    fn a_receive_is_read_by_reference() {
        let text = "{\"messages\":[{\"id\":\"x\",\"receipt\":\"r\",\"body\":\"b\",\"fence\":4,\
                    \"attributes\":{}},{\"receipt\":\"s\",\"body_base64\":\"AA==\",\"fence\":1}]}";
        let received: Received<'_> = serde_json::from_str(text).unwrap();
        assert!(matches!(received.messages[0].body, Cow::Borrowed("b")));
        assert_eq!((received.messages[0].receipt, received.messages[0].fence), ("r", 4));
        assert_eq!(received.messages[1].body, "");
    }
}
