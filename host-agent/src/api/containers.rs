//! Functions that are container images: which image a request means, and what it may say of one. In AWS's words.

use super::{
    ApiError, App,
    requests::{Code, Settings},
};
use crate::functions::{
    images::{HeldImage, ImageUri},
    model::{CodeRef, ContainerImage, FunctionConfig, Instead},
};

/// What a function's code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PackageType {
    Zip,
    Image,
}

impl PackageType {
    /// Of what there is already.
    pub(super) fn of(config: &FunctionConfig) -> Self {
        if config.image.is_some() { Self::Image } else { Self::Zip }
    }
}

/// What is done to a function that an image is for, as messages have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Creating,
    Updating,
}

/// An image that was named and is here; it stays while this lives.
pub(super) struct Source {
    given: String,
    uri: ImageUri,
    held: HeldImage,
}

/// Finds the image of a request.
///
/// # Errors
/// InvalidParameterValueException when none is named, or none that this node has.
pub(super) async fn source(app: &App, code: Code, doing: Doing) -> Result<Source, ApiError> {
    let others = [code.zip_file, code.s3_bucket, code.s3_key, code.s3_object_version];
    let Some(given) = code.image_uri.filter(|uri| !uri.is_empty()) else {
        let doing = match doing {
            Doing::Creating => "creating",
            Doing::Updating => "updating",
        };
        let message = format!("Please provide ImageUri when {doing} a function with packageType Image.");
        return Err(ApiError::invalid_parameter(message));
    };
    if others.iter().any(Option::is_some) {
        let message = "Please do not provide other FunctionCode parameters when providing an ImageUri.";
        return Err(ApiError::invalid_parameter(message));
    }
    let wrong = |is: &str| {
        let given: String = given.chars().take(1000).collect();
        ApiError::invalid_parameter(format!("Source image {given} {is}. Provide a valid source image."))
    };
    let uri: ImageUri = given.parse().map_err(|_| wrong("is not valid"))?;
    let held = app.functions.find_image(&uri).await.ok_or_else(|| wrong("does not exist"))?;
    Ok(Source { given, uri, held })
}

impl Source {
    /// Has a function be this image, run as it was said before.
    pub(super) fn give(&self, config: &mut FunctionConfig) {
        let tagged = &self.held.tagged;
        config.code = CodeRef { sha256: tagged.digest.clone(), size: tagged.size };
        let instead = config.image.take().map(|image| image.instead).unwrap_or_default();
        config.image = Some(ContainerImage {
            uri: self.given.clone(),
            name: self.uri.name.clone(),
            own: tagged.run.clone(),
            instead,
        });
    }
}

/// Refuses what is not for a function of that type.
pub(super) fn check(settings: &Settings, package_type: PackageType) -> Result<(), ApiError> {
    let message = match package_type {
        PackageType::Image => {
            let layers = settings.layers.as_ref().is_some_and(|layers| !layers.is_empty());
            let given = settings.runtime.is_some() || settings.handler.is_some() || layers;
            given.then_some(
                "Please don't provide Handler or Runtime or Layer when the intended function PackageType is Image.",
            )
        }
        PackageType::Zip => settings
            .image_config
            .is_some()
            .then_some("Please don't provide ImageConfig when the intended function PackageType is Zip."),
    };
    message.map_or(Ok(()), |message| Err(ApiError::invalid_parameter(message)))
}

/// Applies what is said of how an image is run: all of it, as what was said before is over.
pub(super) fn apply(settings: &Settings, config: &mut FunctionConfig) {
    if let (Some(image), Some(said)) = (&mut config.image, &settings.image_config) {
        image.instead = Instead {
            entry_point: said.entry_point.clone().unwrap_or_default(),
            command: said.command.clone().unwrap_or_default(),
            working_directory: said.working_directory.clone().unwrap_or_default(),
        };
    }
}
