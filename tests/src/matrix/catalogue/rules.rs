//! What fails inside a process by itself: devices, calls to the kernel, the record's file, the
//! disk image, the host's limits, its clock.

use ferry_machine::StateCall;

use super::super::cell::{Mode, Outcome, Place, Rule, Side, What, When};
use super::Moment;

/// Devices of the stage's machine.
const DEVICES: [&str; 3] = ["serial/0", "virtio-blk/0", "fault/0"];

pub(super) fn moments() -> Vec<Moment> {
    let mut out = Vec::new();
    for mode in [Mode::Precopy, Mode::Postcopy] {
        let mut whats = devices();
        whats.extend(calls());
        whats.extend(RECORD);
        whats.extend(HOST);
        whats.extend([What::DiskLocked, What::RecordLocked, What::RecordTorn]);
        out.push(Moment { mode, when: When::Throughout, whats });
    }
    out
}

const fn rule(side: Side, at: &'static str, action: &'static str, place: Place, outcome: Outcome) -> What {
    What::Rule(side, Rule { at, action, of: None, place, outcome })
}

fn devices() -> Vec<What> {
    let mut out = Vec::new();
    for of in DEVICES {
        for (side, at) in [(Side::Source, "save"), (Side::Destination, "load"), (Side::Destination, "post_load")] {
            for (action, outcome) in
                [("fail", Outcome::Fails), ("hang", Outcome::Fails), ("delay:300", Outcome::Completes)]
            {
                // The fault device's own rules name no part.
                let of = (of != "fault/0").then_some(of);
                out.push(What::Rule(side, Rule { at, action, of, place: side.into(), outcome }));
            }
        }
    }
    out
}

/// Every ioctl that saves or loads state fails.
fn calls() -> impl Iterator<Item = What> {
    StateCall::ALL.iter().map(|call| {
        let side = if call.loads() { Side::Destination } else { Side::Source };
        let outcome = if is_always_made(*call) { Outcome::Fails } else { Outcome::Either };
        rule(side, call.name(), "fail", side.into(), outcome)
    })
}

/// Some calls are made where the host or the difference between two hosts asks for them.
fn is_always_made(call: StateCall) -> bool {
    use StateCall::{GetXsave, GetXsave2, SetCpuid2, SetTscKhz};
    ![GetXsave, GetXsave2, SetCpuid2, SetTscKhz].contains(&call)
}

const RECORD: [What; 12] = [
    rule(Side::Source, "record:read", "errno:EIO", Place::Record, Outcome::Either),
    rule(Side::Source, "record:write", "errno:ENOSPC", Place::Record, Outcome::Either),
    rule(Side::Source, "record:sync", "errno:EIO", Place::Record, Outcome::Either),
    rule(Side::Source, "record:sync", "delay:700", Place::Record, Outcome::Either),
    rule(Side::Source, "record:lock", "errno:EACCES", Place::Record, Outcome::Either),
    rule(Side::Source, "record:sync", "hang", Place::Record, Outcome::Either),
    rule(Side::Destination, "record:read", "errno:EIO", Place::Record, Outcome::Either),
    rule(Side::Destination, "record:write", "errno:ENOSPC", Place::Record, Outcome::Either),
    rule(Side::Destination, "record:sync", "errno:EIO", Place::Record, Outcome::Either),
    rule(Side::Destination, "record:sync", "delay:700", Place::Record, Outcome::Either),
    rule(Side::Destination, "record:lock", "errno:EACCES", Place::Record, Outcome::Either),
    rule(Side::Destination, "record:sync", "hang", Place::Record, Outcome::Either),
];

const HOST: [What; 15] = [
    rule(Side::Source, "disk:flush", "errno:EIO", Place::Disk, Outcome::Fails),
    rule(Side::Source, "disk:flush", "errno:ENOSPC", Place::Disk, Outcome::Fails),
    rule(Side::Source, "disk:flush", "delay:500", Place::Disk, Outcome::Completes),
    rule(Side::Destination, "disk:lock", "errno:EIO", Place::Disk, Outcome::Either),
    rule(Side::Source, "host:connect", "errno:EMFILE", Place::Source, Outcome::Fails),
    rule(Side::Source, "host:thread", "errno:EAGAIN", Place::Source, Outcome::Fails),
    rule(Side::Destination, "host:accept", "errno:EMFILE", Place::Destination, Outcome::Either),
    rule(Side::Destination, "host:thread", "errno:EAGAIN", Place::Destination, Outcome::Either),
    rule(Side::Destination, "host:memory", "errno:ENOMEM", Place::Destination, Outcome::Either),
    rule(Side::Destination, "host:userfaultfd", "errno:EMFILE", Place::Destination, Outcome::Either),
    rule(Side::Destination, "USERFAULTFD_READ", "fail", Place::Destination, Outcome::Either),
    rule(Side::Source, "clock:realtime", "skew:3600000", Place::Source, Outcome::Completes),
    rule(Side::Source, "clock:realtime", "skew:-3600000", Place::Source, Outcome::Completes),
    rule(Side::Destination, "clock:realtime", "skew:3600000", Place::Destination, Outcome::Completes),
    rule(Side::Destination, "clock:realtime", "skew:-3600000", Place::Destination, Outcome::Completes),
];
