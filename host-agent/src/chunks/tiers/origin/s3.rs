//! An origin in a bucket of an S3-compatible service. Our attempts and times are the only ones: the client's own are off.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::{Certificate, ClientOptions, RetryConfig, aws::AmazonS3Builder, path::Path};

use super::{Origin, PUT_TIMEOUT};
use crate::chunks::tiers::pem;
use crate::config::Bucket;

/// Longest time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no origin in a bucket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum S3Error {
    /// The certificates that its service may have been signed with are not there.
    #[error("cannot read the certificates in {}", path.display())]
    Certificates {
        /// Where they should be.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// There are none in the file.
    #[error("there are no certificates in {}", .0.display())]
    NoCertificates(PathBuf),
    /// The client does not take the settings.
    #[error("cannot make a client of bucket {bucket}")]
    Client {
        /// Which.
        bucket: String,
        /// Why not.
        source: object_store::Error,
    },
}

impl Origin {
    /// In a bucket. Nothing is sent yet.
    ///
    /// # Errors
    /// The certificates are not there, or the settings contradict themselves.
    pub(crate) fn bucket(settings: &Bucket) -> Result<Self, S3Error> {
        let client = |source| S3Error::Client { bucket: settings.bucket.clone(), source };
        let prefix = Path::parse(&settings.prefix).map_err(|error| client(error.into()))?;
        let mut options = ClientOptions::new()
            .with_allow_http(settings.allow_http)
            .with_no_system_certificates(true)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout(PUT_TIMEOUT);
        for certificate in certificates(settings)? {
            options = options.with_root_certificate(certificate);
        }
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            .with_access_key_id(&settings.access_key_id)
            .with_secret_access_key(&settings.secret_access_key)
            // Not every service knows it, and one root goes at a time.
            .with_disable_bulk_delete(true)
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_client_options(options);
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        Ok(Self::of(Arc::new(builder.build().map_err(client)?), prefix))
    }
}

/// Who may have signed the service's certificate; nobody where none is asked for.
fn certificates(settings: &Bucket) -> Result<Vec<Certificate>, S3Error> {
    if settings.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")) {
        return Ok(Vec::new());
    }
    let path = &settings.ca;
    let bundle = pem::read(path).map_err(|source| S3Error::Certificates { path: path.clone(), source })?;
    match Certificate::from_pem_bundle(&bundle) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(S3Error::NoCertificates(path.clone())),
    }
}
