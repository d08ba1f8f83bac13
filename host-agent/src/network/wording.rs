//! How an [`Egress`] is written, in configurations, requests and the store: `"none"`, `"internet"`, or a list of networks.

use gateway_api::{Egress, EgressError, PrefixError};
use serde::{Deserialize, Serialize};

const NOWHERE: &str = "none";
const INTERNET: &str = "internet";

/// As it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Wording {
    /// A word.
    Word(String),
    /// Networks, such as `10.1.0.0/16`, or addresses.
    Networks(Vec<String>),
}

/// What says nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WordingError {
    /// Another word.
    #[error("`{0}` is neither `none` nor `internet` nor a list of networks")]
    Word(String),
    /// One of the networks.
    #[error(transparent)]
    Network(#[from] PrefixError),
    /// All of them.
    #[error(transparent)]
    List(#[from] EgressError),
}

impl TryFrom<Wording> for Egress {
    type Error = WordingError;

    fn try_from(wording: Wording) -> Result<Self, WordingError> {
        match wording {
            Wording::Word(word) if word == NOWHERE => Ok(Self::Nowhere),
            Wording::Word(word) if word == INTERNET => Ok(Self::Internet),
            Wording::Word(word) => Err(WordingError::Word(word)),
            Wording::Networks(networks) => {
                let networks = networks.iter().map(|network| network.parse());
                Ok(Self::only(networks.collect::<Result<_, _>>()?)?)
            }
        }
    }
}

impl From<&Egress> for Wording {
    fn from(egress: &Egress) -> Self {
        match egress {
            Egress::Nowhere => Self::Word(NOWHERE.into()),
            Egress::Internet => Self::Word(INTERNET.into()),
            Egress::Only(networks) => {
                Self::Networks(networks.iter().map(|network| network.to_string()).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Egress, String> {
        let wording: Wording = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Egress::try_from(wording).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_reads_as_it_was_meant() {
        for text in [r#""none""#, r#""internet""#, r#"["10.0.0.0/8","192.0.2.7/32"]"#] {
            let egress = read(text).unwrap();
            assert_eq!(serde_json::to_string(&Wording::from(&egress)).unwrap(), text);
        }
        for wrong in [r#""all""#, "[]", r#"["10"]"#, "7", "null"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
