/* Continuous checkpoints, stated a second time for spin: neither the explorer's world nor the
 * state machines had a part in it. docs/checkpoints.md has the words.
 *
 * A primary runs a guest that puts one thing out in each epoch. At the end of an epoch it sends a
 * checkpoint; what was put out in the epoch is shown once the checkpoint is acknowledged. The
 * record is {generation, owner, partner}; both ways out of a protection are one swap of it. Links
 * lose what is on its way, processes die, a swap's answer is lost, any wait may end too early.
 *
 * -DBROKEN=N leaves a rule out:
 *   1 shows what was sent             5 the secondary acknowledges before it has verified
 *   2 shows before the solo swap      6 the secondary goes on reading while it claims
 *   3 shows after a lost solo swap    7 the secondary takes over without reading its name
 *   4 enrols before the first commit  8 the secondary takes over without the record
 *                                     9 holds only from the enrolment on
 */
#ifndef BROKEN
#define BROKEN 0
#endif
#ifndef EPOCHS
#define EPOCHS 4
#endif

/* The record. */
byte generation = 0;
bool secondary_owns = false;
bool partner = false;

/* The links: a checkpoint's number on its way, and an acknowledgement. 0 is nothing. */
byte sent = 0;
byte acknowledged = 0;
bool refused = false;
bool enrolled_told = false;
bool up = true;

/* The truth. */
byte shown = 1;      /* the primary has shown what was put out up to this epoch */
byte committed = 0;  /* the secondary goes on from this checkpoint */
byte from = 0;       /* it has entered its guest from this one */
bool live = false;   /* what its guest does is seen */
bool alone = false;  /* the primary's outputs are not held any more */
bool primary_lives = true;
bool secondary_lives = true;

/* What may still go wrong. */
byte losses = 1;
byte deaths = 1;
byte early = 1;      /* waits that end too early */
byte bad = 1;        /* checkpoints that do not verify */
byte unanswered = 1; /* swaps whose answer is lost */

/* A partner has something to go on from. */
#define ENROL partner = true; assert(committed > 0)
#define SHOW(epoch) shown = (epoch > shown -> epoch : shown); assert(!live || shown <= from)

inline lose() {
    up = false; sent = 0; acknowledged = 0; refused = false; enrolled_told = false
}

/* {0, primary} -> {1, primary}, or the same again. Sets `won`. */
inline solo() {
    d_step {
        won = !secondary_owns;
        if :: won -> generation = 1; partner = false :: else fi
    }
}

active proctype Primary() {
    byte epoch = 1;      /* the guest is in this one */
    byte flight = 0;     /* this checkpoint is not answered */
    byte may_show = 1;   /* released, and not written out yet */
    bool enrolled = false;
    bool asked = false;  /* to enrol: it may have happened */
    bool won = false;
    byte ahead = 0;

    do
    /* A process may stand still for as long as it likes: what is released is written at any later
     * moment. */
    :: primary_lives && may_show > shown -> atomic { SHOW(may_show) }

    /* Captures; one checkpoint is in flight at most, and the second comes after the enrolment. */
    :: primary_lives && !alone && flight == 0 && epoch <= EPOCHS && (epoch == 1 || enrolled) -> atomic {
        flight = epoch;
        if :: up -> sent = epoch :: else fi;
#if BROKEN == 1
        may_show = epoch;
#endif
        epoch++;
#if BROKEN == 9
        if :: !enrolled -> may_show = epoch :: else fi;
#endif
#if BROKEN == 4
        if
        :: !enrolled && generation == 0 && !secondary_owns ->
            asked = true; enrolled = true; ENROL
        :: else
        fi
#endif
    }

    /* An answer. */
    :: primary_lives && !alone && acknowledged != 0 -> atomic {
        if :: acknowledged == flight -> may_show = flight; flight = 0 :: else fi;
        acknowledged = 0
    }
    :: primary_lives && !alone && refused -> atomic { refused = false; flight = 0; if :: !asked -> break :: else fi }

    /* Enrols once the first checkpoint is committed. */
    :: primary_lives && !alone && !enrolled && flight == 0 && epoch == 2 -> atomic {
        asked = true;
        if
        :: generation == 0 && !secondary_owns -> enrolled = true; ENROL
        :: unanswered > 0 && generation == 0 && !secondary_owns -> unanswered--; ENROL
        :: unanswered > 0 -> unanswered--
        :: else -> break
        fi
    }

    /* The link is lost, or believed to be. */
    :: primary_lives && (!up || early > 0) -> atomic {
        if :: !up :: else -> early--; lose() fi;
        break
    }
    :: !primary_lives -> goto dead
    od;

    if
    :: !asked -> goto unprotected
    :: else
    fi;
#if BROKEN == 2
    if :: primary_lives -> atomic { SHOW(epoch) } :: else fi;
#endif
    do
    :: !primary_lives -> goto dead
    :: primary_lives && may_show > shown -> atomic { SHOW(may_show) }
    :: primary_lives -> solo(); break
    /* The answer is lost: the same is asked again. */
    :: primary_lives && unanswered > 0 -> solo(); unanswered--
    od;
    if
    :: won -> goto unprotected
    :: else
    fi;
#if BROKEN == 3
    if :: primary_lives -> atomic { SHOW(epoch) } :: else fi;
#endif
    goto dead;

unprotected:
    /* No process may take the guest over any more. */
    if
    :: primary_lives -> atomic { alone = true; SHOW(epoch); assert(!live) }
    :: !primary_lives
    fi;
dead:
    /* Deposed, frozen at the wrong moment: what was committed is written out all the same. */
    if :: primary_lives && may_show > shown -> atomic { SHOW(may_show) } :: true fi
}

