//! A connection whose framing is measured: the library below reads on through fragments of nothing as long as they come, and shows
//! none of them. Here they come to an end, and so does the connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits::{FRAMING_BYTES_MAX, UNFRAMED_BYTES_MAX};

/// A stream and what was read from it that belongs to no message yet, in bytes.
pub(super) struct Metered<S> {
    inner: S,
    unframed: Unframed,
}

/// What belongs to no message yet.
#[derive(Clone, Default)]
pub(super) struct Unframed(Arc<AtomicUsize>);

impl Unframed {
    /// A message of so many bytes has come. It may have been some fragments, but not thousands.
    pub fn message(&self, bytes: usize) {
        let less = |unframed: usize| Some(unframed.saturating_sub(bytes + FRAMING_BYTES_MAX));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

impl<S> Metered<S> {
    pub fn new(inner: S) -> (Metered<S>, Unframed) {
        let unframed = Unframed::default();
        (Metered { inner, unframed: unframed.clone() }, unframed)
    }

    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unframed.0.load(Ordering::Relaxed) > UNFRAMED_BYTES_MAX {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "fragments without a message")));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        self.unframed.0.fetch_add(buffer.filled().len() - before, Ordering::Relaxed);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn what_belongs_to_no_message_comes_to_an_end() {
        let (mut stream, unframed) = Metered::new(tokio::io::repeat(0));
        let mut buffer = vec![0; 1000];
        for _ in 0..10_000 {
            stream.read_exact(&mut buffer).await.unwrap();
            unframed.message(990);
        }
        let mut read = 0;
        while let Ok(bytes) = stream.read(&mut buffer).await {
            read += bytes;
        }
        assert!((UNFRAMED_BYTES_MAX..UNFRAMED_BYTES_MAX + 2000).contains(&read), "{read}");
    }
}
