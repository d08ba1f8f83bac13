//! Names, versions and paths as attackers write them: AWS's refusal, or a function that is not there, and never another one.

use super::*;

/// As a path's segment, and what it may be instead of a name: each is refused or not found.
const TRICKS: &[&str] = &[
    "..",
    ".",
    "%2e%2e",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%2f..%2fstore.redb",
    "f%2f..%2fg",
    "f%2Fconfiguration",
    "%252e%252e%252f",
    "f%00",
    "%00f",
    "f%0d%0ax-amzn-requestid:%20a",
    "f%5c..%5cg",
    "f%20",
    "%20f",
    "f%09",
    "f.",
    "f%E2%80%AE",
    "%EF%BD%86",
    "f%CC%81",
    "%C0%AE%C0%AE%C0%AF",
    "%C1%A6",
    "%FF",
    "%E0%80%AF",
    "%F0%80%80%AF",
    "%",
    "%2",
    "%zz",
    "f%25",
    "f:..%2fg",
    "f:%00",
    "f:1%2f2",
    "arn:aws:lambda:us-east-1:000000000000:function:..%2ff",
    "arn:aws:lambda:us-east-1:000000000000:function:f:..",
    "arn:aws:lambda:..%2f..:000000000000:function:f",
    "000000000000:..%2ff",
];

#[tokio::test]
async fn no_trick_in_a_name_reaches_a_function_or_a_file() {
    let node = Node::new().await;
    node.function("f").await;
    for trick in TRICKS {
        for (method, after) in
            [("GET", ""), ("GET", "/configuration"), ("POST", "/invocations"), ("DELETE", "")]
        {
            let got = node.call(method, &format!("/2015-03-31/functions/{trick}{after}"), "1").await;
            let status = got.status.as_u16();
            assert!((400..500).contains(&status), "{method} {trick}{after}: {status} {:?}", got.body);
            assert!(got.header("x-amzn-errortype").is_some(), "{method} {trick}{after}: {got:?}");
        }
    }
    assert!(node.invoker.seen.lock().unwrap().is_empty());
    assert!(node.invoker.retired.lock().unwrap().is_empty());
    node.get("/2015-03-31/functions/f").await.ok(200);
}

#[tokio::test]
async fn no_trick_in_a_qualifier_reaches_a_version() {
    let node = Node::new().await;
    node.function("f").await;
    for trick in
        TRICKS.iter().chain(&["$latest", "$LATEST%00", "-1", "1%0a", "%24LATEST%2f1", "", "a&Qualifier=.."])
    {
        let path = format!("/2015-03-31/functions/f?Qualifier={trick}");
        let got = node.get(&path).await;
        assert!((400..500).contains(&got.status.as_u16()), "{trick}: {got:?}");
        let path = format!("/2015-03-31/functions/f/invocations?Qualifier={trick}");
        let got = node.call("POST", &path, "1").await;
        assert!((400..500).contains(&got.status.as_u16()), "{trick}: {got:?}");
        let got = node.get(&format!("/2015-03-31/functions/f/aliases/{trick}")).await;
        assert!((400..500).contains(&got.status.as_u16()) || trick.is_empty(), "{trick}: {got:?}");
    }
    assert!(node.invoker.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn no_trick_in_a_path_goes_around_the_gate_or_to_a_file() {
    let node = Node::new().await;
    node.function("f").await;
    for path in [
        "/tinderbox/code/..%2f..%2fstore.redb",
        "/tinderbox/code/%2e%2e",
        "/tinderbox/code/f%00",
        "/tinderbox/code/..",
        "/tinderbox/../2015-03-31/functions/f",
        "/tinderbox/code/../../2015-03-31/functions/f",
        "//2015-03-31/functions/f",
        "/2015-03-31//functions/f",
        "/2015-03-31/functions//f",
        "/2015-03-31/functions/f/",
        "/2015-03-31/functions/f/../f",
        "/2015-03-31/functions/./f",
        "/2015-03-31%2ffunctions%2ff",
        "/2015-03-31/functions/f;x",
        "/2015-03-31/FUNCTIONS/f",
        "/etc/passwd",
        "/%2e%2e/etc/passwd",
    ] {
        let got = node.get(path).await;
        assert!((400..500).contains(&got.status.as_u16()), "{path}: {got:?}");
    }
}

/// A new function's name comes in a body, where there is no encoding to hide in.
#[tokio::test]
async fn no_trick_in_a_new_functions_name_makes_one() {
    let node = Node::new().await;
    for name in [
        "..",
        "../f",
        "a/b",
        "a\\b",
        "a\0",
        "\0",
        "a\n",
        " a",
        "a ",
        "é",
        "\u{202e}a",
        "\u{ff46}",
        "a.b",
        "",
        ".",
    ] {
        let got = node.create(&request(name)).await;
        assert_eq!(got.status, 400, "{name:?}: {got:?}");
    }
    let listed = node.get("/2015-03-31/functions").await.ok(200);
    assert_eq!(listed["Functions"], json!([]));
}
