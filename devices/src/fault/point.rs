//! Where a fault can happen: the table of places, and how rules name them all.
//!
//! [`FaultSpec`](super::FaultSpec) parses a [`FaultPoint`] after `at=`; a thread that reaches one
//! calls [`FaultControl`](super::FaultControl). Calls, outputs and messages have tables of their
//! own elsewhere: here only their form is checked.

use std::fmt;

/// The longest name of a call, an output or a message.
pub(super) const MAX_NAME: usize = 40;
/// How the names of calls begin.
const CALLS: [&str; 2] = ["KVM_", USERFAULTFD];
pub(super) const USERFAULTFD: &str = "USERFAULTFD_";

/// A step of a device in which a fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultStep {
    /// [`Device::save`](crate::Device::save)
    Save,
    /// [`Device::load`](crate::Device::load)
    Load,
    /// [`Device::post_load`](crate::Device::post_load)
    PostLoad,
}

impl FaultStep {
    /// As specifications and errors write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            FaultStep::Save => "save",
            FaultStep::Load => "load",
            FaultStep::PostLoad => "post_load",
        }
    }
}

/// What a migration's driver does with a name from the protocol's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Moment {
    /// It is about to carry out this output of the state machine.
    Step,
    /// It is about to send this message.
    Send,
    /// It has handed this message to the socket.
    Sent,
    /// It is about to handle this message.
    Received,
}

impl Moment {
    /// Every one.
    pub const ALL: [Moment; 4] = [Moment::Step, Moment::Send, Moment::Sent, Moment::Received];

    /// As specifications write it, before the colon.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Moment::Step => "step",
            Moment::Send => "send",
            Moment::Sent => "sent",
            Moment::Received => "received",
        }
    }
}

macro_rules! places {
    ($($(#[$doc:meta])* $place:ident = $name:literal,)*) => {
        /// An operation on the host: on storage, network, threads, memory or the clock.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Place {
            $($(#[$doc])* $place,)*
        }

        impl Place {
            /// Every one.
            pub const ALL: &[Place] = &[$(Place::$place),*];

            /// As specifications write it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Place::$place => $name,)*
                }
            }
        }
    };
}

places! {
    /// The ownership record is about to be read.
    RecordRead = "record:read",
    /// A slot of the ownership record is about to be written.
    RecordWrite = "record:write",
    /// Writes to the ownership record are about to be made durable.
    RecordSync = "record:sync",
    /// The lock of the ownership record is about to be taken.
    RecordLock = "record:lock",
    /// The disk image is about to be opened, when the process starts.
    DiskOpen = "disk:open",
    /// The lock of the disk image is about to be taken.
    DiskLock = "disk:lock",
    /// The lock that proves the disk to a destination is about to be shown, or looked for.
    DiskProve = "disk:prove",
    /// Data is about to be read from the disk image.
    DiskRead = "disk:read",
    /// Data is about to be written to the disk image.
    DiskWrite = "disk:write",
    /// The disk image is about to be made durable because the guest has requested it.
    DiskSync = "disk:sync",
    /// The disk image is about to be made durable because the guest was stopped, as in a
    /// switchover.
    DiskFlush = "disk:flush",
    /// A link to the destination is about to be opened.
    HostConnect = "host:connect",
    /// A connection of a source is about to be accepted.
    HostAccept = "host:accept",
    /// A worker thread of a migration is about to be started.
    HostThread = "host:thread",
    /// A userfaultfd is about to be opened.
    HostUserfaultfd = "host:userfaultfd",
    /// Memory is about to be discarded before a guest arrives, or allocated to a page of postcopy.
    HostMemory = "host:memory",
    /// The wall clock is read, to carry the guest's clocks over.
    ClockRealtime = "clock:realtime",
}

/// Where a fault happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FaultPoint {
    /// In a step of a device.
    Step(FaultStep),
    /// In place of, or before, a call of this name to the kernel, made while the machine's state
    /// is saved or loaded.
    Call(String),
    /// In place of, or before, an operation on the host.
    Place(Place),
    /// At this moment of a migration's driver, for this output or message.
    Moment(Moment, String),
}

impl FaultPoint {
    /// The actions that the point supports, in the syntax of `do=`.
    pub(super) fn actions(&self) -> &'static str {
        match self {
            FaultPoint::Step(_) => "fail|hang|delay:MS|kill|freeze",
            FaultPoint::Call(name) if name.starts_with(USERFAULTFD) => "fail|hang|delay:MS|kill|freeze",
            FaultPoint::Place(Place::ClockRealtime) => "skew:MS",
            FaultPoint::Call(_) | FaultPoint::Place(_) => "fail|errno:NAME|hang|delay:MS|kill|freeze",
            FaultPoint::Moment(..) => "hang|delay:MS|kill|freeze",
        }
    }
}

/// As specifications write it.
impl fmt::Display for FaultPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FaultPoint::Step(step) => f.write_str(step.as_str()),
            FaultPoint::Call(name) => f.write_str(name),
            FaultPoint::Place(place) => f.write_str(place.as_str()),
            FaultPoint::Moment(moment, name) => write!(f, "{}:{name}", moment.as_str()),
        }
    }
}

/// Reads the value of `at=`.
pub(super) fn point(value: &str) -> Option<FaultPoint> {
    let step = [FaultStep::Save, FaultStep::Load, FaultStep::PostLoad].into_iter().find(|step| step.as_str() == value);
    let place = Place::ALL.iter().find(|place| place.as_str() == value);
    match (step, place, value.split_once(':')) {
        (Some(step), ..) => Some(FaultPoint::Step(step)),
        (None, Some(place), _) => Some(FaultPoint::Place(*place)),
        (None, None, Some((moment, name))) => {
            let moment = Moment::ALL.into_iter().find(|known| known.as_str() == moment)?;
            let fits = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
            fits.then(|| FaultPoint::Moment(moment, name.to_owned()))
        }
        (None, None, None) => is_call(value).then(|| FaultPoint::Call(value.to_owned())),
    }
}

fn is_call(name: &str) -> bool {
    let of_a_name = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let rest = CALLS.iter().find_map(|family| name.strip_prefix(family));
    name.len() <= MAX_NAME && rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(of_a_name))
}
