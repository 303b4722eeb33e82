//! Long answers that many readers share: encoded once, outside the threads that others wait for, and kept in small parts.
//!
//! All that readers may hold at a time is bounded, however slowly they read: an answer is kept while there is room for it and
//! newer ones, and a reader of one that is not kept any more is cut off. A reader itself holds a part or two.

use crate::fault::Fault;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::answer::refuse;

/// The length of a part.
const PART: usize = 32 * 1024;
/// What is kept of all answers together, in bytes; the two newest in any case.
const MOST: usize = 64 << 20;
/// How long an answer is kept. A reader that is slower than that is cut off if newer ones are asked for.
const LONGEST: Duration = Duration::from_secs(30);

/// An answer in parts.
#[derive(Debug, Default)]
pub(super) struct Text {
    parts: Vec<Bytes>,
    length: usize,
}

/// Takes an answer as it is encoded.
#[derive(Debug, Default)]
pub(super) struct Parts {
    text: Text,
    open: Vec<u8>,
}

impl io::Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PART.saturating_sub(self.open.len());
        let some = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.open.extend_from_slice(some);
        if self.open.len() >= PART {
            self.close();
        }
        Ok(some.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Parts {
    fn close(&mut self) {
        // A copy, so that no part keeps a larger allocation than its own.
        self.text.parts.push(Bytes::copy_from_slice(&self.open));
        self.text.length = self.text.length.saturating_add(self.open.len());
        self.open.clear();
    }
}

/// What is kept; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept(Arc<Mutex<Texts>>);

/// The oldest first, each since when.
type Texts = VecDeque<(Instant, Arc<Text>)>;

/// An answer as long as it is kept, or a sentence that says why there is none.
pub(super) type Encoded = Result<Weak<Text>, Fault>;

impl Kept {
    /// Encodes an answer in a thread that may block.
    pub(super) async fn encode(self, encode: impl FnOnce(&mut Parts) -> Result<(), Fault> + Send + 'static) -> Encoded {
        let encoding = tokio::task::spawn_blocking(move || {
            let mut parts = Parts::default();
            encode(&mut parts)?;
            parts.close();
            Ok::<Text, Fault>(parts.text)
        });
        let text = encoding.await.map_err(|error| Fault::us(format!("cannot encode the answer: {error}")))??;
        Ok(self.keep(text))
    }

    fn keep(&self, text: Text) -> Weak<Text> {
        let text = Arc::new(text);
        self.0.lock().push_back((Instant::now(), Arc::clone(&text)));
        self.let_go();
        let kept = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LONGEST).await;
            kept.let_go();
        });
        Arc::downgrade(&text)
    }

    fn let_go(&self) {
        let mut kept = self.0.lock();
        kept.retain(|(since, _)| since.elapsed() < LONGEST);
        let mut bytes: usize = kept.iter().map(|(_, text)| text.length).sum();
        while bytes > MOST && kept.len() > 2 {
            if let Some((_, oldest)) = kept.pop_front() {
                bytes = bytes.saturating_sub(oldest.length);
            }
        }
    }
}

/// The answer with this media type.
pub(super) fn answer(media: &'static str, encoded: &Encoded) -> Response {
    let text = match encoded {
        Ok(text) => text.clone(),
        Err(error) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
    };
    let Some(left) = text.upgrade().map(|text| text.length) else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "too many readers ask for this; try again").into_response();
    };
    ([(header::CONTENT_TYPE, media)], Body::new(Reader { text, next: 0, left })).into_response()
}

/// The body of one reader's answer.
struct Reader {
    text: Weak<Text>,
    next: usize,
    left: usize,
}

impl hyper::body::Body for Reader {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let Some(part) = this.text.upgrade().and_then(|text| text.parts.get(this.next).cloned()) else {
            return Poll::Ready(Some(Err(io::Error::other("read too slowly"))));
        };
        this.next = this.next.saturating_add(1);
        this.left = this.left.saturating_sub(part.len());
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.left).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use http_body_util::BodyExt;

    use super::*;

    async fn encoded(kept: &Kept, length: usize) -> Encoded {
        kept.clone()
            .encode(move |to| to.write_all(&vec![b'x'; length]).map_err(|error| Fault::us(error.to_string())))
            .await
    }

    async fn read(encoded: &Encoded) -> Result<Bytes, axum::Error> {
        answer("text/plain", encoded).into_body().collect().await.map(|body| body.to_bytes())
    }

    #[tokio::test]
    async fn an_answer_is_read_whole_whatever_its_length_is() {
        let kept = Kept::default();
        for length in [0, 1, PART - 1, PART, PART + 1, 10 * PART + 7] {
            let encoded = encoded(&kept, length).await;
            let answer = answer("text/plain", &encoded);
            assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/plain");
            assert_eq!(hyper::body::Body::size_hint(answer.body()).exact(), u64::try_from(length).ok());
            assert_eq!(read(&encoded).await.unwrap().len(), length);
        }
    }

    #[tokio::test]
    async fn a_reader_that_is_slower_than_many_newer_answers_is_cut_off_and_holds_one_part() {
        let kept = Kept::default();
        let slow = encoded(&kept, MOST / 4).await;
        let mut body = answer("text/plain", &slow).into_body();
        let part = body.frame().await.unwrap().unwrap().into_data().unwrap();
        for _ in 0..4 {
            let newer = encoded(&kept, MOST / 4).await;
            assert_eq!(read(&newer).await.unwrap().len(), MOST / 4);
        }
        assert!(body.frame().await.unwrap().is_err());
        assert_eq!(part.len(), PART);
        let bytes: usize = kept.0.lock().iter().map(|(_, text)| text.length).sum();
        assert!(bytes <= MOST, "{bytes}");
        // One that is larger than all that is kept is kept while there is no other.
        let large = encoded(&kept, 2 * MOST).await;
        assert_eq!(read(&large).await.unwrap().len(), 2 * MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_for_nobody() {
        let kept = Kept::default();
        let encoded = encoded(&kept, 1).await;
        tokio::time::sleep(2 * LONGEST).await;
        assert!(kept.0.lock().is_empty());
        assert_eq!(answer("text/plain", &encoded).status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn what_can_not_be_encoded_says_why() {
        let encoded = Kept::default().encode(|_| Err(Fault::us("no metrics"))).await;
        assert_eq!(answer("text/plain", &encoded).status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
