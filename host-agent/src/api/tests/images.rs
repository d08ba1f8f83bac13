//! Container images: pushed in parts, listed, removed, and functions that are made of them.

use super::*;
use crate::code::image::tests::{Entry, Oci, layer_of};

const IMAGES: &str = "/tinderbox/images";
const UPLOADS: &str = "/tinderbox/images/uploads";
const FUNCTIONS: &str = "/2015-03-31/functions";

/// An image whose command is that.
pub(super) fn image(command: &str) -> Oci {
    let layer = layer_of(&[Entry::File("app/run", 0o755, command.as_bytes())]);
    let config =
        json!({ "Entrypoint": ["/app/run"], "Cmd": [command], "WorkingDir": "/app", "Env": ["A=1"] });
    Oci::plain(&[layer], &config)
}

impl Node {
    /// Pushes an archive in two parts, unless its name is refused.
    pub(super) async fn push(&self, name: &str, archive: &[u8]) -> Got {
        let begun = self.call("POST", UPLOADS, json!({ "Image": name }).to_string()).await;
        if begun.status != StatusCode::CREATED {
            return begun;
        }
        let upload = format!("{UPLOADS}/{}", begun.json()["UploadId"].as_str().unwrap());
        let (first, second) = archive.split_at(archive.len() / 2);
        for (offset, part) in [(0, first), (first.len(), second)] {
            let path = format!("{upload}?Offset={offset}");
            let taken = self.call("PUT", &path, part.to_vec()).await.ok(200);
            assert_eq!(taken["Length"], json!(offset + part.len()));
        }
        self.call("POST", &upload, Body::empty()).await
    }
}

/// The least body that creates a function of an image.
pub(super) fn of_image(name: &str, uri: &str) -> Value {
    json!({
        "FunctionName": name,
        "PackageType": "Image",
        "Role": "arn:aws:iam::000000000000:role/r",
        "Code": { "ImageUri": uri },
    })
}

