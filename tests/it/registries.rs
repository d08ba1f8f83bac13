//! A container image that a node pulls from a registry beside it. What registries may do wrong is tested beside the agent
//! (`host-agent/tests/registry/`).

use serde_json::{Value, json};

use crate::containers::{Image, images, plain};
use crate::functions::Function;
use crate::host::{self, Running};
use crate::kills::{Agent, CONFIG};

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
