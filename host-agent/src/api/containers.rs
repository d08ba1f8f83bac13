//! Functions that are container images: which image a request means, and what it may say of one. In AWS's words.

use super::{
    ApiError, App,
    requests::{Code, Settings},
};
use crate::{
    code::image::RunSettings,
    functions::{
        images::{HeldImage, ImageUri},
        model::{CodeRef, ContainerImage, FunctionConfig, Instead, State},
    },
    registry::{Found, Refusal},
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

/// An image that was named.
pub(super) struct Source {
    given: String,
    uri: ImageUri,
    place: Place,
}

/// Where it is.
enum Place {
    /// On this node, where it stays while this lives.
    Here(HeldImage),
    /// In its registry, for the function to wait for.
    Registry(Found),
}

/// Finds the image of a request: what was pushed under that name, or else what its registry has.
///
/// # Errors
/// InvalidParameterValueException when none is named, or none that there is, or that may be had; ServiceUnavailableException when the registry does
/// not answer.
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
    if let Some(held) = app.functions.find_image(&uri).await {
        return Ok(Source { given, uri, place: Place::Here(held) });
    }
    if !app.functions.have_registry(&uri.name) {
        return Err(wrong(&match uri.name.split_once('/').filter(|(host, _)| is_host(host)) {
            Some((host, _)) => format!(
                "does not exist: nobody pushed it, and the node's configuration has no [[registries]] entry whose host is \
                 {host}"
            ),
            None => "does not exist".into(),
        }));
    }
    if app.functions.waits_for_too_many() {
        return Err(ApiError::pulls_full());
    }
    match app.functions.resolve_image(&uri).await {
        Ok(found) => Ok(Source { given, uri, place: Place::Registry(found) }),
        Err(refusal) => {
            tracing::warn!(image = uri.name, "it is not resolved: {refusal}");
            Err(match refusal {
                Refusal::Absent => wrong("does not exist"),
                Refusal::Denied(_) => ApiError::image_denied(),
                Refusal::Unsuitable(_) => ApiError::unsuitable_image(&uri.to_string()),
                Refusal::Unavailable(_) => ApiError::registry_unavailable(),
            })
        }
    }
}

/// Whether what stands before a name's first slash is a registry, not a part of the name.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

impl Source {
    /// Has a function be this image, run as it was said before.
    pub(super) fn give(&self, config: &mut FunctionConfig) {
        let (digest, size, unpacked, own) = match &self.place {
            Place::Here(held) => {
                let tagged = &held.tagged;
                (&tagged.digest, tagged.size, tagged.unpacked, tagged.run.clone())
            }
            Place::Registry(found) => {
                config.state = State::Pending;
                (&found.digest, found.size, 0, RunSettings::default())
            }
        };
        config.code = CodeRef { sha256: digest.clone(), size };
        let instead = config.image.take().map(|image| image.instead).unwrap_or_default();
        let (uri, name) = (self.given.clone(), self.uri.name.clone());
        config.image = Some(ContainerImage { uri, name, own, unpacked, instead });
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
