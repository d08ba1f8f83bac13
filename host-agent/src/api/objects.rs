//! Code in a bucket: fetched into memory that it has of the budget for bodies, as the same zip in a request would have.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::{sync::Semaphore, time::timeout};

use super::{ApiError, App, gate::Memory};
use crate::{
    code::{
        MAX_ZIP_LEN,
        buckets::{FETCH_TIMEOUT, FetchError, Object, ObjectName},
    },
    sandbox::describe,
};

/// The object of that name, at most [`MAX_ZIP_LEN`] of it, whatever it says of itself.
///
/// # Errors
/// InvalidParameterValueException when it is not there or too long, AccessDeniedException when its service refuses it to the node,
/// ServiceUnavailableException when it does not come.
pub(super) async fn fetch(app: &App, name: &ObjectName) -> Result<Bytes, ApiError> {
    let fetched = timeout(FETCH_TIMEOUT, async {
        let object = app.code_buckets.object(name).await.map_err(|error| refusal(&error, name))?;
        read(&app.body_budget, object, name).await
    });
    fetched.await.unwrap_or_else(|_| {
        tracing::warn!(bucket = name.bucket, "code did not come within {} s", FETCH_TIMEOUT.as_secs());
        Err(ApiError::bucket_unavailable())
    })
}

async fn read(budget: &Arc<Semaphore>, mut object: Object, name: &ObjectName) -> Result<Bytes, ApiError> {
    if object.len > MAX_ZIP_LEN {
        return Err(ApiError::object_too_large(MAX_ZIP_LEN));
    }
    let mut memory = Memory::reserve(budget, MAX_ZIP_LEN as usize).await?;
    let mut zip = BytesMut::new();
    while let Some(piece) = object.next().await.map_err(|error| refusal(&error, name))? {
        if (zip.len() + piece.len()) as u64 > MAX_ZIP_LEN {
            return Err(ApiError::object_too_large(MAX_ZIP_LEN));
        }
        memory.extend(&mut zip, &piece).await?;
    }
    Ok(memory.keep(zip.freeze()))
}

/// What the client is told; what is the operator's is in the log.
fn refusal(error: &FetchError, name: &ObjectName) -> ApiError {
    match error {
        FetchError::NoBucket => ApiError::no_bucket(),
        FetchError::NoKey => ApiError::no_object(),
        FetchError::NoVersion => ApiError::no_object_version(),
        FetchError::Denied => {
            tracing::warn!(bucket = name.bucket, "this node may not read code from it");
            ApiError::object_denied(&name.bucket, &name.key)
        }
        FetchError::Service(_) | FetchError::Directory(_) => {
            tracing::warn!(bucket = name.bucket, "code was not fetched: {}", describe(error));
            ApiError::bucket_unavailable()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::gate::BODY_BUDGET_KIB,
        code::buckets::CodeBuckets,
        config::{BucketPlace, NamedBucket},
    };

    #[tokio::test]
    async fn an_object_that_grows_is_cut_off_where_a_zip_ends() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("k")).unwrap();
        let place = BucketPlace::Directory(dir.path().to_owned());
        let buckets = CodeBuckets::open(&[NamedBucket { name: "near".into(), place }]).unwrap();
        let name = ObjectName { bucket: "near".into(), key: "k".into(), version: None };
        let budget = Arc::new(Semaphore::new(BODY_BUDGET_KIB));
        let object = buckets.object(&name).await.unwrap();
        assert_eq!(object.len, 0);
        file.set_len(1 << 40).unwrap();
        let refused = read(&budget, object, &name).await.unwrap_err();
        assert_eq!(refused, ApiError::object_too_large(MAX_ZIP_LEN));
        file.set_len(300_000).unwrap();
        let zip = read(&budget, buckets.object(&name).await.unwrap(), &name).await.unwrap();
        assert_eq!(zip.len(), 300_000);
        assert!(budget.available_permits() < BODY_BUDGET_KIB - 292);
        drop(zip);
        assert_eq!(budget.available_permits(), BODY_BUDGET_KIB);
    }
}
