//! A sender: one connection, one send at a time.

use super::body::{Template, message_name};
use super::exchange::{PAUSE, Problem, Purpose, REQUEST_TIME, Run, Tally, ask, kind};
use super::history::{Op, Span};
use super::http::{Answer, Authorization, Failure};
use super::ledger::{MessageNumber, Outcome};
use super::pace::Pacer;
use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;
use std::sync::Arc;

#[derive(Deserialize)]
struct Sent<'a> {
    #[serde(borrow)]
    results: Vec<SentItem<'a>>,
}

#[derive(Deserialize)]
struct SentItem<'a> {
    status: &'a str,
    #[serde(default)]
    code: Option<&'a str>,
}

/// Sends until the run's time is over; `process` names the connection.
pub(super) async fn produce(
    run: Arc<Run>,
    process: usize,
    authorization: Authorization,
    pacer: Option<Arc<Pacer>>,
) {
    let producer = process % run.plan.producers;
    let batch = run.plan.batch;
    let mut template = Template::new(&run.name, producer, batch, run.plan.size_bytes);
    let path = format!("{}/messages", run.queue_path);
    let mut connection = run.client.connection(process);
    connection.authorize(&authorization);
    let mut outcomes = Vec::with_capacity(batch);
    loop {
        let due_ns = match &pacer {
            Some(pacer) => match pacer.next().await {
                Some(due_ns) => due_ns,
                None => return,
            },
            None => run.clock.now_ns(),
        };
        let invoked_ns = run.clock.now_ns();
        if invoked_ns >= run.end_ns() {
            return;
        }
        let first_seq = run.ledger.attempt(producer, batch as u64);
        let body = Bytes::copy_from_slice(template.fill(first_seq, due_ns));
        let request = (Method::POST, path.as_str(), body);
        let reply = ask(&run, &mut connection, Purpose::Send, request, REQUEST_TIME).await;
        let span = Span { process, invoked_ns, returned_ns: run.clock.now_ns() };
        outcomes.clear();
        judge(&reply, batch, &mut outcomes, &mut run.tally());
        let numbers = (first_seq..).map(|seq| MessageNumber { producer, seq });
        for (number, outcome) in numbers.clone().zip(&outcomes) {
            run.ledger.sent(number, *outcome);
        }
        let ops = numbers
            .zip(&outcomes)
            .map(|(number, outcome)| (Op::Send(outcome.word()), message_name(&run.name, number)));
        run.history.note(span, ops);
        if !note(&mut run.tally(), &outcomes, due_ns, span.returned_ns) {
            // What is refused for good would else be asked as fast as it is refused.
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Adds a send to the figures; tells whether it stored anything.
fn note(tally: &mut Tally, outcomes: &[Outcome], due_ns: u64, returned_ns: u64) -> bool {
    let stored = outcomes.iter().filter(|outcome| **outcome == Outcome::Stored).count();
    if stored == 0 {
        return false;
    }
    tally.requests += 1;
    tally.stored += stored as u64;
    tally.send.record(returned_ns.saturating_sub(due_ns));
    tally.last_stored_ns = tally.last_stored_ns.max(returned_ns);
    true
}

/// What became of each message of a send.
fn judge(
    reply: &Result<Answer, Failure>,
    batch: usize,
    outcomes: &mut Vec<Outcome>,
    tally: &mut Tally,
) {
    let sent = match reply {
        Ok(answer) if answer.status == 201 => serde_json::from_slice::<Sent<'_>>(&answer.body).ok(),
        _ => None,
    };
    if let Some(Sent { results }) = sent.filter(|sent| sent.results.len() == batch) {
        for item in results {
            let outcome = match item.status {
                "stored" | "duplicate" => Outcome::Stored,
                "failed" => Outcome::NotStored,
                _ => Outcome::Unknown,
            };
            if outcome != Outcome::Stored {
                tally.error(format!("send item {}", item.code.unwrap_or(item.status)), 1);
            }
            outcomes.push(outcome);
        }
        return;
    }
    tally.error(kind(Purpose::Send, reply), 1);
    let outcome = match reply {
        Ok(answer) if Problem::of(answer).is_unknown() => Outcome::Unknown,
        // Refused before anything was done. Of other failures of the server nobody knows.
        Ok(answer) if (400..500).contains(&answer.status) || answer.status == 503 => {
            Outcome::NotStored
        }
        Err(Failure::Connect) => Outcome::NotStored,
        _ => Outcome::Unknown,
    };
    outcomes.resize(batch, outcome);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(reply: &Result<Answer, Failure>, batch: usize) -> (Vec<Outcome>, Vec<String>) {
        let (mut outcomes, mut tally) = (Vec::new(), Tally::default());
        judge(reply, batch, &mut outcomes, &mut tally);
        (outcomes, tally.errors.into_keys().collect())
    }

    fn answer(status: u16, body: &'static str) -> Result<Answer, Failure> {
        let body = Bytes::from_static(body.as_bytes());
        Ok(Answer { status, retry_after_seconds: None, body })
    }

    #[test]
    fn each_message_of_a_send_has_its_outcome() {
        let mixed = "{\"results\":[{\"index\":0,\"status\":\"stored\",\"id\":\"x\"},\
                     {\"index\":1,\"status\":\"failed\",\"code\":\"too-large\"},\
                     {\"index\":2,\"status\":\"unknown\"}],\"failed_count\":2}";
        let (outcomes, errors) = judged(&answer(201, mixed), 3);
        assert_eq!(outcomes, [Outcome::Stored, Outcome::NotStored, Outcome::Unknown]);
        assert_eq!(errors, ["send item too-large", "send item unknown"]);
        // An answer that cannot be believed proves nothing.
        assert_eq!(judged(&answer(201, mixed), 2).0, [Outcome::Unknown; 2]);
        assert_eq!(judged(&answer(201, "{"), 1).0, [Outcome::Unknown]);
    }

    #[test]
    fn a_send_without_201_is_unknown_unless_it_was_refused() {
        let refused = answer(503, "{\"code\":\"overloaded\",\"outcome\":\"not_stored\"}");
        assert_eq!(judged(&refused, 1).0, [Outcome::NotStored]);
        assert_eq!(judged(&refused, 1).1, ["send 503 overloaded"]);
        assert_eq!(judged(&answer(503, "{\"outcome\":\"unknown\"}"), 1).0, [Outcome::Unknown]);
        assert_eq!(judged(&answer(500, "{\"code\":\"internal\"}"), 1).0, [Outcome::Unknown]);
        assert_eq!(judged(&answer(404, "{}"), 2).0, [Outcome::NotStored; 2]);
        assert_eq!(judged(&Err(Failure::Connect), 1).0, [Outcome::NotStored]);
        for failure in [Failure::Broken, Failure::Timeout] {
            assert_eq!(judged(&Err(failure), 1).0, [Outcome::Unknown]);
        }
    }
}
