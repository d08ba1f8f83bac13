//! The Runtime API over a connection for each call.

use std::env;
use std::error::Error;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

/// Where the API is.
pub(crate) struct RuntimeApi {
    address: String,
}

/// A response that is streamed.
pub(crate) struct Stream<'a> {
    pub(crate) content_type: &'a str,
    pub(crate) pieces: Vec<&'a str>,
    pub(crate) hold: Duration,
    pub(crate) error: Option<&'a str>,
}

/// What `invocation/next` answers.
pub(crate) struct Event {
    pub(crate) request_id: String,
    pub(crate) document: Vec<u8>,
}

impl RuntimeApi {
    pub(crate) fn of_environment() -> Result<Self, env::VarError> {
        Ok(Self { address: env::var("AWS_LAMBDA_RUNTIME_API")? })
    }

    pub(crate) fn next(&self) -> Result<Event, Box<dyn Error>> {
        let (head, document) = self.call("GET", "next", b"")?;
        let id = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("lambda-runtime-aws-request-id").then(|| value.trim().to_owned())
        });
        let request_id = id.ok_or_else(|| format!("an event without an id: {head}"))?;
        Ok(Event { request_id, document })
    }

    pub(crate) fn respond(&self, request_id: &str, document: &[u8]) -> io::Result<()> {
        self.call("POST", &format!("{request_id}/response"), document).map(drop)
    }

    /// Streams a response, and holds between its pieces; `error`: what its trailers say then.
    pub(crate) fn stream(&self, request_id: &str, response: &Stream<'_>) -> io::Result<()> {
        let mut stream = TcpStream::connect(&self.address)?;
        let head = format!(
            "POST /2018-06-01/runtime/invocation/{request_id}/response HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             Lambda-Runtime-Function-Response-Mode: streaming\r\nContent-Type: {}\r\nTransfer-Encoding: chunked\r\n\
             Trailer: Lambda-Runtime-Function-Error-Type\r\n\r\n",
            self.address, response.content_type
        );
        stream.write_all(head.as_bytes())?;
        for (number, piece) in response.pieces.iter().enumerate() {
            if number > 0 {
                // Nobody unparks it.
                thread::park_timeout(response.hold);
            }
            stream.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes())?;
        }
        let error = response.error.map(|error| format!("Lambda-Runtime-Function-Error-Type: {error}\r\n"));
        stream.write_all(format!("0\r\n{}\r\n", error.unwrap_or_default()).as_bytes())?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    }

    /// Head and body of the answer. The connection's end is the body's, as long as nobody chunks it: this API does not.
    fn call(&self, method: &str, path: &str, body: &[u8]) -> io::Result<(String, Vec<u8>)> {
        let mut stream = TcpStream::connect(&self.address)?;
        let head = format!(
            "{method} /2018-06-01/runtime/invocation/{path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.ok_or_else(|| io::Error::other("an answer without an end of its head"))?;
        let document = answer.split_off(end + 4);
        Ok((String::from_utf8_lossy(&answer).into_owned(), document))
    }
}