active proctype Secondary() {
    byte next = 0;
    bool claimed = false;

    do
    :: secondary_lives && sent != 0 -> atomic { next = sent; sent = 0 }
    :: secondary_lives && next != 0 -> atomic {
#if BROKEN == 5
        if :: up -> acknowledged = next :: else fi;
#endif
        if
        :: committed = next;
#if BROKEN != 5
           if :: up -> acknowledged = next :: else fi;
#endif
        :: bad > 0 -> bad--;
           if :: up && BROKEN != 5 -> refused = true :: else fi
        fi;
        next = 0
    }
    :: secondary_lives && next == 0 && (!up || early > 0) && committed > 0 -> atomic {
        if
        :: !up
#if BROKEN == 6
        :: early > 0 -> early--
#else
        :: up && early > 0 -> early--; lose()
#endif
        fi;
        break
    }
    :: secondary_lives && !up && committed == 0 && next == 0 -> goto gone
    :: !secondary_lives -> goto gone
    od;

    /* Suspicious: reads nothing more. */
#if BROKEN != 7 && BROKEN != 8
    if
    :: secondary_lives && generation == 0 && partner
    /* Not enrolled, and may still be; in the end it gives up. */
    :: secondary_lives && !(generation == 0 && partner) -> goto gone
    :: !secondary_lives -> goto gone
    fi;
#endif
    from = committed;
#if BROKEN == 6
    do
    :: secondary_lives && sent != 0 -> atomic { committed = sent; sent = 0; if :: up -> acknowledged = committed :: else fi }
    :: break
    od;
#endif
    do
    :: !secondary_lives -> goto gone
    :: secondary_lives -> atomic {
        claimed = secondary_owns || generation == 0;
#if BROKEN == 8
        claimed = true;
#endif
        if :: claimed -> secondary_owns = true; generation = 1; partner = false :: else fi;
        if
        :: true -> break
        /* The answer is lost: the same is asked again. */
        :: unanswered > 0 -> unanswered--
        fi
    }
    od;
    if
    :: secondary_lives && claimed -> atomic { live = true; assert(shown <= from); assert(!alone) }
    :: else
    fi;
gone:
    skip
}

active proctype World() {
    do
    :: losses > 0 && up -> atomic { losses--; lose() }
    :: deaths > 0 && primary_lives -> atomic { deaths--; primary_lives = false; lose() }
    :: deaths > 0 && secondary_lives -> atomic { deaths--; secondary_lives = false; lose() }
    :: true -> break
    od
}
