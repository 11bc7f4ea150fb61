//! The text of a message: its name, when it was due, and filling.

use super::ledger::MessageNumber;
use std::ops::Range;

/// Characters of a run's name.
const RUN_CHARS: usize = 8;
const PRODUCER_CHARS: usize = 5;
const SEQ_CHARS: usize = 12;
const TIME_CHARS: usize = 16;
const PRODUCER: Range<usize> = RUN_CHARS + 1..RUN_CHARS + 1 + PRODUCER_CHARS;
const SEQ: Range<usize> = PRODUCER.end + 1..PRODUCER.end + 1 + SEQ_CHARS;
const TIME: Range<usize> = SEQ.end + 1..SEQ.end + 1 + TIME_CHARS;

/// Bytes of the smallest message: `run.producer.number time`.
pub const SIZE_BYTES_MIN: usize = TIME.end;
/// Producers that have a name.
pub const PRODUCERS_MAX: usize = 10_000;

/// The body of a send: as JSON prepared once, in which only digits change.
pub struct Template {
    json: Vec<u8>,
    /// Where the text of the first message begins.
    first: usize,
    /// From one text to the next.
    stride: usize,
    batch: usize,
}

/// A run's name from 32 random bits.
#[must_use]
pub fn run_name(random: u32) -> String {
    format!("{random:08x}")
}

impl Template {
    /// A send of `batch` messages of `size_bytes` (at least [`SIZE_BYTES_MIN`]) of a producer.
    #[must_use]
    pub fn new(run: &str, producer: usize, batch: usize, size_bytes: usize) -> Self {
        let mut text = format!("{run}.{producer:05}.{:012} {:016}", 0, 0);
        if text.len() < size_bytes {
            text.push(' ');
            text.extend(std::iter::repeat_n('x', size_bytes - text.len()));
        }
        let item = format!("{{\"body\":\"{text}\"}}");
        let head = "{\"messages\":[";
        let json = format!("{head}{}]}}", vec![item.as_str(); batch].join(","));
        let first = head.len() + "{\"body\":\"".len();
        Self { json: json.into_bytes(), first, stride: item.len() + 1, batch }
    }

    /// The JSON with messages numbered from `first_seq`, all due at `due_ns`.
    pub fn fill(&mut self, first_seq: u64, due_ns: u64) -> &[u8] {
        for (i, seq) in (0..self.batch).zip(first_seq..) {
            let text = self.first + i * self.stride;
            put_digits(&mut self.json[text + SEQ.start..text + SEQ.end], seq);
            put_digits(&mut self.json[text + TIME.start..text + TIME.end], due_ns);
        }
        &self.json
    }
}

/// Writes a number with leading zeros.
fn put_digits(out: &mut [u8], mut number: u64) {
    for digit in out.iter_mut().rev() {
        // A remainder of ten is one digit.
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// The name of a message in a history: `run.producer.number`.
#[must_use]
pub fn message_name(run: &str, number: MessageNumber) -> String {
    format!("{run}.{:05}.{:012}", number.producer, number.seq)
}

/// The number and the due time in a body; `None` where it is not of this run.
#[must_use]
pub fn parse(run: &str, body: &str) -> Option<(MessageNumber, u64)> {
    let shape = body.get(..RUN_CHARS) == Some(run)
        && body.get(RUN_CHARS..PRODUCER.start) == Some(".")
        && body.get(PRODUCER.end..SEQ.start) == Some(".")
        && body.get(SEQ.end..TIME.start) == Some(" ");
    let number = |range| body.get(range).and_then(|digits: &str| digits.parse::<u64>().ok());
    let (producer, seq, due_ns) = (number(PRODUCER)?, number(SEQ)?, number(TIME)?);
    let producer = usize::try_from(producer).ok()?;
    shape.then_some((MessageNumber { producer, seq }, due_ns))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_filled_in_is_read_back(
            producer in 0..PRODUCERS_MAX, batch in 1..20usize, size in SIZE_BYTES_MIN..300,
            first_seq in 0..999_999_000_000u64, due_ns in 0..9_999_999_999_999_999u64,
        ) {
            let run = run_name(0xab);
            let mut template = Template::new(&run, producer, batch, size);
            template.fill(7, 7);
            let json: serde_json::Value =
                serde_json::from_slice(template.fill(first_seq, due_ns)).unwrap();
            let messages = json["messages"].as_array().unwrap();
            prop_assert_eq!(messages.len(), batch);
            for (message, seq) in messages.iter().zip(first_seq..) {
                let body = message["body"].as_str().unwrap();
                let number = MessageNumber { producer, seq };
                prop_assert_eq!(body.len(), size);
                prop_assert_eq!(parse(&run, body), Some((number, due_ns)));
                prop_assert!(body.starts_with(&message_name(&run, number)));
                prop_assert_eq!(parse("00000000", body), None);
            }
        }

        #[test]
        fn no_foreign_body_is_taken_for_one_of_ours(body in ".{0,80}") {
            prop_assert_eq!(parse(&run_name(0xab), &body), None);
        }
    }
}
