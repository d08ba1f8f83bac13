//! A certificate that is renewed: the files that hold it are looked at now and then, and connections that begin afterwards get what
//! they hold. What cannot be used is said once, and the one before stays.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use tokio::time::sleep;

use super::{CertificateError, pair};
use crate::{
    code::{blocking, hex},
    log::NOTICE,
    pem::{self, PemError},
    sandbox::describe,
};

/// How often files are looked at. Who renews a certificate does so days ahead.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The certificate that connections are given now.
#[derive(Clone, Debug)]
pub(crate) struct InUse(Arc<RwLock<Arc<CertifiedKey>>>);

impl InUse {
    pub(super) fn new(pair: CertifiedKey) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(pair))))
    }

    /// The SHA-256 of it, in hexadecimal.
    pub(crate) fn fingerprint(&self) -> String {
        self.current().cert.first().map(|first| hex(&Sha256::digest(first))).unwrap_or_default()
    }

    fn current(&self) -> Arc<CertifiedKey> {
        // One or the other: there is nothing between.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, pair: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
    }
}

impl ResolvesServerCert for InUse {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl Serialize for InUse {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.fingerprint())
    }
}

/// Files with a certificate and its key.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// Follows what files hold.
#[derive(Debug)]
pub(crate) struct Renewal {
    pub(super) files: Files,
    pub(super) in_use: InUse,
    /// What they held at the last look, by its hash, or why there was nothing to be read.
    pub(super) seen: Option<String>,
}

impl Renewal {
    /// For as long as the agent lives.
    pub(crate) async fn follow(mut self) {
        loop {
            sleep(LOOK_EVERY).await;
            self = blocking(move || {
                if let Err(error) = self.look() {
                    tracing::error!(
                        "the certificate's files cannot be used, the one before stays: {}",
                        describe(&error)
                    );
                }
                self
            })
            .await;
        }
    }

    /// Takes what the files hold if they hold something else than at the last look.
    pub(super) fn look(&mut self) -> Result<(), CertificateError> {
        let found = self.files.hash().unwrap_or_else(|error| describe(&error));
        if self.seen.as_ref() == Some(&found) {
            return Ok(());
        }
        self.seen = Some(found);
        let before = self.in_use.fingerprint();
        self.in_use.replace(pair(&self.files)?);
        let now = self.in_use.fingerprint();
        if now != before {
            tracing::info!(target: NOTICE, "tinderbox: another certificate, SHA-256 {now}");
        }
        Ok(())
    }
}

impl Files {
    fn hash(&self) -> Result<String, PemError> {
        let certificate = Sha256::digest(pem::read(&self.certificate)?);
        let key = Sha256::digest(pem::read(&self.key)?);
        Ok(hex(&[certificate, key].concat()))
    }
}
