//! Container images: an OCI archive made here, pushed by the operator's tool, and run as a function; and one that a node pulls from a registry
//! beside it. What registries may do wrong is tested beside the agent (`host-agent/tests/registry/`).

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::chunks::tinderbox;
use crate::functions::Function;
use crate::host::{self, Running};
use crate::kills::{Agent, CONFIG};
use crate::node::Node;
use crate::setting;

/// An attribute of each file of a layer: bytes of any kind.
const NOTE: &[u8] = b"a\n\0b";

/// What `tinderbox images` says.
pub(crate) fn images(endpoint: &str, arguments: &[&str]) -> Value {
    let output = tinderbox(endpoint, "test", &[&["--json", "images"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// A layer with these files; one without content says what is not there any more, by its name.
pub(crate) fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        tar.append_pax_extensions([("SCHILY.xattr.user.note", NOTE)]).expect("write an attribute");
        tar.append_data(&mut header, name, *content).expect("write a layer");
    }
    tar.into_inner().expect("end a layer")
}

/// The documents and layers of an image.
struct Image {
    /// By their digests.
    blobs: Vec<(String, Vec<u8>)>,
    /// The manifest's descriptor.
    manifest: Value,
}

fn digits(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Image {
    fn of(layers: &[Vec<u8>], config: &Value) -> Self {
        let mut blobs = Vec::new();
        let mut blob = |kind: &str, bytes: &[u8]| {
            blobs.push((digits(bytes), bytes.to_vec()));
            let media_type = format!("application/vnd.oci.image.{kind}");
            json!({ "mediaType": media_type, "digest": format!("sha256:{}", digits(bytes)), "size": bytes.len() })
        };
        let diff_ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", digits(layer))).collect();
        let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
        let config = json!({ "architecture": "amd64", "os": "linux", "config": config, "rootfs": rootfs });
        let config = blob("config.v1+json", config.to_string().as_bytes());
        let layers: Vec<_> = layers.iter().map(|layer| blob("layer.v1.tar", layer)).collect();
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers });
        let manifest = blob("manifest.v1+json", manifest.to_string().as_bytes());
        Self { blobs, manifest }
    }

    /// An index that has it, among images for other machines.
    fn index(&self) -> Value {
        let of = |architecture: &str, digest: &Value| {
            let mut of = self.manifest.clone();
            of["platform"] = json!({ "os": "linux", "architecture": architecture });
            of["digest"] = digest.clone();
            of
        };
        let other = json!(format!("sha256:{}", "0".repeat(64)));
        let manifests = [of("arm64", &other), of("amd64", &self.manifest["digest"])];
        let media_type = "application/vnd.oci.image.index.v1+json";
        json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests })
    }

    /// Writes an OCI archive with it.
    fn archive(&self, file: &Path) {
        let mut tar = tar::Builder::new(std::fs::File::create(file).expect("an archive"));
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, bytes).expect("write the archive");
        };
        for (digest, bytes) in &self.blobs {
            add(&format!("blobs/sha256/{digest}"), bytes);
        }
        let index = json!({ "schemaVersion": 2, "manifests": [self.manifest] });
        add("index.json", index.to_string().as_bytes());
        add("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#);
        tar.finish().expect("end the archive");
    }
}

/// Writes an OCI archive with an image of these layers.
pub(crate) fn archive(layers: &[Vec<u8>], config: &Value, file: &Path) {
    Image::of(layers, config).archive(file);
}

/// An image whose program says how it is run.
fn plain(command: &str) -> Image {
    let program = std::fs::read(setting("TINDERBOX_PLAIN_RUST")).expect("the program");
    let layers = [
        layer(&[("app/bin/serve", b"not yet"), ("app/old", command.as_bytes())]),
        layer(&[("app/bin/serve", &program), ("app/.wh.old", b"")]),
    ];
    let config = json!({
        "Entrypoint": ["serve"],
        "Cmd": [command],
        "Env": ["PATH=/app/bin", "SAID_BY_IMAGE=yes"],
        "WorkingDir": "/app",
        "User": "root",
    });
    Image::of(&layers, &config)
}

