//! The few Lambda calls `run` makes, by curl: it signs AWS requests itself, so what is shown working is a client that
//! knows nothing of us. Not the tests' client: those are boto3 and the aws CLI.

use crate::cmd::Cmd;
use crate::node::Auth;
use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::time::{Duration, Instant};

/// The keys every node that xtask boots knows.
pub(crate) const ACCESS_KEY: &str = "test";
pub(crate) const SECRET_KEY: &str = "test";
/// What is not published.
pub(crate) const LATEST: &str = "$LATEST";
const REGION: &str = "us-east-1";
/// Lambda's longest timeout is 900 s; nothing that xtask calls comes near.
const CALL_LIMIT_S: &str = "300";
/// How long a created, changed or published function may take to become active, which includes the init and the snapshot
/// of a version, and how often it is asked: the API has no event.
const ACTIVE_LIMIT: Duration = Duration::from_secs(600);
const ACTIVE_INTERVAL: Duration = Duration::from_millis(50);

/// A node's API.
#[derive(Clone)]
pub(crate) struct Endpoint {
    port: u16,
    auth: Auth,
}

/// What an HTTP call gave.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// From the first byte sent to the last byte received, without curl's own start.
    pub(crate) total_ms: f64,
    /// Names in lower case.
    headers: Value,
}

/// A function to have on the node; its published versions are snapshotted.
pub(crate) struct Function<'a> {
    pub(crate) name: &'a str,
    pub(crate) runtime: &'a str,
    pub(crate) handler: &'a str,
    pub(crate) memory_mb: u32,
    pub(crate) timeout_s: u32,
    pub(crate) zip: &'a [u8],
}

