//! Names for the values of an enum, and the table of all of them, from one list.
//!
//! Messages and outputs use it: logs, traces and fault points use these names, and the fault matrix
//! makes its cells from the tables. A value without a name does not compile, so a new message or
//! step is in the matrix at once.

/// `named!(Type, "what the names are": Pattern => "Name", …)` gives `Type` a `name` and the table
/// `NAMES`.
macro_rules! named {
    ($type:ty, $what:literal: $($pattern:pat => $name:literal),+ $(,)?) => {
        impl $type {
            #[doc = concat!("Every ", $what, ".")]
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            #[doc = concat!("The ", $what, ", for errors, logs, traces and fault points.")]
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self {
                    $($pattern => $name),+
                }
            }
        }
    };
}

pub(crate) use named;
