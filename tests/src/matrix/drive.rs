//! Leads a migration to its end after the fault, as an operator would who knows the guide: looks
//! at both sides, reconnects what is paused, and says who owns the guest where nobody else can.

use std::time::{Duration, Instant, SystemTime};

use ferry_migration::Handshake;
use ferry_migration::info::Status;
use serde_json::json;

use super::act::Props;
use super::actor::View;
use super::cell::{Place, Side, What};
use super::evidence::Reason;
use super::stage::{DEADLINE, Stage};
use super::watch;
use crate::wait::poll;

/// How long nothing may change until it counts as how things stand: longer than any deadline of
/// the protocol.
const SETTLED: Duration = DEADLINE.saturating_mul(2);
/// Longest until a silent link that owes something is missed, on a machine with much work.
const MISSED_BY: Duration = DEADLINE.saturating_mul(4);
/// Longest that it takes until nothing changes.
const WITHIN: Duration = Duration::from_secs(60);
/// How often an operator may try: a busy machine may break a recovery by itself.
const ATTEMPTS: u32 = 8;

/// How things stand when nothing changes any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// The source runs the guest, or could by the operator's word.
    AtSource,
    /// The destination does.
    AtDestination,
    /// The side that has the guest is gone, or lacks pages that are gone.
    Lost,
    /// The guest ended by itself, or was ended.
    Ended,
}

impl Stage {
    /// Leads to where nothing changes by itself.
    pub fn settle(&mut self, props: &mut Props) -> Result<Stand, String> {
        let mut hurt = true;
        for _ in 0..ATTEMPTS {
            let views = self.rest(hurt && self.cell.place() == Place::Record)?;
            self.note_reasons(views);
            // What was kept from passing, or failed, works again: the operator goes on from there.
            self.relay.heal();
            self.mended = true;
            if std::mem::take(&mut hurt) && self.mend(props) {
                continue;
            }
            match views {
                [View::Answers(Some(Status::Uncertain), _), _] => self.resolve()?,
                [View::Answers(Some(Status::PostcopyPaused), _), View::Answers(Some(Status::PostcopyPaused), _)] => {
                    self.resume();
                }
                [View::Answers(Some(Status::PostcopyPaused), _), View::Answers(Some(Status::Completed), _)] => {
                    self.notes.say("the operator says that the destination has all");
                    let word = json!({ "owner": "destination", "peer-fenced": true, "drop-pages": true });
                    let refused = |why| format!("the operator's word was refused: {why}");
                    self.source.try_ask("x-ferry-resolve", word).map_err(refused)?;
                }
                views => {
                    let stand = self.stand(views);
                    self.cont_at_the_end(stand);
                    return Ok(stand);
                }
            }
        }
        Err("the operator does what the guide says, and it helps nothing".to_owned())
    }

    /// Keeps what the sides say of how things stand: a reason goes when the migration goes on.
    fn note_reasons(&mut self, views: [View; 2]) {
        for (actor, view) in [&self.source, &self.destination].into_iter().zip(views) {
            let text = actor.error().to_owned();
            if let (View::Answers(status, _), false) = (view, text.is_empty()) {
                self.reasons.push(Reason { role: actor.role, status, text });
            }
        }
    }

    /// Where the guest is the source's, `cont` lets it run; where it is not, `cont` is refused.
    fn cont_at_the_end(&mut self, stand: Stand) {
        let answers = matches!(self.source.view(), View::Answers(..));
        match stand {
            _ if !answers || self.cell.what == What::Stop => {}
            Stand::AtSource => self.try_cont(true, "the source has the guest"),
            Stand::AtDestination => self.try_cont(false, "the destination has the guest"),
            Stand::Lost | Stand::Ended => self.try_cont(false, "the guest was at the destination"),
        }
    }

    /// Ends what goes on hurting; true if somebody may have waited for that.
    fn mend(&mut self, props: &mut Props) -> bool {
        self.plain.extend(props.end_runs());
        self.put_image_back();
        let locked_out = props.has_disk() && self.lacks_its_disk();
        if locked_out {
            self.try_cont(false, "a third process has the disk's lock");
        }
        let struck = props.strike();
        if locked_out && self.cell.has_record() {
            // Nobody holds the lock now: the record keeps others out.
            let run = self.plain_run().run(self.plain.len());
            self.notes.say(format!("the plain run: {}", run.says));
            self.plain.push(run);
        }
        let rule = matches!(self.cell.what, What::Rule(..)) && self.cell.place() == Place::Record;
        if rule {
            self.notes.say("the record's storage works again");
            for actor in [&mut self.source, &mut self.destination] {
                let _ = actor.ask("x-ferry-fault-set", json!({ "clear": true }));
            }
        }
        if struck {
            self.retry();
        }
        struck || rule || matches!(self.cell.what, What::BlackHole(_) | What::Stall(..))
    }

    /// Whether the source's migration has failed and its guest stands still.
    fn lacks_its_disk(&mut self) -> bool {
        matches!(self.source.view(), View::Answers(Some(Status::Failed), false))
    }

    /// Whoever has the guest and could not run it may try again.
    fn retry(&mut self) {
        for actor in [&mut self.source, &mut self.destination] {
            if let View::Answers(_, false) = actor.view() {
                let _ = actor.ask("cont", json!({}));
            }
        }
    }

