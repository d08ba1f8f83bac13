//! Buckets of S3-compatible services: clients of them, which chunks and events' destinations work with. Attempts and times are
//! those of who calls; the client's own are off.

use std::{path::PathBuf, sync::Arc, time::Duration};

use object_store::{Certificate, ClientOptions, ObjectStore, RetryConfig, aws::AmazonS3Builder, path::Path};

use crate::{
    config::Bucket,
    pem::{self, PemError},
};

/// Longest time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no client of a bucket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum S3Error {
    /// The certificates that its service may have been signed with are not there.
    #[error("the authorities of the service are not there")]
    Authorities(#[from] PemError),
    /// One of them is none.
    #[error("an authority in {} cannot be used", path.display())]
    Authority {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: object_store::Error,
    },
    /// The client does not take the settings.
    #[error("cannot make a client of bucket {bucket}")]
    Client {
        /// Which.
        bucket: String,
        /// Why not.
        source: object_store::Error,
    },
}

/// A bucket, and what is before the names of objects in it.
pub(crate) type InBucket = (Arc<dyn ObjectStore>, Path);

/// A client of a bucket, whose requests take `timeout` at most. Nothing is sent yet.
///
/// # Errors
/// The certificates are not there, or the settings contradict themselves.
pub(crate) fn client(settings: &Bucket, timeout: Duration) -> Result<InBucket, S3Error> {
    let failed = |source| S3Error::Client { bucket: settings.bucket.clone(), source };
    let prefix = Path::parse(&settings.prefix).map_err(|error| failed(error.into()))?;
    let mut options = ClientOptions::new()
        .with_allow_http(settings.allow_http)
        .with_no_system_certificates(true)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout(timeout);
    for authority in authorities(settings)? {
        options = options.with_root_certificate(authority);
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
    Ok((Arc::new(builder.build().map_err(failed)?), prefix))
}

/// Who may have signed the service's certificate; nobody where none is asked for.
fn authorities(settings: &Bucket) -> Result<Vec<Certificate>, S3Error> {
    if settings.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")) {
        return Ok(Vec::new());
    }
    let failed = |source| S3Error::Authority { path: settings.ca.clone(), source };
    let found = pem::certificates(&settings.ca)?;
    found.iter().map(|one| Certificate::from_der(one).map_err(failed)).collect()
}
