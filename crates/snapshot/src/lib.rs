//! What saved state is: public plain data with a name and a version, written by `save` and read back as hostile
//! input by `restore`.
//!
//! It knows no device and no file format. `devices` implements [`Persist`]; `vmm` collects the states.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Plain data that a snapshot section holds. All fields are public and mean nothing until [`Persist::restore`] has
/// checked them.
pub trait SavedState: Serialize + DeserializeOwned {
    /// Section name, never reused for another shape.
    const NAME: &'static str;
    /// Raised with every change of shape or meaning.
    const VERSION: u32;
}

/// Something whose volatile state can be saved and built again from what was saved.
pub trait Persist: Sized {
    /// The saved form.
    type State: SavedState;
    /// What the state does not hold: files, descriptors, guest memory.
    type Resources<'a>;
    /// Why a state was refused.
    type Error: std::error::Error;

    /// Copies the volatile state out. The caller has stopped whatever changes it.
    fn save(&self) -> Self::State;

    /// Builds the object from a state that an attacker may have written.
    ///
    /// # Errors
    /// When a field holds a value that `save` cannot have produced, or one that does not fit the resources.
    fn restore(resources: Self::Resources<'_>, state: &Self::State) -> Result<Self, Self::Error>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    struct Dial(u8);

    #[derive(Serialize, Deserialize)]
    struct DialState {
        position: u8,
    }

    impl SavedState for DialState {
        const NAME: &'static str = "dial";
        const VERSION: u32 = 1;
    }

    impl Persist for Dial {
        type State = DialState;
        type Resources<'a> = u8;
        type Error = std::num::TryFromIntError;

        fn save(&self) -> DialState {
            DialState { position: self.0 }
        }

        fn restore(most: u8, state: &DialState) -> Result<Self, Self::Error> {
            u8::try_from(i16::from(most) - i16::from(state.position)).map(|_| Self(state.position))
        }
    }

    #[test]
    fn a_state_comes_back_and_a_hostile_one_is_refused() {
        let state = Dial(4).save();
        assert_eq!(Dial::restore(10, &state).map(|dial| dial.0), Ok(4));
        assert!(Dial::restore(10, &DialState { position: 11 }).is_err());
    }
}
