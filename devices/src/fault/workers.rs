//! The threads of a migration that a rule can keep from starting (`at=host:thread,of=NAME/0`).

/// Their names, as the runtime starts them.
pub const WORKERS: [&str; 18] = [
    "ferry-source",
    "ferry-src-connect",
    "ferry-src-guest",
    "ferry-src-link",
    "ferry-src-pages",
    "ferry-src-proof",
    "ferry-src-record",
    "ferry-src-recv",
    "ferry-src-urgent",
    "ferry-dest",
    "ferry-dst-accept",
    "ferry-dst-disk",
    "ferry-dst-faults",
    "ferry-dst-load",
    "ferry-dst-memory",
    "ferry-dst-pages",
    "ferry-dst-record",
    "ferry-dst-recv",
];
