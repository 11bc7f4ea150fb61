//! The history of a run, as clients saw it: what the checkers of `tests/common/check.rs` read.
//!
//! One JSON object a line, one line an operation on one message, written when the operation ended:
//!
//! | field | what it says |
//! | --- | --- |
//! | `op` | `send`, `receive` or `ack` |
//! | `process` | the client; it does one thing at a time |
//! | `invoked_ns`, `returned_ns` | when it was begun and ended, on one clock; without `returned_ns` it never ended |
//! | `message` | the message's name, unique in the history |
//! | `outcome` | send: `stored`, `not_stored`, `unknown`; receive: `delivered`; ack: `done`, `lost`, `unknown` |
//! | `fence` | receive: the lease's |
//!
//! Lines stand in no order.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

/// Something a client did.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// A send, with its outcome's word.
    Send(&'static str),
    /// A delivery, with its fence.
    Receive(i64),
    /// An acknowledgement, with its outcome's word.
    Ack(&'static str),
}

/// When an operation of whom began and ended.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The client.
    pub process: usize,
    /// When it began, in nanoseconds since the run's start.
    pub invoked_ns: u64,
    /// When it ended.
    pub returned_ns: u64,
}

struct Sink {
    out: Box<dyn Write + Send>,
    /// The first thing that went wrong; nothing is written after it.
    failed: Option<io::Error>,
    line: String,
}

/// Where a history is written; or nowhere.
pub struct History(Option<Mutex<Sink>>);

impl History {
    /// Writes to `out`, which should be buffered; `None` writes nothing.
    #[must_use]
    pub fn new(out: Option<Box<dyn Write + Send>>) -> Self {
        Self(out.map(|out| Mutex::new(Sink { out, failed: None, line: String::new() })))
    }

    /// Writes what was done with each of the messages in one go. The names are made only if they
    /// are written.
    pub fn note(&self, span: Span, ops: impl Iterator<Item = (Op, String)>) {
        let Some(sink) = &self.0 else { return };
        let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
        let Sink { out, failed, line } = &mut *sink;
        for (op, message) in ops {
            if failed.is_some() {
                return;
            }
            line.clear();
            put(line, span, op, &message);
            *failed = out.write_all(line.as_bytes()).err();
        }
    }

    /// Ends the history.
    ///
    /// # Errors
    /// The first error there was: the history is cut off there.
    pub fn finish(&self) -> io::Result<()> {
        let Some(sink) = &self.0 else { return Ok(()) };
        let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
        match sink.failed.take() {
            Some(error) => Err(error),
            None => sink.out.flush(),
        }
    }
}

fn put(line: &mut String, span: Span, op: Op, message: &str) {
    let (word, outcome) = match op {
        Op::Send(outcome) => ("send", outcome),
        Op::Receive(_) => ("receive", "delivered"),
        Op::Ack(outcome) => ("ack", outcome),
    };
    let Span { process, invoked_ns, returned_ns } = span;
    let message = serde_json::Value::from(message);
    // Writing to a string cannot fail.
    let _ = write!(
        line,
        "{{\"op\":\"{word}\",\"process\":{process},\"invoked_ns\":{invoked_ns},\
         \"returned_ns\":{returned_ns},\"message\":{message},\"outcome\":\"{outcome}\""
    );
    if let Op::Receive(fence) = op {
        let _ = write!(line, ",\"fence\":{fence}");
    }
    line.push_str("}\n");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_says_who_did_what_when() {
        let kept = Kept::default();
        let history = History::new(Some(Box::new(kept.clone())));
        let span = Span { process: 3, invoked_ns: 5, returned_ns: 8 };
        let ops = [(Op::Send("stored"), "a"), (Op::Receive(2), "\"b\n"), (Op::Ack("done"), "c")];
        history.note(span, ops.into_iter().map(|(op, name)| (op, name.to_owned())));
        history.finish().unwrap();
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "{\"op\":\"send\",\"process\":3,\"invoked_ns\":5,\"returned_ns\":8,\
             \"message\":\"a\",\"outcome\":\"stored\"}"
        );
        let delivered: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
        assert_eq!(delivered["message"], "\"b\n");
        assert_eq!(delivered["fence"], 2);
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn a_disk_that_fails_is_told_at_the_end() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let history = History::new(Some(Box::new(Full)));
        let span = Span { process: 0, invoked_ns: 0, returned_ns: 0 };
        history.note(span, [(Op::Ack("done"), String::new())].into_iter());
        assert_eq!(history.finish().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
