//! Clients that do what no client does, on a booted test host: requests that two servers read differently, heads without bounds or
//! without an end, signatures of others, names and archives that lead elsewhere, and thousands of connections. Each of it is tested one by
//! one beside the agent; here a node is seen to go on, and its agent to stay small.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::client::Client;
use crate::functions::{Deployed, Function};
use crate::host;
use crate::kills::Agent;

/// How long an emulated node may take to answer or to give a connection up.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a node says nothing before it is taken to have said all.
const SILENCE: Duration = Duration::from_secs(3);

/// Connections that say little: about as many as the way to the host's network takes at a time. What becomes of ten thousand is tested
/// beside the agent.
const CONNECTIONS: u64 = 3_500;

/// What these may cost the agent at most, with everything else in this test.
const MAX_GROWTH_MIB: u64 = 192;

/// Bytes of a file that is a thousandth of that in a zip.
const BOMB_LEN: u64 = 300 << 20;

fn works(function: &Deployed) {
    assert_eq!(function.answer(json!({ "is": "well" }))["event"], json!({ "is": "well" }));
}

/// Memory of the host's agent now, and at most so far, MiB.
fn memory_mib(name: &str) -> u64 {
    let status = host::run(&["sh", "-c", "cat /proc/$(pidof host-agent)/status"]).stdout;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or_else(|| panic!("no {name} in {status}")) >> 10
}

struct Endpoint(String);

impl Endpoint {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.0).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time to wait");
        stream
    }

    /// All that is answered until the node ends the connection, or has nothing more to say.
    fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // It may have been refused before all of it was sent.
        drop(stream.write_all(bytes));
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        while let Ok(len @ 1..) = stream.read(&mut piece) {
            answer.extend_from_slice(&piece[..len]);
            stream.set_read_timeout(Some(SILENCE)).expect("a time to wait");
        }
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// The host takes requests that nobody signed, so that one that was hidden in another would be done.
fn smuggle(endpoint: &Endpoint, function: &Deployed) {
    let path = format!("/2015-03-31/functions/{}", function.name);
    let hidden = format!("DELETE {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let heads = [
        "content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 6\r\n\r\n0\r\n\r\n",
        "content-length: 0\r\ncontent-length: 6\r\n\r\n",
        "content-length: 0, 6\r\n\r\n",
        "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        "x: a\r\n transfer-encoding: chunked\r\n\r\n",
        "x: a\rtransfer-encoding: chunked\r\n\r\n",
    ];
    for head in heads {
        let said =
            endpoint.say(format!("POST {path}/invocations HTTP/1.1\r\nhost: x\r\n{head}{hidden}").as_bytes());
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{head:?}: {said}");
    }
    function.call("get_function", json!({})).expect("it is there");
    assert!(
        endpoint.say(hidden.replace(&path, "/2015-03-31/functions/it-nobody").as_bytes()).contains(" 404 "),
        "by itself it is a request"
    );
}

fn heads(endpoint: &Endpoint) {
    let head = |lines: &str| format!("GET / HTTP/1.1\r\nhost: x\r\n{lines}\r\n");
    for (lines, status) in [
        (format!("x: {}\r\n", "a".repeat(1 << 20)), 431),
        ("x: a\r\n".repeat(1000), 431),
        ("x\0: a\r\n".to_owned(), 400),
    ] {
        let said = endpoint.say(head(&lines).as_bytes());
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{} bytes: {said}", lines.len());
    }
}

/// A request as boto3 signs it, and what the node answers it.
fn recorded(endpoint: &Endpoint) -> (Vec<u8>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let client = Client::new(&format!("http://{}", listener.local_addr().expect("an address")));
    let call = client.begin("get_account_settings", json!({}));
    let (mut stream, _) = listener.accept().expect("boto3 connects");
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        request.extend(byte);
    }
    let answer = endpoint.say(&request);
    stream.write_all(answer.as_bytes()).expect("answer boto3");
    drop(stream);
    call.end().expect("boto3 takes the answer");
    (request, answer)
}

