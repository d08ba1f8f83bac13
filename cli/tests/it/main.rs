//! The tool as a program: what it prints, where, and how it ends, against a node that answers what a test says.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    process::{Command, Stdio},
};

/// Where something listens that answers one request, whatever it is.
fn node_that_answers(answer: impl Into<Vec<u8>>) -> String {
    let answer = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a request");
            head.extend(byte);
        }
        stream.write_all(&answer).expect("a client that reads");
    });
    format!("http://{address}")
}

/// Asks for events; how that ends, and what is said of it.
fn ask(endpoint: &str, output: impl Into<Stdio>) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tinderbox"));
    command.args(["--endpoint", endpoint, "events"]);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let ended = command.stdout(output).stderr(Stdio::piped()).output().expect("the tool starts");
    (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
}

#[test]
fn who_reads_may_have_seen_enough() {
    let totals = r#"{"Events":3,"Bytes":1,"MaxEvents":10,"MaxBytes":2,"Destinations":[]}"#;
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{totals}", totals.len());
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    assert_eq!(ask(&node_that_answers(answer), writer), (Some(0), String::new()));
}

#[test]
fn a_node_that_speaks_tls_is_told_from_one_that_does_not() {
    // An alert: what was sent is no handshake.
    let (status, said) = ask(&node_that_answers([0x15, 3, 3, 0, 2, 2, 10]), Stdio::null());
    assert!(status == Some(2) && said.contains("is it https://?"), "{status:?}: {said}");
}
