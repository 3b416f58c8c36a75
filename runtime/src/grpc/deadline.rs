//! Deadlines of gRPC calls.
//!
//! Responsible for the `grpc-timeout` header. Always holds: a deadline that the caller set covers
//! the whole call, streamed messages included; the server's own default only the time until the
//! response begins, because streams may live long. Not here: the caller's side, which tonic does.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;

const TIMEOUT_HEADER: &str = "grpc-timeout";

/// Longest value in the header: at most 8 digits, by the gRPC protocol description.
const TIMEOUT_DIGITS_MAX: usize = 8;

/// The deadlines of one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// For the whole call, set by the caller.
    call: Option<Instant>,
    /// For the beginning of the response.
    response: Option<Instant>,
}

impl Deadlines {
    /// From a request's headers and the server's default.
    pub(super) fn of(headers: &HeaderMap, default: Option<Duration>) -> Result<Self, Status> {
        let asked = match headers.get(TIMEOUT_HEADER) {
            None => None,
            Some(value) => {
                let parsed = value.to_str().ok().and_then(parse_timeout);
                Some(parsed.ok_or_else(|| Status::invalid_argument("malformed grpc-timeout"))?)
            }
        };
        let now = Instant::now();
        let shortest = [asked, default].into_iter().flatten().min();
        Ok(Self {
            call: asked.and_then(|asked| now.checked_add(asked)),
            response: shortest.and_then(|shortest| now.checked_add(shortest)),
        })
    }

    /// Waits for the response to begin.
    pub(super) async fn bound<T>(&self, response: impl Future<Output = T>) -> Result<T, Status> {
        match self.response {
            None => Ok(response.await),
            Some(deadline) => tokio::time::timeout_at(deadline, response)
                .await
                .map_err(|_| expired()),
        }
    }

    /// Ends the messages of the response at the caller's deadline.
    pub(super) fn bound_body(&self, response: Response<Body>) -> Response<Body> {
        let Some(deadline) = self.call else {
            return response;
        };
        if http_body::Body::is_end_stream(response.body()) {
            return response;
        }
        response.map(|body| {
            Body::new(BoundBody {
                body: Some(body),
                sleep: Box::pin(tokio::time::sleep_until(deadline)),
            })
        })
    }
}

fn expired() -> Status {
    Status::deadline_exceeded("deadline exceeded")
}

/// `1*8DIGIT unit`, where unit is one of `H M S m u n`.
fn parse_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty()
        || digits.len() > TIMEOUT_DIGITS_MAX
        || !digits.bytes().all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(count.checked_mul(3600)?)),
        'M' => Some(Duration::from_secs(count.checked_mul(60)?)),
        'S' => Some(Duration::from_secs(count)),
        'm' => Some(Duration::from_millis(count)),
        'u' => Some(Duration::from_micros(count)),
        'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// A response body that ends with `DEADLINE_EXCEEDED` when its time is up.
struct BoundBody {
    /// Gone once the deadline has passed, so that the handler's work is dropped.
    body: Option<Body>,
    sleep: Pin<Box<Sleep>>,
}

impl http_body::Body for BoundBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        if let ready @ Poll::Ready(_) = Pin::new(body).poll_frame(cx) {
            return ready;
        }
        if self.sleep.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.body = None;
        let mut trailers = HeaderMap::new();
        match expired().add_header(&mut trailers) {
            Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Err(status) => Poll::Ready(Some(Err(status))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body
            .as_ref()
            .is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use http_body_util::BodyExt as _;

    #[test]
    fn every_unit_is_understood() {
        for (text, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(parse_timeout(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn malformed_timeouts_are_refused() {
        for text in [
            "",
            "S",
            "1",
            "1s",
            "1 S",
            "-1S",
            "+1S",
            "123456789S",
            "1.5S",
            "1é",
            "é",
        ] {
            assert_eq!(parse_timeout(text), None, "{text}");
            let mut headers = HeaderMap::new();
            headers.insert(TIMEOUT_HEADER, text.parse().unwrap());
            let status = Deadlines::of(&headers, None).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
        }
    }

    fn deadlines(asked: Option<&str>, default: Option<u64>) -> Deadlines {
        let mut headers = HeaderMap::new();
        if let Some(asked) = asked {
            headers.insert(TIMEOUT_HEADER, asked.parse().unwrap());
        }
        Deadlines::of(&headers, default.map(Duration::from_secs)).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_shorter_of_both_bounds_the_response() {
        for (asked, default, expected) in [
            (Some("5S"), Some(30), 5),
            (Some("60S"), Some(30), 30),
            (None, Some(30), 30),
            (Some("5S"), None, 5),
        ] {
            let began = Instant::now();
            let status = deadlines(asked, default)
                .bound(std::future::pending::<()>())
                .await
                .unwrap_err();
            assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
            assert_eq!(began.elapsed(), Duration::from_secs(expected));
        }
        assert_eq!(deadlines(None, None).bound(async { 7 }).await.unwrap(), 7);
    }

    struct Endless;
    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = Status;
        fn poll_frame(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_at_the_callers_deadline() {
        let deadlines = deadlines(Some("5S"), Some(1));
        let began = Instant::now();
        let response = deadlines.bound_body(Response::new(Body::new(Endless)));
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "4");
    }

    #[tokio::test(start_paused = true)]
    async fn the_servers_default_does_not_end_a_stream() {
        let deadlines = deadlines(None, Some(1));
        let response = deadlines.bound_body(Response::new(Body::new(Endless)));
        let collect = response.into_body().collect();
        let ended = tokio::time::timeout(Duration::from_secs(600), collect).await;
        assert!(ended.is_err());
    }
}
