//! One connection that is kept: a request's bytes out, an answer in. It spends little on it, for what it spends the agent does not
//! have.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Context, Result, ensure};

/// Of any answer here: a page of a list is some fifty thousand bytes.
const MAX_BODY_LEN: usize = 16 << 20;

pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    line: String,
    body: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).context("connect to the agent")?;
        stream.set_nodelay(true).context("send at once")?;
        Ok(Self { stream: BufReader::new(stream), line: String::new(), body: Vec::new() })
    }

    /// Sends a request and reads the whole answer, which has to be of that status.
    pub(crate) fn ask(&mut self, request: &[u8], status: u16) -> Result<&[u8]> {
        self.stream.get_mut().write_all(request).context("send a request")?;
        self.next_line()?;
        let answered = self.line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let mut len = 0;
        loop {
            self.next_line()?;
            let line = self.line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                len = value.trim().parse().context("a length")?;
            }
        }
        ensure!(len <= MAX_BODY_LEN, "an answer of {len} bytes");
        self.body.resize(len, 0);
        self.stream.read_exact(&mut self.body).context("read an answer")?;
        ensure!(answered == status, "{answered}: {}", String::from_utf8_lossy(&self.body));
        Ok(&self.body)
    }

    fn next_line(&mut self) -> Result<()> {
        self.line.clear();
        let read = self.stream.read_line(&mut self.line).context("read an answer's head")?;
        ensure!(read > 0, "the agent closed the connection");
        Ok(())
    }
}
