//! `tinderbox images`: container images of the node, which functions can be made of.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::client::Client;

const PATH: &str = "/tinderbox/images";

/// Bytes of one part of an archive: the node takes 16 MiB.
const PART_LEN: u64 = 8 * 1024 * 1024;

/// Tag of an image that is called by its name alone.
const DEFAULT_TAG: &str = "latest";

/// What is asked.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Action {
    /// Sends an OCI archive to the node, which verifies it and keeps it under a name.
    Push {
        /// The file, as `docker save`, `skopeo copy … oci-archive:FILE` or `docker buildx build --output type=oci,dest=FILE` write it.
        archive: PathBuf,
        /// NAME[:TAG], with a registry's host or without: what functions name it by.
        name: String,
    },
    /// Has the node pull an image from its registry, which the node's configuration has to name, and waits until it is there.
    Pull {
        /// REGISTRY/NAME[:TAG]. What was pushed under that name is not replaced.
        name: String,
    },
    /// The images that the node has.
    List,
    /// Removes an image's name. Functions that were made of it keep it.
    Rm {
        /// NAME[:TAG].
        name: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Begun {
    upload_id: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Naming {
    image: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    images: Vec<Image>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    name: String,
    tag: String,
    digest: String,
    unpacked_size: u64,
    pushed_at: String,
}

/// Asks, and prints what there is then.
pub(crate) fn run(client: &Client, action: Action, json: bool) -> Result<ExitCode> {
    match action {
        Action::Push { archive, name } => {
            let answer = push(client, &archive, tagged(&name))?;
            print(&answer, json, one)?;
        }
        Action::Pull { name } => {
            let naming = naming(tagged(&name))?;
            let answer = client.call("POST", &format!("{PATH}/pulls"), naming)?;
            print(&answer, json, one)?;
        }
        Action::List => {
            let answer = client.call("GET", PATH, Vec::new())?;
            print(&answer, json, |answer| Ok(text(&serde_json::from_slice::<Listed>(answer)?.images)))?;
        }
        Action::Rm { name } => {
            client.call("DELETE", &format!("{PATH}?Image={}", escaped(&tagged(&name))), Vec::new())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Sends an archive in parts, each a request that is signed for.
fn push(client: &Client, archive: &Path, image: String) -> Result<Vec<u8>> {
    let shown = archive.display();
    let mut file = File::open(archive).with_context(|| format!("cannot open {shown}"))?;
    let begun = client.call("POST", &format!("{PATH}/uploads"), naming(image)?)?;
    let Begun { upload_id } = serde_json::from_slice(&begun).context("understand the node's answer")?;
    let upload = format!("{PATH}/uploads/{}", escaped(&upload_id));
    let mut offset = 0;
    loop {
        let mut part = Vec::new();
        let len = (&mut file).take(PART_LEN).read_to_end(&mut part);
        let len = len.with_context(|| format!("cannot read {shown}"))? as u64;
        if len == 0 {
            break;
        }
        client.call("PUT", &format!("{upload}?Offset={offset}"), part)?;
        offset += len;
    }
    Ok(client.call("POST", &upload, Vec::new())?.to_vec())
}

fn naming(image: String) -> Result<Vec<u8>> {
    serde_json::to_vec(&Naming { image }).context("write the request")
}

/// An answer that is one image.
fn one(answer: &[u8]) -> serde_json::Result<String> {
    Ok(text(&[serde_json::from_slice(answer)?]))
}

fn print(answer: &[u8], json: bool, text: impl FnOnce(&[u8]) -> serde_json::Result<String>) -> Result<()> {
    if json {
        println!("{}", String::from_utf8_lossy(answer));
    } else {
        print!("{}", text(answer).context("understand the node's answer")?);
    }
    Ok(())
}

/// A name with its tag. A port has a slash behind it.
fn tagged(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or_default();
    if last.contains(':') { name.to_owned() } else { format!("{name}:{DEFAULT_TAG}") }
}

/// As a query or a segment of a path has it.
fn escaped(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let escape =
        |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escape).collect()
}

fn text(images: &[Image]) -> String {
    const MIB: u64 = 1024 * 1024;
    let line = |image: &Image| {
        let Image { name, tag, digest, unpacked_size, pushed_at } = image;
        format!("{name}:{tag}  {digest}  {} MiB  {pushed_at}\n", unpacked_size.div_ceil(MIB))
    };
    images.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_is_the_latest() {
        let check = |name: &str, expected: &str| assert_eq!(tagged(name), expected);
        check("app", "app:latest");
        check("app:v1", "app:v1");
        check("host:5000/app", "host:5000/app:latest");
        check("host:5000/app:v1", "host:5000/app:v1");
    }

    #[test]
    fn a_name_is_escaped() {
        assert_eq!(escaped("host:5000/a_b-c.d:v1"), "host%3A5000%2Fa_b-c.d%3Av1");
    }

    #[test]
    fn an_image_is_a_line() {
        let answer = r#"{"Images": [{"Name": "app", "Tag": "v1", "Digest": "sha256:00", "Size": 1,
            "UnpackedSize": 1048577, "PushedAt": "2026-01-01T00:00:00Z"}]}"#;
        let Listed { images } = serde_json::from_str(answer).unwrap();
        assert_eq!(text(&images), "app:v1  sha256:00  2 MiB  2026-01-01T00:00:00Z\n");
    }
}
