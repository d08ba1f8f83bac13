//! Container images: an OCI archive made here, pushed by the operator's tool, and run as a function.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::chunks::tinderbox;
use crate::functions::Function;
use crate::node::Node;
use crate::setting;

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
        tar.append_data(&mut header, name, *content).expect("write a layer");
    }
    tar.into_inner().expect("end a layer")
}

/// An OCI archive with an image of these layers.
pub(crate) fn archive(layers: &[Vec<u8>], config: &Value, file: &Path) {
    let mut tar = tar::Builder::new(std::fs::File::create(file).expect("an archive"));
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).expect("write the archive");
    };
    let digits =
        |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut blob = |kind: &str, bytes: &[u8]| {
        add(&format!("blobs/sha256/{}", digits(bytes)), bytes);
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({ "mediaType": media_type, "digest": format!("sha256:{}", digits(bytes)), "size": bytes.len() })
    };
    let diff_ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", digits(layer))).collect();
    let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
    let config = json!({ "architecture": "amd64", "os": "linux", "config": config, "rootfs": rootfs });
    let config = blob("config.v1+json", config.to_string().as_bytes());
    let layers: Vec<_> = layers.iter().map(|layer| blob("layer.v1.tar", layer)).collect();
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
    let manifest = blob("manifest.v1+json", manifest.to_string().as_bytes());
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    add("index.json", index.to_string().as_bytes());
    add("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#);
    tar.finish().expect("end the archive");
}

#[test]
fn a_container_image_is_a_function() {
    let shared = Node::shared();
    let client = shared.node.client();
    let program = std::fs::read(setting("TINDERBOX_PLAIN_RUST")).expect("the program");
    let layers = [
        layer(&[("app/bin/serve", b"not yet"), ("app/old", b"x")]),
        layer(&[("app/bin/serve", &program), ("app/.wh.old", b"")]),
    ];
    let config = json!({
        "Entrypoint": ["serve"],
        "Cmd": ["first"],
        "Env": ["PATH=/app/bin", "SAID_BY_IMAGE=yes"],
        "WorkingDir": "/app",
        "User": "root",
    });
    let file = tempfile::NamedTempFile::new().expect("a file");
    archive(&layers, &config, file.path());
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
    let answer = function.answer(json!({ "write_to": paths }));
    assert_eq!(answer["written"], json!([true, false, false, false, false]), "{answer}");
    assert_eq!(answer["arguments"], json!(["serve", "second"]));
    assert_eq!((&answer["folder"], &answer["said_by_image"]), (&json!("/app"), &json!("yes")));

    function.update(json!({ "ImageConfig": { "EntryPoint": ["/app/old"] } }));
    let (kind, message) = function.invoke(json!({})).error();
    assert_eq!(kind, "Runtime.InvalidEntrypoint");
    assert!(message.ends_with("fork/exec /app/old: no such file or directory"), "{message}");
}
