//! AWS's own suite of signatures (`aws-sig-v4-test-suite`): its requests, and the signatures that it says they have.

use super::*;

const DATE: &str = "20150830T123600Z";

/// A request of the suite: its headers beside host and date, body, and whose signature is known.
fn check(method: &str, path: &str, headers: &[(&str, &str)], body: &str, signature: &str) {
    let mut request = Request::builder().method(method).uri(path);
    let own = [("host", "example.amazonaws.com"), ("x-amz-date", DATE)];
    let mut names: Vec<String> = Vec::new();
    for (name, value) in headers.iter().chain(&own) {
        request = request.header(*name, *value);
        names.push(name.to_lowercase());
    }
    names.sort();
    names.dedup();
    let parts = request.body(()).unwrap().into_parts().0;
    let fields = Fields { signed_headers: names, ..Fields::default() };
    // The suite's service is none of ours.
    let credential = Credential::parse(&format!("{KEY}/20150830/us-east-1/service/aws4_request")).unwrap();
    let signed = Signed {
        access_key_id: KEY.into(),
        principal: Principal::Administrator,
        head: canonical::head(&parts, &fields).unwrap(),
        declared_payload: None,
        date: DATE.into(),
        scope: credential.scope(),
        signing_key: credential.signing_key(SECRET),
        signature: unhex(signature).unwrap(),
    };
    let claim = Claim { region: "us-east-1".into(), signed: Some(signed) };
    let read = read(&claim, &parts.headers, &[body.as_bytes()]);
    assert!(read.is_ok(), "{method} {path} {headers:?}: {}", canonical::head(&parts, &fields).unwrap());
}

#[test]
fn requests_have_the_signatures_that_aws_says() {
    let vanilla = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
    for path in ["/", "//", "/./", "/example/..", "/example1/example2/../.."] {
        check("GET", path, &[], "", vanilla);
    }
    check("POST", "/", &[], "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b");
    check(
        "GET",
        "/?Param2=value2&Param1=value1",
        &[],
        "",
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    );
    check(
        "GET",
        "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
        &[],
        "",
        "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
    );
    check(
        "GET",
        "/",
        &[("My-Header1", "value2"), ("My-Header1", "value2"), ("My-Header1", "value1")],
        "",
        "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
    );
    check(
        "GET",
        "/",
        &[("My-Header1", " value1"), ("My-Header2", " \"a   b   c\"")],
        "",
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    );
    check(
        "POST",
        "/",
        &[("My-Header1", "value1")],
        "",
        "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
    );
    check(
        "POST",
        "/",
        &[("Content-Type", "application/x-www-form-urlencoded")],
        "Param1=value1",
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    );
}
