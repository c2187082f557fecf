//! KVM's structures as values of a saved state: their bytes, and never one byte more or less.
//!
//! `kvm-bindings` can serialise them itself, but silently pads a short state with zeros and
//! truncates a long one.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::error::StateError;

/// The most bytes that one saved state may have.
const STATE_MAX: usize = 1 << 20;

/// A plain structure of the kernel, saved as its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Exact<T>(pub(super) T);

impl<T: IntoBytes + Immutable> Serialize for Exact<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0.as_bytes())
    }
}

impl<'de, T: FromBytes> Deserialize<'de> for Exact<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(ExactVisitor(PhantomData))
    }
}

struct ExactVisitor<T>(PhantomData<T>);

impl<T: FromBytes> Visitor<'_> for ExactVisitor<T> {
    type Value = Exact<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} bytes of {}", size_of::<T>(), std::any::type_name::<T>())
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        T::read_from_bytes(bytes).map(Exact).map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}

/// Encodes a state.
pub(super) fn encode<T: Serialize>(state: &T) -> Result<Vec<u8>, StateError> {
    postcard::to_stdvec(state).map_err(|error| StateError::Malformed(error.to_string()))
}

/// Decodes a state of `version`, which must be `supported`; bytes left over are refused.
pub(super) fn decode<'a, T: Deserialize<'a>>(version: u32, supported: u32, payload: &'a [u8]) -> Result<T, StateError> {
    if version != supported {
        return Err(StateError::Version { found: version, supported });
    }
    if payload.len() > STATE_MAX {
        return Err(StateError::Malformed(format!("{} bytes are more than the {STATE_MAX} allowed", payload.len())));
    }
    let (state, rest) = postcard::take_from_bytes(payload).map_err(|error| StateError::Malformed(error.to_string()))?;
    match rest.len() {
        0 => Ok(state),
        left => Err(StateError::Malformed(format!("{left} bytes follow the end of the state"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::kvm_regs;

    #[test]
    fn lengths_are_exact() {
        let regs = kvm_regs { rip: 7, ..Default::default() };
        let bytes = encode(&Exact(regs)).unwrap();
        assert_eq!(decode::<Exact<kvm_regs>>(1, 1, &bytes).unwrap().0, regs);
        let short = encode(&serde_bytes_of(size_of::<kvm_regs>() - 1)).unwrap();
        assert!(matches!(decode::<Exact<kvm_regs>>(1, 1, &short), Err(StateError::Malformed(_))));
        let long = encode(&serde_bytes_of(size_of::<kvm_regs>() + 1)).unwrap();
        assert!(matches!(decode::<Exact<kvm_regs>>(1, 1, &long), Err(StateError::Malformed(_))));
        let followed = [&bytes[..], &[0]].concat();
        assert!(matches!(decode::<Exact<kvm_regs>>(1, 1, &followed), Err(StateError::Malformed(_))));
        assert!(matches!(decode::<Exact<kvm_regs>>(2, 1, &bytes), Err(StateError::Version { found: 2, supported: 1 })));
    }

    fn serde_bytes_of(len: usize) -> Vec<u8> {
        vec![0; len]
    }
}
