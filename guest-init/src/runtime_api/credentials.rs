//! `GET /2021-04-23/credentials`: how a function that is snapshotted gets credentials. In its environment every clone would
//! have those of the original, so SDKs are pointed here instead (`AWS_CONTAINER_CREDENTIALS_FULL_URI`), and what is
//! answered is replaced after every resume.

use std::cell::RefCell;
use std::rc::Rc;

use guest_protocol::Credentials;

/// Its path.
pub const PATH: &str = "/2021-04-23/credentials";

/// Random bytes of a token.
pub const TOKEN_LEN: usize = 32;

/// What the endpoint answers, and to whom. Clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct CredentialStore(Rc<RefCell<Option<Held>>>);

#[derive(Debug)]
struct Held {
    credentials: Credentials,
    token: String,
}

impl CredentialStore {
    /// Opens the endpoint: from now on it answers who shows the token that is returned.
    #[must_use]
    pub fn open(&self, credentials: Credentials, random: [u8; TOKEN_LEN]) -> String {
        let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        *self.0.borrow_mut() = Some(Held { credentials, token: token.clone() });
        token
    }

    /// Replaces the credentials; the token, which is in the function's environment, stays. Nothing happens to an endpoint
    /// that was never opened.
    pub fn replace(&self, credentials: Credentials) {
        if let Some(held) = self.0.borrow_mut().as_mut() {
            held.credentials = credentials;
        }
    }

    /// The document for who shows this token, as SDKs expect it of a container's endpoint.
    pub(super) fn document(&self, token: Option<&str>) -> Option<String> {
        let held = self.0.borrow();
        let held = held.as_ref().filter(|held| token == Some(held.token.as_str()))?;
        let Credentials { access_key_id, secret_access_key, session_token, expiration } = &held.credentials;
        let document = serde_json::json!({
            "AccessKeyId": access_key_id,
            "SecretAccessKey": secret_access_key,
            "Token": session_token,
            "Expiration": expiration,
        });
        Some(document.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(id: &str) -> Credentials {
        Credentials {
            access_key_id: id.into(),
            secret_access_key: "secret".into(),
            session_token: "session".into(),
            expiration: "2037-12-31T23:59:59Z".into(),
        }
    }

    #[test]
    fn only_the_token_opens_it_and_a_resume_replaces_what_it_answers() {
        let store = CredentialStore::default();
        store.replace(credentials("never opened"));
        assert_eq!(store.document(None), None);
        let token = store.open(credentials("first"), [7; TOKEN_LEN]);
        assert_eq!(store.document(Some("other")), None);
        assert!(store.document(Some(&token)).unwrap().contains("\"AccessKeyId\":\"first\""));
        store.clone().replace(credentials("second"));
        assert!(store.document(Some(&token)).unwrap().contains("\"AccessKeyId\":\"second\""));
    }
}
