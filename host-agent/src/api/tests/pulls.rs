//! Functions of images that are in a registry: what they are while they wait, and how that ends.

use super::{
    images::{image, of_image},
    *,
};
use crate::{
    code::image::tests::Oci,
    registry::{Found, Refusal},
};

const FUNCTIONS: &str = "/2015-03-31/functions";
const IMAGES: &str = "/tinderbox/images";
const PULLS: &str = "/tinderbox/images/pulls";
const HOST: &str = "registry.example";
const REGISTRY: &str =
    "[[registries]]\nhost = 'registry.example'\nendpoint = 'http://127.0.0.1:9'\nallow_http = true\n";

async fn node() -> Node {
    let dir = tempfile::tempdir().unwrap();
    Node::with(dir, REGISTRY, watch::Sender::new(BEGIN_MS)).await
}

impl Node {
    /// Has the registry know an image by its digest and a tag of `app`.
    fn registry_tags(&self, tag: &str, oci: &Oci) {
        self.registry_has(&format!("app:{tag}"), oci);
        self.registry_has(&format!("app@{}", oci.digest()), oci);
    }

    fn registry_has(&self, name: &str, oci: &Oci) {
        let found = Found { digest: oci.digest(), size: 5000 };
        self.registry.has.lock().unwrap().insert(name.into(), Ok((found, oci.archive())));
    }

    fn registry_says(&self, name: &str, refusal: Refusal) {
        self.registry.has.lock().unwrap().insert(name.into(), Err(refusal));
    }

    /// Whether the registry gives archives.
    fn give(&self, open: bool) {
        self.registry.open.send_replace(open);
    }

    /// Waits until so many archives are on their way.
    async fn fetching(&self, count: usize) {
        self.registry.under_way.subscribe().wait_for(|now| *now == count).await.unwrap();
    }

    fn fetched(&self) -> usize {
        self.registry.fetched.lock().unwrap().len()
    }

    async fn code_of(&self, name: &str) -> Value {
        self.get(&format!("{FUNCTIONS}/{name}")).await.ok(200)["Code"].clone()
    }

