//! How long a client may keep us waiting at each step of its request.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::limits::{BODY_PAUSE, HANDSHAKE_TIME, HEAD_TIME, REQUEST_TIME, WRITE_PAUSE};

/// The limits in time, together. Tests have less of it.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the first word and the handshake of TLS.
    pub handshake: Duration,
    /// For the head of a request, and between two requests.
    pub head: Duration,
    /// For a whole request, until its answer begins.
    pub request: Duration,
    /// Between two pieces of a body.
    pub body_pause: Duration,
    /// With an answer of which the client takes nothing.
    pub write_pause: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            handshake: HANDSHAKE_TIME,
            head: HEAD_TIME,
            request: REQUEST_TIME,
            body_pause: BODY_PAUSE,
            write_pause: WRITE_PAUSE,
        }
    }
}

/// A stream that breaks when the other side takes nothing for a while.
#[derive(Debug)]
pub(crate) struct Impatient<S> {
    stream: S,
    pause: Duration,
    /// Runs while a write waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    pub(crate) fn new(stream: S, pause: Duration) -> Impatient<S> {
        Impatient {
            stream,
            pause,
            deadline: None,
        }
    }

    /// What a write comes to: its result, or the end of patience.
    fn judge<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let pause = self.pause;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(pause)));
        deadline.as_mut().poll(cx).map(|()| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client takes no answer",
            ))
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.judge(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judge(shut, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const PAUSE: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_client_that_takes_nothing_ends_the_connection() {
        let (client, server) = duplex(16);
        let mut server = Impatient::new(server, PAUSE);
        let error = server.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(client);
    }

    #[tokio::test]
    async fn one_that_takes_little_at_a_time_is_waited_for() {
        let (mut client, server) = duplex(16);
        let mut server = Impatient::new(server, PAUSE);
        let reading = tokio::spawn(async move {
            let mut read = 0;
            while let Ok(1) = client.read(&mut [0; 1]).await {
                read += 1;
            }
            read
        });
        for _ in 0..100 {
            server.write_all(&[0; 64]).await.unwrap();
        }
        drop(server);
        assert_eq!(reading.await.unwrap(), 6_400);
    }
}