fn signatures(endpoint: &Endpoint, client: &Client) {
    let stranger = client.clone().with_key("test", "guess");
    assert_eq!(stranger.call("list_functions", json!({})).expect_err("refused").status, 403);
    let (request, answer) = recorded(endpoint);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let request = String::from_utf8(request).expect("a head is text");
    assert!(request.contains("Authorization: AWS4-HMAC-SHA256"), "{request}");
    // As by AWS: it is the same question.
    assert!(endpoint.say(request.as_bytes()).starts_with("HTTP/1.1 200"), "the same again");
    let (line, rest) = request.split_once("\r\n").expect("a line");
    for other in ["GET /2015-03-31/functions HTTP/1.1", "DELETE /2016-08-19/account-settings HTTP/1.1"] {
        assert_ne!(line, other);
        let said = endpoint.say(format!("{other}\r\n{rest}").as_bytes());
        assert!(said.starts_with("HTTP/1.1 403"), "{other}: {said}");
    }
}

fn names(endpoint: &Endpoint, client: &Client) {
    for name in ["../../../etc/passwd", "a/../../b", "a%2f..%2fb", "a\0b", "ａ", ".", ".."] {
        let error = client.call("get_function", json!({ "FunctionName": name })).expect_err(name);
        assert!([400, 403, 404].contains(&error.status), "{name:?}: {error:?}");
    }
    for path in [
        "/../../etc/passwd",
        "/2015-03-31/functions/%2e%2e%2f%2e%2e%2fetc",
        "//2015-03-31//functions/x",
        "/2015-03-31/functions/%00",
    ] {
        let said =
            endpoint.say(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes());
        assert!(
            ["400", "403", "404"].iter().any(|status| said.starts_with(&format!("HTTP/1.1 {status}"))),
            "{path}: {said}"
        );
    }
}

fn archives(client: &Client) {
    let zips: [Value; 3] = [
        json!([{ "name": "app.py", "text": "" }, { "name": "../../outside", "text": "x" }]),
        json!([{ "name": "app.py", "text": "" }, { "name": "link", "text": "/etc/shadow", "mode": 0o120_777 }, { "name": "link/x", "text": "x" }]),
        json!([{ "name": "app.py", "text": "" }, { "name": "zeros", "zeros": BOMB_LEN }]),
    ];
    for zip in zips {
        let error =
            Function::new("python3.13", "app.handler", &zip).create(client).expect_err("it is an attack");
        assert_eq!((error.status, error.code.as_str()), (400, "InvalidParameterValueException"), "{error:?}");
    }
}

/// Connections, half of them with half a head, while somebody else is served.
fn crowd(endpoint: &Endpoint, function: &Deployed) {
    let limit = Resource::RLIMIT_NOFILE;
    let (_, hard) = getrlimit(limit).expect("a limit");
    setrlimit(limit, hard, hard).expect("as many descriptors as there may be");
    let mut connections = Vec::new();
    for number in 0..CONNECTIONS {
        let mut stream = endpoint.connect();
        if number % 2 == 0 {
            drop(stream.write_all(b"GET / HTTP/1.1\r\nx: "));
        }
        connections.push(stream);
        if number % 1000 == 0 {
            works(function);
        }
    }
    works(function);
}

#[test]
fn a_node_goes_on_whatever_its_clients_do() {
    let agent = Agent::alone();
    let function = Function::python("hello").deploy(agent.client());
    works(&function);
    let endpoint = Endpoint(host::endpoint().trim_start_matches("http://").to_owned());
    let before = memory_mib("VmRSS");
    smuggle(&endpoint, &function);
    heads(&endpoint);
    signatures(&endpoint, agent.client());
    names(&endpoint, agent.client());
    archives(agent.client());
    crowd(&endpoint, &function);
    works(&function);
    let grown = memory_mib("VmHWM").saturating_sub(before);
    assert!(grown < MAX_GROWTH_MIB, "the agent took {grown} MiB");
    drop(function);
    Agent::look();
}
