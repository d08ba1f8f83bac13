//! Container images: an OCI archive made here, pushed by the operator's tool, and run as a function. Those that a node pulls are
//! tested in [`crate::registries`].

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::chunks::tinderbox;
use crate::functions::Function;
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
pub(crate) struct Image {
    /// By their digests.
    pub(crate) blobs: Vec<(String, Vec<u8>)>,
    /// The manifest's descriptor.
    pub(crate) manifest: Value,
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
    pub(crate) fn index(&self) -> Value {
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
pub(crate) fn plain(command: &str) -> Image {
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
