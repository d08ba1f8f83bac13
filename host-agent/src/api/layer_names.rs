//! The ways in which a request names a layer or a version of one: name or ARN in the path with a number beside it, or the ARN of a
//! version.
//!
//! Pure. What comes out is a layer of this account and region, or AWS's refusal.

use super::{
    constraints::{Constraints, LAYER, LAYER_NAME, violation},
    error::ApiError,
    names::Caller,
};
use crate::functions::layers::LayerId;

/// ARN of a layer.
pub(crate) fn arn(id: &LayerId, account_id: &str) -> String {
    format!("arn:aws:lambda:{}:{account_id}:layer:{}", id.region, id.name)
}

/// ARN of a version of a layer.
pub(crate) fn version_arn(id: &LayerId, account_id: &str, number: u64) -> String {
    format!("{}:{number}", arn(id, account_id))
}

/// An ARN taken apart; of a name, what it leaves out is missing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Named<'a> {
    /// The region.
    pub(crate) region: Option<&'a str>,
    /// The account.
    pub(crate) account_id: Option<&'a str>,
    /// The layer's name.
    pub(crate) name: &'a str,
    /// The version, unless it is higher than any can be.
    pub(crate) number: Option<u64>,
}

impl<'a> Named<'a> {
    /// What a name or an ARN that keeps the model's pattern says. `None` for one of AWS's own layers, which no node has.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<_> = text.split(':').collect();
        match parts[..] {
            ["arn", _, "lambda", region, account_id, "layer", name, ref version @ ..] => {
                let number = version.first().and_then(|number| number.parse().ok());
                Some(Self { region: Some(region), account_id: Some(account_id), name, number })
            }
            [name] => Some(Self { name, ..Self::default() }),
            _ => None,
        }
    }
}

/// Adds what the name of a layer violates.
pub(crate) fn constrain(constraints: &mut Constraints, name: &str) {
    constraints.length("layerName", Some(name), 1..=140);
    constraints.pattern("layerName", Some(name), &LAYER_NAME);
}

/// The layer that a request for `action` names in its path, which keeps the constraints.
///
/// # Errors
/// AWS's for other accounts and regions.
pub(crate) fn resolve(caller: &Caller, action: &str, name: &str) -> Result<LayerId, ApiError> {
    let named = Named::parse(name).unwrap_or_default();
    own(caller, action, name, &named)
}

/// The version that GetLayerVersionByArn names.
///
/// # Errors
/// ValidationException for what no ARN can be, and as [`resolve`].
pub(crate) fn resolve_arn(caller: &Caller, arn: Option<&str>) -> Result<(LayerId, u64), ApiError> {
    let mut constraints = Constraints::default();
    constraints.required("arn", arn.as_ref());
    constraints.length("arn", arn, 1..=2048);
    constraints.pattern("arn", arn, &LAYER);
    constraints.finish()?;
    let arn = arn.unwrap_or_default();
    let named = Named::parse(arn).ok_or_else(missing)?;
    let id = own(caller, "GetLayerVersion", arn, &named)?;
    Ok((id, named.number.ok_or_else(missing)?))
}

/// The number of a version, from a path.
///
/// # Errors
/// What no number of a version can be.
pub(crate) fn number(text: &str) -> Result<u64, ApiError> {
    match text.parse::<i64>() {
        Ok(number) if number < 1 => Err(ApiError::invalid_parameter("Layer Version Cannot be less than 1")),
        Ok(number) => Ok(number.unsigned_abs()),
        Err(_) => Err(ApiError::validation(&[violation("versionNumber", text, "Member must be an integer")])),
    }
}

/// There is no such version.
pub(crate) fn missing() -> ApiError {
    ApiError::not_found("The resource you requested does not exist.")
}

fn own(caller: &Caller, action: &str, arn: &str, named: &Named<'_>) -> Result<LayerId, ApiError> {
    if named.account_id.is_some_and(|account_id| account_id != caller.account_id) {
        return Err(ApiError::other_account(&caller.account_id, action, arn));
    }
    if named.region.is_some_and(|region| region != caller.region) {
        return Err(missing());
    }
    Ok(LayerId { region: caller.region.clone(), name: named.name.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:layer:l";

    fn caller() -> Caller {
        Caller { account_id: "000000000000".into(), region: "us-east-1".into() }
    }

    #[test]
    fn every_form_names_the_layer() {
        let id = LayerId { region: "us-east-1".into(), name: "l".into() };
        for name in ["l", ARN] {
            assert_eq!(resolve(&caller(), "GetLayerVersion", name), Ok(id.clone()), "{name}");
        }
        assert_eq!(resolve_arn(&caller(), Some(&format!("{ARN}:7"))), Ok((id.clone(), 7)));
        assert_eq!(version_arn(&id, "000000000000", 7), format!("{ARN}:7"));
    }

    #[test]
    fn strangers_are_refused() {
        for (arn, error) in [
            ("arn:aws:lambda:eu-west-1:000000000000:layer:l:1", "ResourceNotFoundException"),
            ("arn:aws:lambda:us-east-1:111111111111:layer:l:1", "AccessDeniedException"),
            (
                "arn:aws:lambda:us-east-1:000000000000:layer:l:99999999999999999999",
                "ResourceNotFoundException",
            ),
            ("arn:aws:lambda:::awslayer:l", "ResourceNotFoundException"),
            (ARN, "ValidationException"),
            ("l", "ValidationException"),
        ] {
            assert_eq!(resolve_arn(&caller(), Some(arn)).unwrap_err().name(), error, "{arn}");
        }
        assert_eq!(resolve_arn(&caller(), None).unwrap_err().name(), "ValidationException");
    }

    #[test]
    fn a_version_is_a_number_from_one_on() {
        assert_eq!(number("1"), Ok(1));
        for wrong in ["0", "-1"] {
            assert_eq!(number(wrong).unwrap_err().message(), "Layer Version Cannot be less than 1");
        }
        for wrong in ["", "x", "1.0", "99999999999999999999"] {
            assert_eq!(number(wrong).unwrap_err().name(), "ValidationException", "{wrong}");
        }
    }
}
