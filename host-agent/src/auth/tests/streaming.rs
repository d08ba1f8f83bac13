//! Bodies in chunks: AWS's published examples, and what is refused of them.

use super::*;

const DATE: &str = "20130524T000000Z";
const S3_SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

/// The published example's chunks and their signatures: 64 KiB and 1 KiB of the letter a.
const CHUNK_SIGNATURES: [&str; 3] = [
    "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
    "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
    "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
];
const SEED: &str = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";

/// The same with a checksum behind it.
const TRAILED_SIGNATURES: [&str; 3] = [
    "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
    "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
    "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
];
const TRAILED_SEED: &str = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e";
const TRAILER_SIGNATURE: &str = "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435";

fn signer(seed: &str) -> ChunkSigner {
    let credential = Credential::parse("AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request").unwrap();
    ChunkSigner {
        date: DATE.into(),
        scope: credential.scope(),
        signing_key: credential.signing_key(S3_SECRET),
        last: seed.into(),
    }
}

fn headers(decoded: &str, trailer: Option<&'static str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-amz-decoded-content-length", decoded.parse().unwrap());
    if let Some(trailer) = trailer {
        headers.insert("x-amz-trailer", trailer.parse().unwrap());
    }
    headers
}

fn example(signatures: [&str; 3], behind: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for (len, signature) in [65_536, 1024, 0].into_iter().zip(signatures) {
        body.extend(format!("{len:x};chunk-signature={signature}\r\n").into_bytes());
        body.extend(vec![b'a'; len]);
        body.extend(if len > 0 { &b"\r\n"[..] } else { behind.as_bytes() });
    }
    body
}

/// What is read of a body that arrives in pieces of a length.
fn decode(mut chunked: Chunked, body: &[u8], piece_len: usize) -> Result<Vec<u8>, String> {
    let said = |error: ApiError| error.message().to_owned();
    let mut decoded = Vec::new();
    for piece in body.chunks(piece_len) {
        let mut rest = piece;
        while let Some(data) = chunked.next(&mut rest).map_err(said)? {
            decoded.extend_from_slice(data);
        }
    }
    chunked.finish().map_err(said)?;
    Ok(decoded)
}

fn plain() -> Chunked {
    Chunked::new(&headers("66560", None), Some(signer(SEED)), Trailer::None).unwrap()
}

#[test]
fn the_published_chunks_are_taken_however_they_arrive() {
    let body = example(CHUNK_SIGNATURES, "\r\n");
    for piece_len in [1, 7, 4096, body.len()] {
        assert_eq!(decode(plain(), &body, piece_len), Ok(vec![b'a'; 66_560]), "{piece_len}");
    }
    let behind =
        format!("x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:{TRAILER_SIGNATURE}\r\n\r\n");
    let trailed = || {
        let headers = headers("66560", Some("x-amz-checksum-crc32c"));
        Chunked::new(&headers, Some(signer(TRAILED_SEED)), Trailer::Announced).unwrap()
    };
    let body = example(TRAILED_SIGNATURES, &behind);
    assert_eq!(decode(trailed(), &body, 1000), Ok(vec![b'a'; 66_560]));
    for changed in [
        behind.replace("sOO8", "sOO9"),
        behind.replace("d81f", "d82f"),
        behind.replace("trailer-s", "trailer-t"),
    ] {
        decode(trailed(), &example(TRAILED_SIGNATURES, &changed), 1000).unwrap_err();
    }
    decode(trailed(), &example(TRAILED_SIGNATURES, "x-amz-checksum-crc32c:sOO8/Q==\r\n\r\n"), 1000)
        .unwrap_err();
}

#[test]
fn no_byte_of_a_signed_body_can_be_another() {
    let body = example(CHUNK_SIGNATURES, "\r\n");
    for at in (0..body.len()).step_by(997).chain([0, 5, 6, 90, body.len() - 5]) {
        let mut changed = body.clone();
        changed[at] ^= 1;
        decode(plain(), &changed, 4096).unwrap_err();
    }
    // Cut, swapped, without the last one, or with something behind it.
    let first = body.iter().position(|byte| *byte == b'\n').unwrap() + 65_536 + 3;
    let cut = |range: std::ops::Range<usize>| body[range].to_vec();
    for wrong in [
        Vec::new(),
        cut(0..first),
        cut(0..body.len() - 1),
        cut(first..body.len()),
        [cut(0..first), cut(0..body.len())].concat(),
        [body.clone(), b"0\r\n\r\n".to_vec()].concat(),
    ] {
        decode(plain(), &wrong, 4096).unwrap_err();
    }
}