#[tokio::test]
async fn an_image_is_pushed_listed_and_removed() {
    let node = Node::new().await;
    let oci = image("one");
    let pushed = node.push("team/app:v1", &oci.archive()).await.ok(201);
    let digest = format!("sha256:{}", oci.digest());
    assert_eq!(
        (&pushed["Name"], &pushed["Tag"], &pushed["Digest"]),
        (&json!("team/app"), &json!("v1"), &json!(digest))
    );
    assert_eq!(node.get(IMAGES).await.ok(200)["Images"], json!([pushed]));
    // A tag is moved by a push.
    node.push("team/app:v1", &image("two").archive()).await.ok(201);
    let images = node.get(IMAGES).await.ok(200)["Images"].as_array().unwrap().clone();
    assert_eq!(images.len(), 1);
    assert_ne!(images[0]["Digest"], json!(digest));
    let removed = format!("{IMAGES}?Image=team/app:v1");
    node.call("DELETE", &removed, Body::empty()).await.ok(204);
    assert_eq!(node.get(IMAGES).await.ok(200)["Images"], json!([]));
    assert_eq!(node.call("DELETE", &removed, Body::empty()).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_no_image_is_refused_and_leaves_nothing() {
    let node = Node::new().await;
    let refused = node.push("app:1", b"no archive").await;
    let said = refused.json()["message"].as_str().unwrap_or_default().to_owned();
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(said.starts_with("The image is refused: not a usable archive: "), "{said}");
    for name in ["app", "App:1", "app@sha256:00", &format!("app@sha256:{}", "0".repeat(64))] {
        assert_eq!(node.push(name, &image("x").archive()).await.status, StatusCode::BAD_REQUEST, "{name}");
    }
    assert_eq!(node.get(IMAGES).await.ok(200)["Images"], json!([]));
    let begun = node.call("POST", UPLOADS, json!({ "Image": "app:1" }).to_string()).await.ok(201);
    let upload = format!("{UPLOADS}/{}", begun["UploadId"].as_str().unwrap());
    for (path, status) in [
        (upload.clone(), 400),
        (format!("{upload}?Offset=x"), 400),
        (format!("{upload}?Offset=5"), 400),
        (format!("{UPLOADS}/none?Offset=0"), 404),
    ] {
        assert_eq!(node.call("PUT", &path, "x").await.status.as_u16(), status, "{path}");
    }
}

#[tokio::test]
async fn a_function_is_the_image_that_its_tag_named_then() {
    let node = Node::new().await;
    let (one, two) = (image("one"), image("two"));
    node.push("app:v1", &one.archive()).await.ok(201);
    let created = node.create(&of_image("f", "app:v1")).await.ok(201);
    assert_eq!((&created["PackageType"], &created["CodeSha256"]), (&json!("Image"), &json!(one.digest())));
    for absent in ["Runtime", "Handler", "ImageConfigResponse", "RuntimeVersionConfig", "Layers"] {
        assert_eq!(created.get(absent), None, "{absent}");
    }
    let managed = "/2021-07-20/functions/f/runtime-management-config";
    let refused = node.put(managed, &json!({ "UpdateRuntimeOn": "Auto" })).await;
    assert_eq!(refused.header("x-amzn-errortype"), Some("InvalidParameterValueException"));
    assert_eq!(node.get(managed).await.status, 400);
    node.settled("f").await;
    // The tag goes elsewhere, and the function stays what it is; also after a restart.
    node.push("app:v1", &two.archive()).await.ok(201);
    node.call("DELETE", &format!("{IMAGES}?Image=app:v1"), Body::empty()).await.ok(204);
    let node = node.restarted().await;
    let got = node.get(&format!("{FUNCTIONS}/f")).await.ok(200);
    let resolved = format!("app@sha256:{}", one.digest());
    let code = json!({ "RepositoryType": "ECR", "ImageUri": "app:v1", "ResolvedImageUri": resolved });
    assert_eq!(got["Code"], code);
    node.call("POST", &format!("{FUNCTIONS}/f/invocations"), "{}").await.ok(200);
    let seen = node.invoker.seen.lock().unwrap();
    let image = seen[0].function.image.clone().unwrap();
    assert_eq!(
        (image.arguments(), image.working_directory()),
        (vec!["/app/run".into(), "one".into()], "/app")
    );
    assert_eq!(seen[0].function.package().code, one.digest());
}

#[tokio::test]
async fn an_update_is_to_another_image_by_tag_or_digest() {
    let node = Node::new().await;
    let (one, two) = (image("one"), image("two"));
    for (tag, oci) in [("app:v1", &one), ("app:v2", &two)] {
        node.push(tag, &oci.archive()).await.ok(201);
    }
    node.create(&of_image("f", "app:v1")).await.ok(201);
    node.settled("f").await;
    let code = format!("{FUNCTIONS}/f/code");
    let uri = format!("app@sha256:{}", two.digest());
    let dry = node.put(&code, &json!({ "ImageUri": uri, "DryRun": true })).await.ok(200);
    assert_eq!(dry["CodeSha256"], json!(two.digest()));
    assert_eq!(node.settled("f").await["CodeSha256"], json!(one.digest()));
    let updated = node.put(&code, &json!({ "ImageUri": uri, "Publish": true })).await.ok(200);
    assert_eq!((&updated["Version"], &updated["CodeSha256"]), (&json!("1"), &json!(two.digest())));
    node.settled("f").await;
    // As it is run belongs to a version.
    let settings = json!({ "ImageConfig": { "Command": ["three"], "WorkingDirectory": "/" } });
    let updated = node.put(&format!("{FUNCTIONS}/f/configuration"), &settings).await.ok(200);
    assert_eq!(updated["ImageConfigResponse"], settings);
    node.settled("f").await;
    let published = node.call("POST", &format!("{FUNCTIONS}/f/versions"), "{}").await.ok(201);
    assert_eq!((&published["Version"], &published["State"]), (&json!("2"), &json!("Active")));
    let wrong = json!({ "CodeSha256": one.digest() }).to_string();
    let refused = node.call("POST", &format!("{FUNCTIONS}/f/versions"), wrong).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let right = json!({ "CodeSha256": two.digest() }).to_string();
    node.call("POST", &format!("{FUNCTIONS}/f/versions"), right).await.ok(201);
}

#[tokio::test]
async fn what_is_not_for_images_is_refused_in_aws_words() {
    const EITHER: &str =
        "Please don't provide Handler or Runtime or Layer when the intended function PackageType is Image.";
    const INVALID: &str = "InvalidParameterValueException";
    let node = Node::new().await;
    node.push("app:v1", &image("one").archive()).await.ok(201);
    node.create(&of_image("f", "app:v1")).await.ok(201);
    node.settled("f").await;
    node.function("z").await;
    let body = || of_image("g", "app:v1");
    let layer = "arn:aws:lambda:us-east-1:000000000000:layer:l:1";
    for (member, value, message) in [
        ("/Runtime", json!("python3.13"), EITHER),
        ("/Handler", json!("a.b"), EITHER),
        ("/Layers", json!([layer]), EITHER),
        ("/Code", json!({}), "Please provide ImageUri when creating a function with packageType Image."),
        ("/Code/ImageUri", json!("app"), "Source image app is not valid. Provide a valid source image."),
        (
            "/Code/ImageUri",
            json!("app:v2"),
            "Source image app:v2 does not exist. Provide a valid source image.",
        ),
        (
            "/Code/ZipFile",
            json!("AAAA"),
            "Please do not provide other FunctionCode parameters when providing an ImageUri.",
        ),
        (
            "/SnapStart",
            json!({ "ApplyOn": "PublishedVersions" }),
            "ContainerImage is not supported for SnapStart enabled functions.",
        ),
    ] {
        node.create(&with(body(), &[(member, value)])).await.is_error(400, INVALID, message);
    }
    let settings = format!("{FUNCTIONS}/f/configuration");
    for (body, message) in [
        (json!({ "Handler": "a.b" }), EITHER),
        (json!({ "Layers": [layer] }), EITHER),
        (
            json!({ "SnapStart": { "ApplyOn": "PublishedVersions" } }),
            "ContainerImage is not supported for SnapStart enabled functions.",
        ),
    ] {
        node.put(&settings, &body).await.is_error(400, INVALID, message);
    }
    let zip = "Please don't provide ImageConfig when the intended function PackageType is Zip.";
    let config = json!({ "ImageConfig": { "Command": ["x"] } });
    node.put(&format!("{FUNCTIONS}/z/configuration"), &config).await.is_error(400, INVALID, zip);
    let sizes = node.get("/2016-08-19/account-settings").await.ok(200);
    assert_eq!(sizes["AccountUsage"]["TotalCodeSize"], json!(zip_of("index.py", "x = 1").len()));
}

#[tokio::test]
async fn an_image_of_nobodys_is_collected() {
    let node = Node::new().await;
    let contents = async || node.get("/tinderbox/chunks").await.ok(200)["published"]["contents"].clone();
    node.push("app:v1", &image("one").archive()).await.ok(201);
    node.push("app:v2", &image("one").archive()).await.ok(201);
    assert_eq!(contents().await, json!(1), "equal images are one");
    for tag in ["app:v1", "app:v2"] {
        node.call("DELETE", &format!("{IMAGES}?Image={tag}"), Body::empty()).await.ok(204);
    }
    while contents().await != json!(0) {
        tokio::task::yield_now().await;
    }
}
