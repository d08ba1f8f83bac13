//! A connection that is given up when its client takes nothing of its answers, or too little, for too long ([`Pace`]).

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::pace::Pace;

pub(super) struct Patient<S> {
    stream: S,
    pace: Pace,
    /// Runs while a write waits.
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, pace: Pace::new(patience), waits: None }
    }

    /// What became of a write: the client has taken something, or it still has time.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
        len: impl Fn(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(written) = written {
            self.waits = None;
            self.pace.took(Instant::now(), written.as_ref().map_or(0, len));
            return Poll::Ready(written);
        }
        let until = self.pace.wait(Instant::now());
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep_until(until)));
        ready!(waits.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, from);
        self.watch(cx, written, |len| *len)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, from);
        self.watch(cx, written, |len| *len)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, flushed, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::{super::pace::MIN_RATE, *};

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let burst = 50 * MIN_RATE as usize;
        let (server, mut client) = tokio::io::duplex(burst);
        let mut server = Patient::new(server, PATIENCE);
        let slow = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                client.read_exact(&mut vec![0; burst]).await.unwrap();
            }
        };
        let all = vec![0; 10 * burst];
        let (written, ()) = tokio::join!(server.write_all(&all), slow);
        written.unwrap();
        let began = Instant::now();
        let error = server.write_all(&vec![0; 2 * burst]).await.unwrap_err();
        assert_eq!((error.kind(), began.elapsed()), (io::ErrorKind::TimedOut, PATIENCE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_byte_now_and_then_is_given_up_as_soon() {
        let (server, mut client) = tokio::io::duplex(16);
        let mut server = Patient::new(server, PATIENCE);
        let trickle = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                client.read_exact(&mut [0]).await.unwrap();
            }
        };
        let began = Instant::now();
        tokio::select! {
            written = server.write_all(&[0; 6 << 20]) => {
                assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
            }
            () = trickle => {}
        }
        assert!(began.elapsed() < PATIENCE + Duration::from_secs(1), "{:?}", began.elapsed());
    }
}
