//! The beginning of a connection by TLS; and what a client is told that does not begin one.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::patient::Patient;

/// What a connection by TLS begins with: a record of its handshake (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// To a client that speaks plain HTTP. It has to come again, so nothing of its request is read.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: 47\r\n\r\n\
    This address speaks HTTPS, and you spoke HTTP.\n";

/// How much of such a request is read and thrown away, so that its client reads the answer before the connection ends.
const MAX_DISCARDED_LEN: usize = 64 * 1024;

/// Waits for a client's handshake, and for so long.
pub(super) async fn open(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    (handshake, write): (Duration, Duration),
) -> io::Result<TlsStream<Patient<TcpStream>>> {
    let opened = async {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE {
            refuse(stream, first[0]).await?;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak TLS"));
        }
        acceptor.accept(Patient::new(stream, write)).await
    };
    timeout(handshake, opened).await?
}

/// Methods are in capitals; whatever begins otherwise would not understand an answer.
async fn refuse(mut stream: TcpStream, first: u8) -> io::Result<()> {
    if !first.is_ascii_uppercase() {
        return Ok(());
    }
    stream.write_all(PLAIN).await?;
    stream.shutdown().await?;
    let mut discarded = 0;
    let mut bytes = [0; 4096];
    while discarded < MAX_DISCARDED_LEN {
        match stream.read(&mut bytes).await? {
            0 => break,
            len => discarded += len,
        }
    }
    Ok(())
}