#[test]
fn unsigned_chunks_are_held_to_their_checksum() {
    let chunked = |decoded: &str, trailer: Option<&'static str>| {
        Chunked::new(&headers(decoded, trailer), None, Trailer::Announced)
            .map_err(|error| error.message().to_owned())
    };
    let (crc32, sha256) = (Some("x-amz-checksum-crc32"), Some("x-amz-checksum-sha256"));
    let good = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n";
    assert_eq!(decode(chunked("5", crc32).unwrap(), good, 3), Ok(b"hello".to_vec()));
    let hashed =
        b"5\r\nhello\r\n0\r\nx-amz-checksum-sha256:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=\r\n\r\n";
    assert_eq!(decode(chunked("5", sha256).unwrap(), hashed, 3), Ok(b"hello".to_vec()));
    for (body, said) in [
        (&b"5\r\nhellO\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n"[..], "checksum"),
        (b"5\r\nhello\r\n0\r\n\r\n", "not those of X-Amz-Trailer"),
        (b"5\r\nhello\r\n0\r\nx-amz-checksum-sha1:x\r\n\r\n", "not those of X-Amz-Trailer"),
        (b"6\r\nhello", "longer than X-Amz-Decoded-Content-Length"),
        (b"4\r\nhell\r\n0\r\n", "shorter than X-Amz-Decoded-Content-Length"),
        (b"4\r\nhell\r\n1\r\no\r\n", "Only the last chunk"),
        (b"5\r\nhello!\r\n", "longer than its size"),
        (b"+5\r\nhello", "no number"),
        (b"5\nhello", "ends without a return"),
        (b"000000005\r\nhello", "no number"),
        (b"5;chunk-signature=x\r\nhello", "does not begin"),
        (&[b'5'; 1000], "too long"),
    ] {
        let refused = decode(chunked("5", crc32).unwrap(), body, 2).unwrap_err();
        assert!(refused.contains(said), "{:?}: {refused}", String::from_utf8_lossy(body));
    }
    for (decoded, trailer) in [("x", crc32), ("-1", crc32), ("5", None), ("5", Some("x-amz-checksum-sha1"))] {
        assert!(chunked(decoded, trailer).is_err(), "{decoded} {trailer:?}");
    }
}

/// A whole request, signed by the independent signer: its own signature is verified before any of its body is read.
#[test]
fn a_requests_signature_is_over_how_its_body_comes() {
    let sent = |secret: &str| {
        let mut sent = Sent::new("POST", "/", UNSIGNED_CHUNKS_AND_TRAILER.as_bytes());
        for (name, value) in [
            (CONTENT_SHA256, UNSIGNED_CHUNKS_AND_TRAILER),
            ("x-amz-decoded-content-length", "5"),
            ("x-amz-trailer", "x-amz-checksum-crc32"),
        ] {
            sent.headers.push((name.into(), value.into()));
        }
        sent.is_precomputed = true;
        sent.signed(at(NOW), KEY, secret, "us-east-1", false)
    };
    let claim = |sent: &Sent| authenticator(AuthMode::Required).identify(&sent.parts(), at(NOW)).unwrap();
    let good = sent(SECRET);
    let body = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n";
    assert_eq!(read(&claim(&good), &good.parts().headers, &[body]), Ok(b"hello".to_vec()));
    let other = sent("another secret");
    assert!(claim(&other).payload(&other.parts().headers).is_err());
    // Whoever changes how it comes has another request.
    let mut whole = good;
    let declared = whole.headers.iter_mut().find(|(name, _)| name == CONTENT_SHA256).unwrap();
    declared.1 = UNSIGNED_PAYLOAD.into();
    assert!(read(&claim(&whole), &whole.parts().headers, &[body]).is_err());
}

#[test]
fn headers_say_nothing_of_chunks_that_are_no_more() {
    for (coded, left) in [("aws-chunked", None), ("aws-chunked,gzip", Some("gzip")), ("gzip", Some("gzip"))] {
        let mut headers = HeaderMap::new();
        headers.insert("content-encoding", coded.parse().unwrap());
        PayloadRead::Chunks.tell(&mut headers);
        assert_eq!(header(&headers, "content-encoding"), left, "{coded}");
    }
}

proptest! {
    /// Whatever arrives, nothing panics, and nothing is kept but a line.
    #[test]
    fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..2000), piece_len in 1..100usize) {
        let crc32 = headers("100", Some("x-amz-checksum-crc32"));
        let _ = decode(Chunked::new(&crc32, None, Trailer::Announced).unwrap(), &body, piece_len);
        let _ = decode(plain(), &body, piece_len);
    }
}
