//! A way through an exploration as a person reads it: one line a step, with who acts, what came,
//! what it did, and who runs.

use std::collections::HashSet;
use std::fmt;

use ferry_migration::source::Owner;
use ferry_migration::{destination, source};

use super::Side;
use super::event::{Class, Event, Foreign, Log, Operator, Third};
use super::fingerprint;
use super::job::SourceJob;
use super::scenario::Scenario;
use super::world::World;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Who acts, or what goes wrong.
    pub actor: &'static str,
    /// What came.
    pub came: String,
    /// What was done about it.
    pub did: Vec<String>,
    /// Who runs the guest after it.
    pub runs: &'static str,
}

/// A way from the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The steps.
    pub lines: Vec<Line>,
    /// How many of them were chosen; the rest comes by itself.
    pub chosen: usize,
}

/// Steps that are shown of what comes by itself.
const MOST_BY_ITSELF: usize = 40;

impl Trace {
    /// Goes the way again that these numbers of events describe; `look_ahead` also shows how it
    /// goes on by itself.
    ///
    /// # Panics
    /// When no such way exists.
    #[must_use]
    pub fn replay(scenario: &Scenario, numbers: &[u16], look_ahead: bool) -> Self {
        let mut world = World::new(scenario);
        let mut lines = Vec::new();
        for number in numbers {
            let (_, event) = world.events()[*number as usize];
            lines.push(step(&mut world, scenario, event));
        }
        let chosen = lines.len();
        let mut seen = HashSet::new();
        while look_ahead && lines.len() < chosen + MOST_BY_ITSELF && seen.insert(fingerprint::of(&world)) {
            let events = world.events();
            let by_itself = |class: Class| events.iter().find(|(c, _)| *c == class);
            let Some((_, event)) = by_itself(Class::Progress).or_else(|| by_itself(Class::Wait)) else { break };
            lines.push(step(&mut world, scenario, *event));
        }
        Trace { lines, chosen }
    }

