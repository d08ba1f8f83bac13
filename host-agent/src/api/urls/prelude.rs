//! What stands before a streamed response that is meant for a URL: a JSON document with status, headers and cookies, then eight NULs,
//! then the body. Pure.

use axum::response::Response;
use bytes::{Bytes, BytesMut};

use super::answer::{self, Malformed};

/// Content type of a response that has one.
pub(super) const HTTP_INTEGRATION: &str = "application/vnd.awslambda.http-integration-response";

const END: [u8; 8] = [0; 8];

/// Longest one: headers that an answer may have, with room for what JSON makes of them.
const MAX_LEN: usize = 64 * 1024;

/// Looks for the end of a prelude in a response's first pieces.
#[derive(Default)]
pub(super) struct Prelude(BytesMut);

impl Prelude {
    /// Takes the next piece: the head of the answer and the first of its body, when the prelude is whole.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<Option<(Response, Bytes)>, Malformed> {
        let seen = self.0.len().saturating_sub(END.len() - 1);
        self.0.extend_from_slice(piece);
        let found = self.0[seen..].windows(END.len()).position(|window| window == END);
        let Some(at) = found.map(|at| seen + at).filter(|at| *at <= MAX_LEN) else {
            return if self.0.len() > MAX_LEN + END.len() { Err(Malformed::Headers) } else { Ok(None) };
        };
        let document = self.0.split_to(at);
        let body = self.0.split_off(END.len()).freeze();
        Ok(Some((answer::head(&document)?, body)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DOCUMENT: &[u8] = br#"{"statusCode":418,"headers":{"x-a":"b"},"cookies":["c=d"]}"#;

    /// Status, headers in number, and what follows the prelude, of a response in these pieces.
    fn check<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Option<(u16, usize, Vec<u8>)>, Malformed> {
        let mut prelude = Prelude::default();
        let mut pieces = pieces.into_iter();
        while let Some(piece) = pieces.next() {
            if let Some((head, body)) = prelude.take(piece)? {
                let rest = pieces.flat_map(|piece| piece.iter().copied());
                let body = body.iter().copied().chain(rest).collect();
                return Ok(Some((head.status().as_u16(), head.headers().len(), body)));
            }
        }
        Ok(None)
    }

    #[test]
    fn what_is_no_prelude_is_refused() {
        check([&b"{}\0\0\0\0\0\0\0\0"[..]]).unwrap();
        check([&b"no\0\0\0\0\0\0\0\0"[..]]).unwrap_err();
        check([&br#"{"statusCode":1}"#[..], &END]).unwrap_err();
        check([&br#"{"headers":{"a":"b\r\nc"}}"#[..], &END]).unwrap_err();
        assert_eq!(check([&[b' '; MAX_LEN][..]]), Ok(None));
        check([&[b' '; MAX_LEN][..], &[b' '; 16]]).unwrap_err();
    }

    proptest! {
        #[test]
        fn a_prelude_is_found_wherever_it_is_cut(
            body in prop::collection::vec(any::<u8>(), 0..40), len in 1..20usize,
        ) {
            let whole = [DOCUMENT, &END, &body].concat();
            // A content type, since there is none among its headers, and the three that are.
            prop_assert_eq!(check(whole.chunks(len)), Ok(Some((418, 3, body))));
        }
    }
}