impl Answer {
    /// A header's first value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers[name][0].as_str()
    }

    fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).context("the answer is not JSON")
    }

    fn expect(self, status: u16, what: &str) -> Result<Answer> {
        if self.status == status {
            return Ok(self);
        }
        bail!("{what}: HTTP {}: {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

impl Endpoint {
    pub(crate) fn new(port: u16, auth: Auth) -> Endpoint {
        Endpoint { port, auth }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The agent's own health page.
    pub(crate) fn check_health(&self) -> Result<()> {
        self.call("GET", "/tinderbox/health", None)?.expect(200, "health").map(drop)
    }

    /// Makes the function be there with this code; what is there already is kept.
    pub(crate) fn ensure_function(&self, function: &Function<'_>) -> Result<()> {
        let path = format!("/2015-03-31/functions/{}", function.name);
        let zip = STANDARD.encode(function.zip);
        let found = self.call("GET", &format!("{path}/configuration"), None)?;
        if found.status == 404 {
            let request = json!({
                "FunctionName": function.name,
                "Runtime": function.runtime,
                "Handler": function.handler,
                "Role": "arn:aws:iam::000000000000:role/lambda",
                "MemorySize": function.memory_mb,
                "Timeout": function.timeout_s,
                "SnapStart": snap_start(),
                "Code": { "ZipFile": zip },
            });
            self.call("POST", "/2015-03-31/functions", Some(&request.to_string()))?
                .expect(201, "create the function")?;
        } else {
            let found = found.expect(200, "look the function up")?.json()?;
            if found["SnapStart"]["ApplyOn"] != snap_start()["ApplyOn"] {
                let request = json!({ "SnapStart": snap_start() }).to_string();
                self.call("PUT", &format!("{path}/configuration"), Some(&request))?
                    .expect(200, "update the function's configuration")?;
                self.wait_until_active(&path, LATEST)?;
            }
            if found["CodeSha256"] != STANDARD.encode(Sha256::digest(function.zip)) {
                let request = json!({ "ZipFile": zip }).to_string();
                self.call("PUT", &format!("{path}/code"), Some(&request))?
                    .expect(200, "update the function's code")?;
            }
        }
        self.wait_until_active(&path, LATEST)
    }

    /// Publishes a function, unless its last version is the same, and waits until that version is active.
    pub(crate) fn publish(&self, name: &str) -> Result<String> {
        let path = format!("/2015-03-31/functions/{name}");
        let published = self.call("POST", &format!("{path}/versions"), Some("{}"))?;
        let published = published.expect(201, "publish the function")?.json()?;
        let version = published["Version"].as_str().context("a version without a number")?;
        self.wait_until_active(&path, version)?;
        Ok(version.to_owned())
    }

    /// Invokes a version and waits for the answer.
    pub(crate) fn invoke(&self, name: &str, version: &str, event: &Value) -> Result<Answer> {
        let path = qualified(&format!("/2015-03-31/functions/{name}/invocations"), version);
        let answer =
            self.call("POST", &path, Some(&event.to_string()))?.expect(200, "invoke the function")?;
        if let Some(error) = answer.header("x-amz-function-error") {
            bail!("the function failed ({error}): {}", String::from_utf8_lossy(&answer.body));
        }
        Ok(answer)
    }

    fn wait_until_active(&self, path: &str, version: &str) -> Result<()> {
        let deadline = Instant::now() + ACTIVE_LIMIT;
        loop {
            let found = self
                .call("GET", &qualified(&format!("{path}/configuration"), version), None)?
                .expect(200, "look the function up")?;
            let found = found.json()?;
            match (found["State"].as_str(), found["LastUpdateStatus"].as_str()) {
                (Some("Active"), Some("Successful") | None) => return Ok(()),
                (Some("Failed"), _) | (_, Some("Failed")) => {
                    bail!("the function cannot become active: {found}")
                }
                _ if Instant::now() > deadline => bail!("the function did not become active: {found}"),
                _ => std::thread::sleep(ACTIVE_INTERVAL),
            }
        }
    }

    fn call(&self, method: &str, path: &str, body: Option<&str>) -> Result<Answer> {
        // The figures follow the body on the same stream: a new line, then one line of JSON.
        const FIGURES: &str = r#"\n{"status":%{http_code},"seconds":%{time_total},"headers":%{header_json}}"#;
        let mut curl =
            Cmd::new("curl").args(["--silent", "--show-error", "--noproxy", "*", "--max-time", CALL_LIMIT_S]);
        if self.auth == Auth::Required {
            curl = curl.args(["--aws-sigv4", &format!("aws:amz:{REGION}:lambda")]);
            curl = curl.args(["--user", &format!("{ACCESS_KEY}:{SECRET_KEY}")]);
        }
        let file;
        if let Some(body) = body {
            file = Scratch::with(body.as_bytes())?;
            curl = curl.args(["--header", "content-type: application/json", "--data-binary"]);
            curl = curl.arg(format!("@{}", file.path().display()));
        }
        let url = format!("{}{path}", self.url());
        let output = curl.args(["--request", method, "--write-out", FIGURES, &url]).read()?;
        parse(&output).with_context(|| format!("understand curl's answer to {method} {url}"))
    }
}

/// A path about one version.
fn qualified(path: &str, version: &str) -> String {
    if version == LATEST { path.to_owned() } else { format!("{path}?Qualifier={version}") }
}

fn snap_start() -> Value {
    json!({ "ApplyOn": "PublishedVersions" })
}

/// Splits curl's output into body and figures; header_json spans lines, so the figures begin at their first key.
fn parse(output: &str) -> Result<Answer> {
    let start = output.rfind("\n{\"status\":").context("no figures")?;
    let figures: Value = serde_json::from_str(&output[start..]).context("figures that are not JSON")?;
    let status =
        figures["status"].as_u64().and_then(|status| u16::try_from(status).ok()).context("no status")?;
    let total_ms = figures["seconds"].as_f64().context("no time")? * 1e3;
    Ok(Answer { status, body: output[..start].into(), total_ms, headers: figures["headers"].clone() })
}

/// A file that curl reads a body from; gone with the value.
struct Scratch {
    path: std::path::PathBuf,
}

impl Scratch {
    fn with(content: &[u8]) -> Result<Scratch> {
        let path = std::env::temp_dir().join(format!("tinderbox-request-{}", std::process::id()));
        std::fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        Ok(Scratch { path })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A leftover request is a few kilobytes in the temporary folder.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_and_figures_are_told_apart_even_when_the_body_looks_like_them() {
        let output = "{\"a\":\n{\"status\":1}}\n{\"status\":200,\"seconds\":0.25,\"headers\":{\"server-timing\":[\"run;dur=1\"]\n}}";
        let answer = parse(output).unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, b"{\"a\":\n{\"status\":1}}");
        assert_eq!(answer.header("server-timing"), Some("run;dur=1"));
        assert!((answer.total_ms - 250.0).abs() < 1e-9);
    }
}
