//! Answers as a `futures::Stream`.
//!
//! Tokens are computed on a thread of their own, never where the caller's runtime polls.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_channel::mpsc::{UnboundedReceiver, unbounded};
use futures_core::Stream;
use mlxengine_engine::{CancelToken, Result, Step};

use crate::engine::TokenStream;
use crate::session::ReplyStream;

/// An answer as a stream. Dropping it stops the answer within one step.
#[derive(Debug)]
pub struct StepStream {
    steps: UnboundedReceiver<Result<Step>>,
    cancel: CancelToken,
}

impl StepStream {
    fn run(steps: impl Iterator<Item = Result<Step>> + Send + 'static, cancel: CancelToken) -> Self {
        let (sender, receiver) = unbounded();
        std::thread::spawn(move || {
            for step in steps {
                if sender.unbounded_send(step).is_err() {
                    break;
                }
            }
        });
        Self { steps: receiver, cancel }
    }
}

impl TokenStream {
    /// This answer as a `futures::Stream`, computed on a thread of its own.
    pub fn into_stream(self) -> StepStream {
        let cancel = self.cancel_token();
        StepStream::run(self, cancel)
    }
}

impl ReplyStream {
    /// This reply as a `futures::Stream`, computed on a thread of its own.
    pub fn into_stream(self) -> StepStream {
        let cancel = self.cancel_token();
        StepStream::run(self, cancel)
    }
}

impl Stream for StepStream {
    type Item = Result<Step>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.steps).poll_next(context)
    }
}

impl Drop for StepStream {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