    /// Waits until a member of a function's configuration has a value.
    async fn until(&self, name: &str, member: &str, value: &str) -> Value {
        loop {
            let config = self.get(&format!("{FUNCTIONS}/{name}/configuration")).await.ok(200);
            if config[member] == value {
                return config;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    async fn called(&self, name: &str) -> Got {
        self.call("POST", &format!("{FUNCTIONS}/{name}/invocations"), "{}").await
    }

    /// The command of the image that a call of the function ran.
    async fn ran(&self, name: &str) -> String {
        self.called(name).await.ok(200);
        let seen = self.invoker.seen.lock().unwrap();
        seen.last().unwrap().function.image.as_ref().unwrap().own.command.concat()
    }

    async fn update_image(&self, name: &str, tag: &str) -> Got {
        let uri = json!({ "ImageUri": format!("{HOST}/app:{tag}") });
        self.put(&format!("{FUNCTIONS}/{name}/code"), &uri).await
    }
}

fn of_registry(name: &str, tag: &str) -> Value {
    of_image(name, &format!("{HOST}/app:{tag}"))
}

#[tokio::test]
async fn a_function_is_pending_until_its_image_is_here() {
    let node = node().await;
    let oci = image("one");
    node.registry_tags("v1", &oci);
    node.give(false);
    let created = node.create(&of_registry("f", "v1")).await.ok(201);
    assert_eq!((&created["State"], &created["CodeSha256"]), (&json!("Pending"), &json!(oci.digest())));
    let resolved = format!("{HOST}/app@sha256:{}", oci.digest());
    assert_eq!(node.code_of("f").await["ResolvedImageUri"], json!(resolved));
    let pending = "The operation cannot be performed at this time. The function is currently in the following state: Pending";
    node.called("f").await.is_error(409, "ResourceConflictException", pending);
    let settings = json!({ "Timeout": 5 });
    for (method, path) in [("PUT", "configuration"), ("POST", "versions")] {
        let got = node.call(method, &format!("{FUNCTIONS}/f/{path}"), settings.to_string()).await;
        got.is_error(409, "ResourceConflictException", pending);
    }
    // The tag goes elsewhere meanwhile.
    node.registry_tags("v1", &image("two"));
    node.give(true);
    node.settled("f").await;
    assert_eq!(node.ran("f").await, "one");
    assert_eq!(node.code_of("f").await["ResolvedImageUri"], json!(resolved));
    assert_eq!(node.get(IMAGES).await.ok(200)["Images"], json!([]), "no tag is left of it");
}

#[tokio::test]
async fn equal_images_are_pulled_once() {
    let node = node().await;
    node.registry_tags("v1", &image("one"));
    node.registry_tags("v2", &image("one"));
    node.give(false);
    for (name, tag) in [("a", "v1"), ("b", "v2")] {
        node.create(&of_registry(name, tag)).await.ok(201);
    }
    let published = with(of_registry("c", "v1"), &[("/Publish", json!(true))]);
    assert_eq!(node.create(&published).await.ok(201)["Version"], json!("1"));
    node.give(true);
    for name in ["a", "b", "c"] {
        node.settled(name).await;
    }
    node.settled("c:1").await;
    assert_eq!(node.ran("c:1").await, "one");
    // One that is here is not pulled again, and nothing has changed since it was published.
    node.create(&of_registry("d", "v1")).await.ok(201);
    node.settled("d").await;
    assert_eq!(
        node.call("POST", &format!("{FUNCTIONS}/c/versions"), "{}").await.ok(201)["Version"],
        json!("1")
    );
    assert_eq!(node.fetched(), 1);
}

#[tokio::test]
async fn what_cannot_be_resolved_makes_no_function() {
    let node = node().await;
    node.registry_says("app:denied", Refusal::Denied("401".into()));
    node.registry_says("app:wrong", Refusal::Unsuitable("what".into()));
    node.registry_says("app:gone", Refusal::Unavailable("no".into()));
    let invalid = "InvalidParameterValueException";
    let absent = |uri: &str| format!("Source image {uri} does not exist. Provide a valid source image.");
    for uri in [format!("{HOST}/app:none"), "team/app:v1".into(), "app:v1".into()] {
        node.create(&of_image("f", &uri)).await.is_error(400, invalid, &absent(&uri));
    }
    for host in ["another.example", "localhost:5000"] {
        let uri = format!("{host}/app:v1");
        let unknown = format!(
            "Source image {uri} does not exist: nobody pushed it, and the node's configuration has no [[registries]] entry whose \
             host is {host}. Provide a valid source image."
        );
        node.create(&of_image("f", &uri)).await.is_error(400, invalid, &unknown);
    }
    let denied = "Lambda does not have permission to access the ECR image. Check the ECR permissions.";
    node.create(&of_registry("f", "denied")).await.is_error(400, invalid, denied);
    let wrong = format!(
        "The image manifest, config or layer media type for the source image {HOST}/app:wrong is not supported."
    );
    node.create(&of_registry("f", "wrong")).await.is_error(400, invalid, &wrong);
    let gone = "The image's registry cannot be reached now. The node's log has the details.";
    node.create(&of_registry("f", "gone")).await.is_error(503, "ServiceUnavailableException", gone);
    assert_eq!(node.get(&format!("{FUNCTIONS}/f")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_function_without_its_image_has_failed_and_may_be_given_another_one() {
    let node = node().await;
    let no_image = Oci::plain(&[b"no tar".repeat(100)], &json!({}));
    node.registry_tags("broken", &no_image);
    for (tag, refusal) in [("deleted", Refusal::Absent), ("denied", Refusal::Denied("403".into()))] {
        node.registry_tags(tag, &image(tag));
        node.registry_says(&format!("app@{}", image(tag).digest()), refusal);
    }
    for (tag, code) in
        [("broken", "InvalidImage"), ("deleted", "ImageDeleted"), ("denied", "ImageAccessDenied")]
    {
        node.create(&of_registry(tag, tag)).await.ok(201);
        let failed = node.until(tag, "State", "Failed").await;
        assert_eq!(failed["StateReasonCode"], json!(code), "{failed}");
        let message = "The operation cannot be performed at this time. The function is currently in the following state: Failed";
        node.called(tag).await.is_error(409, "ResourceConflictException", message);
        let settings = json!({ "Timeout": 5 });
        let got = node.put(&format!("{FUNCTIONS}/{tag}/configuration"), &settings).await;
        got.is_error(409, "ResourceConflictException", message);
    }
    let node = node.restarted().await;
    node.until("denied", "State", "Failed").await;
    // The same again, which may be had now; and another one.
    node.registry_tags("denied", &image("denied"));
    node.update_image("denied", "denied").await.ok(200);
    node.settled("denied").await;
    assert_eq!(node.ran("denied").await, "denied");
    node.registry_tags("v1", &image("one"));
    node.update_image("broken", "v1").await.ok(200);
    node.settled("broken").await;
    assert_eq!(node.ran("broken").await, "one");
}

#[tokio::test]
async fn a_function_is_what_it_was_until_its_update_is_here() {
    let node = node().await;
    let (one, two) = (image("one"), image("two"));
    node.registry_tags("v1", &one);
    node.registry_tags("v2", &two);
    node.create(&of_registry("f", "v1")).await.ok(201);
    node.settled("f").await;
    node.give(false);
    let updated = node.update_image("f", "v2").await.ok(200);
    assert_eq!(
        (&updated["State"], &updated["LastUpdateStatus"], &updated["CodeSha256"]),
        (&json!("Active"), &json!("InProgress"), &json!(two.digest()))
    );
    assert_eq!(node.ran("f").await, "one");
    let arn = updated["FunctionArn"].as_str().unwrap();
    let busy = format!(
        "The operation cannot be performed at this time. An update is in progress for resource: {arn}"
    );
    node.update_image("f", "v1").await.is_error(409, "ResourceConflictException", &busy);
    // An agent that ends meanwhile goes on when it starts.
    let node = node.restarted().await;
    assert_eq!(node.ran("f").await, "one");
    node.give(true);
    node.settled("f").await;
    assert_eq!(node.ran("f").await, "two");

    node.registry_tags("v3", &image("three"));
    node.registry_says(&format!("app@{}", image("three").digest()), Refusal::Absent);
    node.update_image("f", "v3").await.ok(200);
    let failed = node.until("f", "LastUpdateStatus", "Failed").await;
    assert_eq!(
        (&failed["State"], &failed["LastUpdateStatusReasonCode"], &failed["CodeSha256"]),
        (&json!("Active"), &json!("ImageDeleted"), &json!(two.digest()))
    );
    let node = node.restarted().await;
    assert_eq!(node.ran("f").await, "two");
    node.until("f", "LastUpdateStatus", "Failed").await;
    let published = json!({ "ImageUri": format!("{HOST}/app:v1"), "Publish": true });
    let version = node.put(&format!("{FUNCTIONS}/f/code"), &published).await.ok(200);
    assert_eq!((&version["Version"], &version["CodeSha256"]), (&json!("1"), &json!(one.digest())));
    node.settled("f:1").await;
    node.settled("f").await;
    assert_eq!((node.ran("f:1").await, node.ran("f").await), ("one".into(), "one".into()));
}

#[tokio::test]
async fn a_function_that_is_pending_when_the_agent_ends_is_pulled_by_the_next() {
    let node = node().await;
    node.registry_tags("v1", &image("one"));
    node.give(false);
    node.create(&of_registry("f", "v1")).await.ok(201);
    node.fetching(1).await;
    let node = node.restarted().await;
    node.until("f", "State", "Pending").await;
    node.give(true);
    node.settled("f").await;
    assert_eq!(node.ran("f").await, "one");
    let left = std::fs::read_dir(node.dir.path().join("builds")).unwrap().count();
    assert_eq!(left, 0, "something is left of a pull");
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_ends() {
    let node = node().await;
    node.registry_tags("v1", &image("one"));
    node.registry_tags("v2", &image("two"));
    node.give(false);
    node.create(&of_registry("f", "v1")).await.ok(201);
    node.fetching(1).await;
    node.create(&of_registry("g", "v2")).await.ok(201);
    node.call("DELETE", &format!("{FUNCTIONS}/f"), Body::empty()).await.ok(204);
    // The next one has its turn.
    while node.fetched() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    node.fetching(1).await;
    node.give(true);
    node.settled("g").await;
}

#[tokio::test]
async fn what_was_pushed_by_hand_is_before_the_registry() {
    let node = node().await;
    let (pushed, registrys) = (image("pushed"), image("registry's"));
    node.registry_tags("v1", &registrys);
    node.push(&format!("{HOST}/app:v1"), &pushed.archive()).await.ok(201);
    node.create(&of_registry("f", "v1")).await.ok(201);
    node.settled("f").await;
    assert_eq!((node.ran("f").await, node.fetched()), ("pushed".into(), 0));
    let name = json!({ "Image": format!("{HOST}/app:v1") }).to_string();
    let refused = node.call("POST", PULLS, name.clone()).await;
    refused.is_error(
        400,
        "InvalidRequestContentException",
        "The image is not pulled: it was pushed by hand.",
    );
    node.call("DELETE", &format!("{IMAGES}?Image={HOST}/app:v1"), Body::empty()).await.ok(204);
    let pulled = node.call("POST", PULLS, name).await.ok(201);
    assert_eq!(pulled["Digest"], json!(format!("sha256:{}", registrys.digest())));
    assert_eq!(node.get(IMAGES).await.ok(200)["Images"], json!([pulled]));
    // A tag that was pulled goes where the registry's goes.
    let moved = image("moved");
    node.registry_tags("v1", &moved);
    node.create(&of_registry("g", "v1")).await.ok(201);
    node.settled("g").await;
    assert_eq!(node.ran("g").await, "moved");
    // A digest is the same everywhere.
    let by_digest = of_image("h", &format!("{HOST}/app@sha256:{}", registrys.digest()));
    node.create(&by_digest).await.ok(201);
    node.settled("h").await;
    assert_eq!((node.ran("h").await, node.fetched()), ("registry's".into(), 2));
}

#[tokio::test]
async fn an_operator_is_told_why_an_image_is_not_pulled() {
    let node = node().await;
    node.registry_says("app:denied", Refusal::Denied("it answered 403 Forbidden".into()));
    let pull = async |name: &str| {
        let got = node.call("POST", PULLS, json!({ "Image": name }).to_string()).await;
        let body = got.json();
        let said = body["message"].as_str().or(body["Message"].as_str()).unwrap().to_owned();
        (got.status.as_u16(), said)
    };
    assert_eq!(pull(&format!("{HOST}/app:none")).await, (404, "The registry has no such image.".into()));
    let unknown = "The image is not pulled: no registry of that name is configured.";
    assert_eq!(pull("another.example/app:v1").await, (400, unknown.into()));
    let (status, said) = pull(&format!("{HOST}/app:denied")).await;
    assert_eq!(status, 500);
    assert!(said.ends_with("it answered 403 Forbidden."), "{said}");
    node.registry_tags("broken", &Oci::plain(&[b"no tar".repeat(100)], &json!({})));
    let (status, said) = pull(&format!("{HOST}/app:broken")).await;
    assert_eq!(status, 500);
    assert!(said.starts_with("The image is refused: "), "{said}");
    assert_eq!(node.get(IMAGES).await.ok(200)["Images"], json!([]));
}