    fn stand(&mut self, views: [View; 2]) -> Stand {
        use Status::{Cancelled, Completed, Failed, PostcopyActive, PostcopyPaused};
        let [source, destination] = views;
        let has_ended = |view: View, actor: &super::actor::Actor| view == View::Ended && !actor.was_killed();
        match (source, destination) {
            (_, View::Answers(Some(Completed), _)) => Stand::AtDestination,
            (View::Answers(Some(Failed | Cancelled) | None, _), _) => Stand::AtSource,
            (View::Answers(Some(Completed | PostcopyPaused), _), View::Ended)
                if has_ended(destination, &self.destination) =>
            {
                Stand::Ended
            }
            (View::Ended, View::Ended | View::Answers(None, _)) if has_ended(source, &self.source) => Stand::Ended,
            (_, View::Answers(Some(PostcopyActive | PostcopyPaused), _)) => Stand::Lost,
            _ => Stand::Lost,
        }
    }

    /// Waits until both sides are in a state that lasts, and have been for as long as a deadline
    /// may take. While the record hurts they may wait for it in any state.
    fn rest(&mut self, hurts: bool) -> Result<[View; 2], String> {
        let mut before = [View::Silent; 2];
        let mut since = Instant::now();
        let at_rest = poll(WITHIN, || {
            // Before a silent link is missed there must be something that it owes. One that is not
            // missed by now owed nothing, and the rounds may end.
            let since_break = self.notes.broken.and_then(|at| at.elapsed().ok());
            let may_be_missed =
                matches!(self.cell.what, What::Stall(..)) && since_break.is_none_or(|since| since < MISSED_BY);
            self.tend(!may_be_missed || self.mended);
            let now = [self.source.view(), self.destination.view()];
            if now != before {
                (before, since) = (now, Instant::now());
            }
            // Whoever was told to end does so in its own time.
            // Whoever has the guest ends with it, once the guest has done what it was told.
            let ends_with_guest = self.cell.what == What::GuestShutsDown && !now.contains(&View::Ended);
            let ending = ends_with_guest
                || [&self.source, &self.destination]
                    .into_iter()
                    .zip(now)
                    .any(|(a, view)| a.quit && view != View::Ended);
            let patience = match now {
                _ if !now.into_iter().all(|view| lasts(view) || hurts && view != View::Silent) => return None,
                _ if ending => SETTLED,
                _ if now.into_iter().all(is_final) => Duration::ZERO,
                _ => SETTLED,
            };
            (since.elapsed() >= patience).then_some(now)
        });
        at_rest.ok_or_else(|| {
            format!("the migration comes to no end: the source is {:?}, the destination {:?}", before[0], before[1])
        })
    }

    /// The operator says who owns the guest in an uncertainty: the harness knows who is there and
    /// who has run.
    fn resolve(&mut self) -> Result<(), String> {
        // A destination that dies between its claim and its start leaves a record that names it:
        // nobody else knows that it never ran.
        let named = watch::record::named(&self.record()).and_then(|named| named.pid);
        let has_claimed = named == Some(self.destination.ferry.pid());
        let only_he_knows = has_claimed && self.destination.view() == View::Ended;
        if self.cell.handshake == Handshake::Owned && !only_he_knows {
            return Err(format!("the source is uncertain, and the record can be reached: {}", self.source.error()));
        }
        let owner = match self.destination.view() {
            View::Answers(Some(Status::Completed | Status::PostcopyActive | Status::PostcopyPaused), _) => {
                "destination"
            }
            _ if self.destination.was_killed() && self.guest_was_at(Side::Destination) => "destination",
            _ => {
                // Fenced: it has ended, or is ended now.
                self.destination.end();
                "source"
            }
        };
        self.notes.say(format!("the operator says that the guest is the {owner}'s"));
        let said = SystemTime::now();
        // A record that names a destination which died before its start cannot say so.
        let never_ran = owner == "source" && !self.guest_was_at(Side::Destination);
        let word = json!({ "owner": owner, "peer-fenced": true, "never-ran": never_ran });
        let accepted = self.source.ask("x-ferry-resolve", word).is_some();
        let mut is_uncertain = || matches!(self.source.view(), View::Answers(Some(Status::Uncertain), _));
        if accepted {
            self.notes.resolved = Some(said);
        } else {
            // What was late has come, and has answered before the operator did.
            return if is_uncertain() {
                Err(format!("the operator's word for the {owner} was refused"))
            } else {
                Ok(())
            };
        }
        let heard = poll(WITHIN, || (!is_uncertain()).then_some(()));
        heard.ok_or(format!("the operator's word for the {owner} changes nothing"))
    }

    /// Whether the guest has said something on a side.
    fn guest_was_at(&mut self, side: Side) -> bool {
        !self.actor(side).serial().is_empty()
    }
}

/// Whether a state may last.
fn lasts(view: View) -> bool {
    match view {
        View::Ended => true,
        View::Silent => false,
        View::Answers(status, _) => status
            .is_none_or(|status| !status.is_active() || matches!(status, Status::Uncertain | Status::PostcopyPaused)),
    }
}

/// Whether it cannot change any more.
fn is_final(view: View) -> bool {
    match view {
        View::Ended => true,
        View::Silent => false,
        View::Answers(status, _) => status.is_some_and(|status| !status.is_active()),
    }
}
