//! Sixteen bytes for a world, so that millions that were seen can be remembered.
//!
//! Texts are for people: neither state machine looks into one, so two worlds that differ only in a
//! text go on alike and count as one. (Rust's `Hash` hands a text to the hasher as a slice of
//! bytes and everything else as a number.)

use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A world's fingerprint.
pub fn of(value: &impl Hash) -> u128 {
    let mut hasher = Wide::default();
    value.hash(&mut hasher);
    (u128::from(finish(hasher.high)) << 64) | u128::from(finish(hasher.low))
}

/// Two lanes of 64 bits with different multipliers.
struct Wide {
    low: u64,
    high: u64,
}

impl Default for Wide {
    fn default() -> Self {
        Wide { low: 0x243f_6a88_85a3_08d3, high: 0x1319_8a2e_0370_7344 }
    }
}

impl Wide {
    fn take(&mut self, number: u64) {
        self.low = (self.low.rotate_left(25) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.high = (self.high.rotate_left(29) ^ number).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    }
}

impl Hasher for Wide {
    fn write(&mut self, _text: &[u8]) {}

    fn write_u8(&mut self, number: u8) {
        self.take(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.take(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.take(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.take(number);
    }

    fn write_u128(&mut self, number: u128) {
        self.take(number as u64);
        self.take((number >> 64) as u64);
    }

    fn write_usize(&mut self, number: usize) {
        self.take(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.take(number as u64);
    }

    fn finish(&self) -> u64 {
        finish(self.low)
    }
}

fn finish(lane: u64) -> u64 {
    let mixed = (lane ^ (lane >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

/// A map's hasher for keys that are fingerprints already.
#[derive(Default)]
pub struct Passing(u64);

impl Hasher for Passing {
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are fingerprints");
    }

    fn write_u128(&mut self, fingerprint: u128) {
        self.0 = fingerprint as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// For `HashMap<u128, _, _>`.
pub type ByFingerprint = BuildHasherDefault<Passing>;

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_migration::destination::Outcome;

    #[test]
    fn texts_do_not_count_and_everything_else_does() {
        let failed = |reason: &str| of(&Outcome::Failed(reason.to_owned()));
        assert_eq!(failed("a"), failed("another reason"));
        assert_ne!(failed("a"), of(&Outcome::Completed));
        assert_ne!(of(&(1u8, 2u8)), of(&(2u8, 1u8)));
        assert_ne!(of(&Some(0u32)), of(&None::<u32>));
    }

    #[test]
    fn small_numbers_do_not_collide() {
        let seen: std::collections::HashSet<u128> =
            (0u16..2000).flat_map(|a| (0u8..50).map(move |b| of(&(a, b)))).collect();
        assert_eq!(seen.len(), 100_000);
    }
}