    /// The number of steps that were chosen.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chosen
    }

    /// Whether nothing had to happen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chosen == 0
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, " step  runs         actor        what came")?;
        for (number, line) in self.lines.iter().enumerate() {
            if number == self.chosen {
                writeln!(f, "       and so it goes on by itself:")?;
            }
            write!(f, " {:>4}  {:<12} {:<12} {}", number + 1, line.runs, line.actor, line.came)?;
            if !line.did.is_empty() {
                write!(f, " -> {}", line.did.join(", "))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn step(world: &mut World, scenario: &Scenario, event: Event) -> Line {
    let (actor, came) = describe(world, event);
    let mut log = Log::on();
    world.apply(scenario, event, &mut log);
    Line { actor, came, did: log.did, runs: world.facts.who_runs() }
}

fn name(side: Side) -> &'static str {
    match side {
        Side::Source => "source",
        Side::Destination => "destination",
    }
}

fn describe(world: &World, event: Event) -> (&'static str, String) {
    let well = |well: bool| if well { "done" } else { "failed" };
    match event {
        Event::Deliver(Side::Source) => ("source", format!("hears {}", world.link.to_source[0].name())),
        Event::Deliver(Side::Destination) => ("destination", format!("hears {}", world.link.to_destination[0].name())),
        Event::Notice(side) => (name(side), "is told that the link is gone".to_owned()),
        Event::Drop(side) => ("link", format!("what was on its way to the {} is lost", name(side))),
        Event::Source(SourceJob::Resume, false) if !world.lock_is_elsewhere() => {
            ("source", "Resume: a device refuses".to_owned())
        }
        Event::Source(job, ok) => ("source", format!("{job:?}: {}", well(ok))),
        Event::SourceLate(job) => ("source", format!("{job:?}: done after all")),
        Event::Destination(job, ok) => ("destination", format!("{job:?}: {}", well(ok))),
        Event::DestinationLate(job) => ("destination", format!("{job:?}: done after all")),
        Event::RecordDecides(side) => ("record", format!("{} asked by the {}", operation(world, side), name(side))),
        Event::RecordReplies(side) => {
            let reply = world.record_jobs[side as usize].and_then(|job| job.reply);
            let reply = reply.map_or_else(String::new, |reply| format!("{reply:?}"));
            (name(side), format!("{}: {reply}", operation(world, side)))
        }
        Event::RecordFails(side) => (name(side), format!("{}: unreachable", operation(world, side))),
        Event::RecordStalls(side) => {
            (name(side), format!("{}: unreachable (it is still on its way)", operation(world, side)))
        }
        Event::Straggler(side) => ("record", format!("what the {} asked for happens after all", name(side))),
        Event::Settles => ("record", "settled by the destination".to_owned()),
        Event::MarkerArrives => ("destination", "the marker behind the last pages arrives".to_owned()),
        Event::PagesArrive => ("destination", "the last missing page arrives".to_owned()),
        Event::Fires(side, timer) => (name(side), format!("timer {timer:?}")),
        Event::Reach(side, true) => ("record", format!("is in the {}'s reach again", name(side))),
        Event::Reach(side, false) => ("record", format!("goes out of the {}'s reach", name(side))),
        Event::Break { silently: false } => ("link", "breaks".to_owned()),
        Event::Break { silently: true } => ("link", "falls silent".to_owned()),
        Event::BulkBreak(side) => (name(side), "is told that a bulk link is gone".to_owned()),
        Event::Garble(side) => (name(side), "receives a frame twice".to_owned()),
        Event::Crash(side) => (name(side), "dies".to_owned()),
        Event::FaultsDie => ("destination", "its fault handler dies".to_owned()),
        Event::Foreign(Foreign::Package) => ("destination", "hears Package of another run".to_owned()),
        Event::Foreign(Foreign::Permit) => ("destination", "hears Permit of another run".to_owned()),
        Event::Foreign(Foreign::Recover) => ("destination", "hears Recover of another run".to_owned()),
        Event::Operator(operator) => ("operator", said(operator)),
        Event::ClaimSettles => ("record", "settled by the source, whose claimed guest runs".to_owned()),
        Event::Asserts => ("record", "asked to name the source, to which the guest has come".to_owned()),
        Event::SourceSettles => ("record", "settled by the source".to_owned()),
        Event::Seizes => ("record", "made to name the source, as its operator has decided".to_owned()),
        Event::Leaves => ("destination", "its process ends".to_owned()),
        Event::Third(step) => ("another", third(step)),
    }
}

fn operation(world: &World, side: Side) -> String {
    world.record_jobs[side as usize].map_or_else(String::new, |job| format!("{:?}", job.operation.kind))
}

fn third(step: Third) -> String {
    match step {
        Third::Looks { take: false } => "ferry run: reads the record",
        Third::Looks { take: true } => "ferry run with ,take: reads the record",
        Third::Locks => "tries to take the disk's lock",
        Third::PastLocks => "ferry run past the record: takes the disk's lock",
        Third::PastLooks => "looks for the sign of a hand-over",
        Third::Swaps => "tries to make the record name it",
        Third::Runs => "runs the guest from its disk",
        Third::Arrives { on_from_first: true } => {
            "has got a copy of the guest from where the first migration led, and takes the disk's lock"
        }
        Third::Arrives { .. } => "has got a copy of the guest, stopped, and takes the disk's lock",
        Third::Asserts => "asks the record for the guest that has arrived",
        Third::Ends => "ends",
        Third::OtherLocks => "a process takes the disk's lock",
        Third::OtherUnlocks => "a process lets go of the disk's lock",
    }
    .to_owned()
}

fn said(operator: Operator) -> String {
    match operator {
        Operator::StartPostcopy => "start postcopy".to_owned(),
        Operator::Cancel(side) => format!("cancel at the {}", name(side)),
        Operator::Pause(side) => format!("pause at the {}", name(side)),
        Operator::Recover => "recover".to_owned(),
        Operator::NeverRan => "resolve: the source owns it, and the destination never ran".to_owned(),
        Operator::Stop => "stop at the source".to_owned(),
        Operator::Cont => "cont at the source".to_owned(),
        Operator::ContFails => "cont at the source: a device refuses".to_owned(),
        Operator::Migrate => "migrate".to_owned(),
        Operator::Again => "migrate again, to another process".to_owned(),
        Operator::Resolve(Owner::Source) => "resolve: the source owns it (the destination never ran)".to_owned(),
        Operator::RashResolve => "resolve: the source owns it (the destination has run)".to_owned(),
        Operator::Resolve(Owner::Destination) => "resolve: the destination owns it".to_owned(),
    }
}

/// An output of the source in a few words; none for what a reader does not miss.
pub fn source_output(output: &source::Output) -> Option<String> {
    use source::{Outcome, Output};
    Some(match output {
        Output::StartTimer(_) | Output::StopTimer(_) | Output::Interrupt | Output::Handshake(_) => return None,
        Output::Status(status) => format!("[{}]", status.as_str()),
        Output::Send(message) => format!("send {}", message.name()),
        Output::Finish(Outcome::Completed) => "end: completed".to_owned(),
        Output::Finish(Outcome::Failed(_)) => "end: failed".to_owned(),
        Output::Finish(Outcome::Stranded(_)) => "end: stranded".to_owned(),
        Output::Finish(Outcome::Cancelled) => "end: cancelled".to_owned(),
        Output::Refuse(_) => "refused".to_owned(),
        Output::Resolved(Ok(())) => "the operator's word counts".to_owned(),
        Output::Resolved(Err(_)) => "the operator's word is refused".to_owned(),
        Output::SendLastPages { .. } => "SendLastPages".to_owned(),
        other => format!("{other:?}"),
    })
}

/// The same for the destination.
pub fn destination_output(output: &destination::Output) -> Option<String> {
    use destination::{Outcome, Output};
    Some(match output {
        Output::StartTimer(_) | Output::StopTimer(_) | Output::Interrupt | Output::ReceivePages => return None,
        Output::Send(message) => format!("send {}", message.name()),
        Output::Finish(Outcome::Completed) => "end: completed".to_owned(),
        Output::Finish(Outcome::Failed(_)) => "end: failed".to_owned(),
        Output::Load { rehearsal: true, .. } => "Load on trial".to_owned(),
        Output::Load { rehearsal: false, .. } => "Load".to_owned(),
        Output::LoseGuest(_) => "LoseGuest".to_owned(),
        other => format!("{other:?}"),
    })
}
