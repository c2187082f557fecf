//! The encoding that all saved states share: postcard of a plain struct, with nothing before it
//! and nothing after it.
//!
//! Devices call [`encode`] in `save` and [`decode`] in `load`; each device defines what its fields
//! mean and which values are legal.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::device::{LoadError, SaveError};

/// No device's state comes near this many bytes; a longer one is refused before it is decoded.
const MAX_STATE_BYTES: usize = 64 * 1024;

/// Encodes a state.
pub(crate) fn encode<T: Serialize>(state: &T) -> Result<Vec<u8>, SaveError> {
    postcard::to_stdvec(state).map_err(|error| SaveError::Failed(format!("cannot encode the state: {error}")))
}

/// Decodes a state of `version`, which must be `supported`, and refuses bytes left over.
pub(crate) fn decode<T: DeserializeOwned>(version: u32, supported: u32, payload: &[u8]) -> Result<T, LoadError> {
    if version != supported {
        return Err(LoadError::Version { found: version, supported });
    }
    if payload.len() > MAX_STATE_BYTES {
        return Err(LoadError::Malformed(format!("{} bytes, more than the {MAX_STATE_BYTES} allowed", payload.len())));
    }
    let (state, rest) = postcard::take_from_bytes(payload).map_err(|error| LoadError::Malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(LoadError::Malformed(format!("{} bytes follow the end of the state", rest.len())));
    }
    Ok(state)
}

/// Returns [`LoadError::OutOfBounds`] unless `legal`.
pub(crate) fn check(
    legal: bool,
    field: &'static str,
    value: impl std::fmt::Display,
    allowed: impl Into<String>,
) -> Result<(), LoadError> {
    if legal {
        Ok(())
    } else {
        Err(LoadError::OutOfBounds { field, value: value.to_string(), allowed: allowed.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_trailing_bytes_and_excess_are_refused() {
        let bytes = encode(&(1u32, 2u8)).unwrap();
        assert_eq!(decode::<(u32, u8)>(3, 3, &bytes).unwrap(), (1, 2));
        assert!(matches!(decode::<(u32, u8)>(4, 3, &bytes), Err(LoadError::Version { found: 4, supported: 3 })));
        let longer = [&bytes[..], &[0]].concat();
        assert!(matches!(decode::<(u32, u8)>(3, 3, &longer), Err(LoadError::Malformed(_))));
        assert!(matches!(decode::<(u32, u8)>(3, 3, &bytes[..1]), Err(LoadError::Malformed(_))));
        let huge = vec![0; MAX_STATE_BYTES + 1];
        assert!(matches!(decode::<(u32, u8)>(3, 3, &huge), Err(LoadError::Malformed(_))));
    }
}
