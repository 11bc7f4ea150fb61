//! Heads that are refused before a request is made of them. hyper answers what it cannot parse, or
//! what does not fit its buffer, by itself and without a body. Its answer is taken out of what it
//! writes, the endpoint is asked in its place, and what the client still sends is read and thrown
//! away for a while, because a socket closed over unread bytes takes the answer with it.

use super::App;
use crate::base::limits;
use bytes::{Buf as _, Bytes};
use futures_util::future::BoxFuture;
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use poem::http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use poem::http::{Method, StatusCode, Version};
use poem::{Endpoint as _, Request};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Why a head is refused. A request that carries one is to be answered and not to be worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadRefused {
    /// It has too many bytes or fields.
    TooLarge,
    /// It is no HTTP.
    Malformed,
}

impl HeadRefused {
    fn count(self) -> Self {
        let reason = match self {
            Self::TooLarge => "head_too_large",
            Self::Malformed => "head_malformed",
        };
        metrics::counter!("tertulia_http_refused_total", "reason" => reason).increment(1);
        self
    }
}

/// Judges the head of a request that was parsed. HTTP/1.1 heads are bounded while they are read;
/// for HTTP/2 hyper's bound is twice as far, so that there is an answer with a body to be given.
pub(super) fn judge(request: &Request, bytes_max: usize) -> Option<HeadRefused> {
    if request.version() != Version::HTTP_2 {
        return None;
    }
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let fields = request.headers();
    // As many as HTTP/1.1 would take: a separator and an end for each field.
    let bytes = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let too_large = target + bytes.sum::<usize>() > bytes_max;
    (too_large || fields.len() > limits::HEADER_FIELDS_MAX).then(|| HeadRefused::TooLarge.count())
}

/// hyper's own answer to a head that it refuses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bare {
    /// Where in the bytes it begins.
    pub(super) start: usize,
    refused: HeadRefused,
    date: String,
}

/// Bytes of such an answer, at most.
const BARE_BYTES_MAX: usize = 256;

/// hyper's own answer if the bytes end with one. It has three header fields, and never the request
/// id that every answer of the endpoint has.
pub(super) fn bare(bytes: &[u8]) -> Option<Bare> {
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let from = bytes.len().saturating_sub(BARE_BYTES_MAX);
    let begins = |at: &usize| bytes[*at..].starts_with(b"HTTP/1.");
    let start = (from..bytes.len()).rev().find(begins)?;
    let head = std::str::from_utf8(&bytes[start..bytes.len() - 4]).ok()?;
    let mut lines = head.split("\r\n");
    let refused = match lines.next()?.split(' ').nth(1)? {
        "400" => HeadRefused::Malformed,
        "414" | "431" => HeadRefused::TooLarge,
        _ => return None,
    };
    let (mut closes, mut empty, mut date) = (false, false, None);
    for line in lines {
        match line.split_once(": ")? {
            ("connection", "close") => closes = true,
            ("content-length", "0") => empty = true,
            ("date", value) => date = Some(value.to_owned()),
            _ => return None,
        }
    }
    let date = date.filter(|_| closes && empty)?;
    Some(Bare { start, refused, date })
}

/// The endpoint's answer in place of a bare one, as it goes over the wire.
pub(super) async fn answer(app: App, bare: Bare) -> Bytes {
    // Nothing of what the client sent is to be believed: no method, no target.
    let method = Method::from_bytes(b"UNKNOWN").unwrap_or_default();
    let refused = bare.refused.count();
    let request = Request::builder().method(method).extension(refused).finish();
    let answer: hyper::Response<BoxBody<Bytes, io::Error>> = app.get_response(request).await.into();
    let (parts, body) = answer.into_parts();
    // A body that breaks off leaves the status to tell what there is to tell.
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    write(parts.status, &parts.headers, &bare.date, &body)
}

fn write(status: StatusCode, headers: &poem::http::HeaderMap, date: &str, body: &[u8]) -> Bytes {
    let mut out = format!("HTTP/1.1 {} ", status.as_str()).into_bytes();
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    let framing = [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING];
    for (name, value) in headers.iter().filter(|(name, _)| !framing.contains(name)) {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    let length = body.len();
    let end = format!("connection: close\r\ncontent-length: {length}\r\ndate: {date}\r\n\r\n");
    out.extend_from_slice(end.as_bytes());
    out.extend_from_slice(body);
    Bytes::from(out)
}

/// A refusal on its way: bytes of answers before it, the endpoint's answer, what is thrown away.
pub(super) struct Refusal {
    out: Bytes,
    answer: Option<BoxFuture<'static, Bytes>>,
    /// Runs once the answer is out.
    discards: Option<Pin<Box<Sleep>>>,
    discard_bytes: usize,
}

impl Refusal {
    /// `before` is what hyper wrote in front of its bare answer.
    pub(super) fn new(before: Bytes, answer: BoxFuture<'static, Bytes>) -> Self {
        let discard_bytes = limits::BODY_DISCARD_BYTES_MAX;
        Self { out: before, answer: Some(answer), discards: None, discard_bytes }
    }

    /// Writes all of it.
    pub(super) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        inner: &mut S,
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.out.is_empty() {
                let n = ready!(Pin::new(&mut *inner).poll_write(cx, &self.out))?;
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.out.advance(n);
            }
            let Some(answer) = &mut self.answer else { return Poll::Ready(Ok(())) };
            self.out = ready!(answer.as_mut().poll(cx));
            self.answer = None;
        }
    }

    /// Reads and throws away until the far end closes, or enough was read, or for long enough.
    pub(super) fn poll_discard<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        inner: &mut S,
    ) -> Poll<()> {
        let sleep = || Box::pin(tokio::time::sleep(limits::BODY_DISCARD_TIME));
        let discards = self.discards.get_or_insert_with(sleep);
        if discards.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut scratch = [0; 8 << 10];
        loop {
            let mut read = ReadBuf::new(&mut scratch);
            let outcome = ready!(Pin::new(&mut *inner).poll_read(cx, &mut read));
            let n = read.filled().len();
            match self.discard_bytes.checked_sub(n) {
                Some(rest) if outcome.is_ok() && n > 0 => self.discard_bytes = rest,
                _ => return Poll::Ready(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DATE: &str = "Tue, 24 Nov 2026 15:00:00 GMT";

    fn head(status: &str, more: &str) -> String {
        format!(
            "HTTP/1.1 {status}\r\n{more}connection: close\r\ncontent-length: 0\r\ndate: {DATE}\
             \r\n\r\n"
        )
    }

    #[test]
    fn a_bare_answer_is_known_by_all_of_it() {
        let found = |text: &str| bare(text.as_bytes()).map(|bare| (bare.start, bare.refused));
        let (malformed, large) = (head("400 Bad Request", ""), head("431 Too Large", ""));
        assert_eq!(found(&malformed), Some((0, HeadRefused::Malformed)));
        assert_eq!(found(&large), Some((0, HeadRefused::TooLarge)));
        assert_eq!(found(&head("414 URI Too Long", "")), Some((0, HeadRefused::TooLarge)));
        // Behind the answer to a request before it.
        let both = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi{malformed}");
        assert_eq!(found(&both), Some((both.len() - malformed.len(), HeadRefused::Malformed)));
        for other in [
            head("200 OK", ""),
            head("404 Not Found", ""),
            head("400 Bad Request", "x-request-id: a\r\n"),
            format!("{malformed}x"),
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "\r\n\r\n".to_owned(),
            String::new(),
        ] {
            assert_eq!(found(&other), None, "{other}");
        }
    }
}