#[test]
fn a_container_image_is_a_function() {
    let shared = Node::shared();
    let client = shared.node.client();
    let file = tempfile::NamedTempFile::new().expect("a file");
    plain("first").archive(file.path());
    let name = format!("tests/plain-{}:v1", std::process::id());
    let path = file.path().to_str().expect("a path that is text");
    let pushed = images(client.endpoint(), &["push", path, &name]);

    let said = json!({ "Command": ["second"] });
    let mut function = Function::container(&name).with("ImageConfig", said.clone()).deploy(&client);
    let configured = function.call("get_function", json!({})).expect("it exists");
    let resolved = configured["Code"]["ResolvedImageUri"].as_str().expect("it is resolved").to_owned();
    assert_eq!(resolved.rsplit_once('@').map(|(_, digest)| digest), pushed["Digest"].as_str());
    // What it is does not depend on its name.
    images(client.endpoint(), &["rm", &name]);
    let paths = ["/tmp/x", "/app/x", "/etc/x", "/var/task/x", "/run/x"];
    let answer = function.answer(json!({ "write_to": paths, "attribute": ["/app/bin/serve", "user.note"] }));
    assert_eq!(answer["attribute"], "610a0062", "{answer}");
    assert_eq!(answer["written"], json!([true, false, false, false, false]), "{answer}");
    assert_eq!(answer["arguments"], json!(["serve", "second"]));
    assert_eq!((&answer["folder"], &answer["said_by_image"]), (&json!("/app"), &json!("yes")));

    function.update(json!({ "ImageConfig": { "EntryPoint": ["/app/old"] } }));
    let (kind, message) = function.invoke(json!({})).error();
    assert_eq!(kind, "Runtime.InvalidEntrypoint");
    assert!(message.ends_with("fork/exec /app/old: no such file or directory"), "{message}");
}

/// A registry on the test host with one repository, `team/app`, until it is dropped.
struct Registry {
    running: Running,
    folder: String,
}

impl Registry {
    /// With the images under these tags. The agent knows it as `registry.it`, until the test ends.
    fn start(agent: &Agent, tags: &[(&str, &Image)]) -> Self {
        let folder = format!("/tmp/registry-{}", std::process::id());
        let repository = format!("{folder}/v2/team/app");
        let made =
            host::run(&["mkdir", "-p", &format!("{repository}/manifests"), &format!("{repository}/blobs")]);
        assert_eq!(made.code, 0, "{made:?}");
        for (tag, image) in tags {
            host::write(&format!("{repository}/manifests/{tag}"), image.index().to_string().as_bytes());
            for (digest, bytes) in &image.blobs {
                let is_manifest = image.manifest["digest"] == format!("sha256:{digest}");
                let kind = if is_manifest { "manifests" } else { "blobs" };
                host::write(&format!("{repository}/{kind}/sha256:{digest}"), bytes);
            }
        }
        let mut running = Running::start(&[&host::registry(), &folder]);
        let said: Value = serde_json::from_str(&running.line().expect("a port")).expect("JSON");
        let table = format!(
            "[[registries]]\nhost = \"registry.it\"\nendpoint = \"http://127.0.0.1:{}\"\nallow_http = true\n",
            said["port"]
        );
        let added = host::run(&["sh", "-c", &format!("printf '%s' '{table}' >> {CONFIG}")]);
        assert_eq!(added.code, 0, "{added:?}");
        agent.kill();
        Self { running, folder }
    }

    /// Waits until the lowest layer of an image is asked for.
    fn wait_for(&mut self, image: &Image) {
        let (digest, _) = &image.blobs[1];
        while !self.running.line().expect("it has not ended").contains(&format!("/blobs/sha256:{digest}")) {}
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        host::run(&["rm", "-rf", &self.folder]);
    }
}

#[test]
fn an_image_comes_from_its_registry_whenever_the_agent_is_killed() {
    let agent = Agent::alone();
    let client = agent.client();
    let (first, second) = (plain("first"), plain("second"));
    let mut registry = Registry::start(&agent, &[("v1", &first), ("v2", &second)]);
    registry.running.say("open");
    let pulled = images(client.endpoint(), &["pull", "registry.it/team/app:v1"]);
    assert_eq!(pulled["Digest"], first.manifest["digest"]);
    let mut function = Function::container("registry.it/team/app:v1").deploy(client);
    assert_eq!(function.answer(json!({}))["arguments"], json!(["serve", "first"]));
    registry.running.say("closed");
    assert_eq!(function.update_image("registry.it/team/app:v2")["LastUpdateStatus"], "InProgress");
    registry.wait_for(&second);
    assert_eq!(function.answer(json!({}))["arguments"], json!(["serve", "first"]));
    agent.kill();
    registry.running.say("open");
    function.wait("function_updated_v2");
    assert_eq!(function.answer(json!({}))["arguments"], json!(["serve", "second"]));
    let configured = function.call("get_function", json!({})).expect("it exists");
    let resolved = format!("registry.it/team/app@{}", second.manifest["digest"].as_str().expect("a digest"));
    assert_eq!(configured["Code"]["ResolvedImageUri"], resolved);
    let absent = Function::container("registry.it/team/app:none").create(client).expect_err("no such tag");
    assert!(absent.message.contains("does not exist"), "{absent:?}");
    images(client.endpoint(), &["rm", "registry.it/team/app:v1"]);
}
