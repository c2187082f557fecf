/*
 * The switchover of a postcopy migration, and the other processes that have to do with the guest and its disk, stated a
 * second time: from docs and design, not from the Rust state machines, so that a mistake in one has to be made twice to go unseen.
 * tests/tests/explorer_model.rs and ci/explore run it.
 *
 *   spin -a -DHANDSHAKE=1 switchover.pml && gcc -O2 -DSAFETY -DCOLLAPSE -o pan pan.c && ./pan -m200000
 *
 * -DHANDSHAKE=1 is `owned`: the record decides.
 * -DHANDSHAKE=2 is `setup` of a guest that has a record, which the destination sees too.
 * -DHANDSHAKE=3 is `setup` of a guest that has a record, which the destination does not see.
 * -DHANDSHAKE=4 is `setup` of a guest without a record. A boot then asks the disk alone: its lock, and the sign of a hand-over.
 * -DPAST=1 with another handshake: the third process boots past the record, with another one or none, and asks the disk alone. Without
 *   it the third process does not look for the sign, so that the record is shown to suffice where both see it.
 *
 * -DBROKEN=N leaves out a rule; -DALSO=N leaves out another one.
 *   1  the source resumes when its link is lost after the permit (setup) or the record is out of reach (owned)
 *   2  the source takes a claim for a settled record, and gives the guest up (owned)
 *   3  a failed source that could not lock its disk settles the record all the same, and `cont` asks the lock only
 *   4  a boot does not compare the record with what it has read, but for its generation and owner
 *   5  `setup` does not announce the migration in the record
 *   6  an operator's resolve is not checked against the record, neither at the command nor before the guest runs
 *   7  a boot takes the disk's lock before it reads the record
 *   8  a boot that asks the disk alone does not look for the sign
 *
 * Promises, asserted where it happens:
 *   - never two runners;
 *   - never a stale run: a process that begins to run has what the last run of the guest left. A run is a history of the disk;
 *     each process knows the one that it holds;
 *   - a plain boot never runs over the newest state, which a living process holds. -DKEPT=0 leaves this one out, so that spin
 *     goes on to what becomes of the guest after that; -DLATE=1 lets a plain boot come only once the destination has ended and the
 *     source shows `uncertain` or `failed`: the longer ways that variants 3 and 5 allow;
 *   - a plain boot that begins while a migration is announced does not take the disk away from it;
 *   - a source ends its part only when every page is there.
 * And by the Referee, who speaks when no other process can do anything:
 *   - a live pair is both stopped only while the record is out of the reach of the side that it names, `uncertain` is shown
 *     (setup), the source shows that it failed and its guest is stopped, or an operator has had the guest booted elsewhere;
 *   - after everything is mended, both sides come to an end.
 */

#ifndef HANDSHAKE
#define HANDSHAKE 1
#endif
#ifndef BROKEN
#define BROKEN 0
#endif
#ifndef ALSO
#define ALSO 0
#endif
#ifndef KEPT
#define KEPT 1
#endif
#ifndef LATE
#define LATE 0
#endif
#ifndef PAST
#define PAST 0
#endif
#define broken(rule) (BROKEN == rule || ALSO == rule)
#define OWNED (HANDSHAKE == 1)
#define RECORD (HANDSHAKE <= 3)
/* The destination sees the source's record. */
#define SHARED (HANDSHAKE <= 2)
/* The third process knows nothing of a record. */
#define DISK_ALONE (PAST || !RECORD)

mtype = { package, ready, load_failed, permit, started, not_started, drained_ack, recover, recover_ack };
mtype = { source, destination, third };

chan to_d = [4] of { mtype };
chan to_s = [4] of { mtype };
bool link_up = true;

/* The record {generation, owner, settled}, and who reaches it. Generations count from the source's own. */
byte generation = 0;
mtype owner = source;
bool settled = true;
bool s_sees = true;
bool d_sees = true;

/* Who holds the lock on the disk's image. It keeps third processes apart from both sides; between the two sides, on two hosts, it
 * need not hold, and the record has to do without. */
bool s_locks = true;
bool d_locks = false;
bool t_locks = false;
/* The sign of a hand-over: who shows at the disk that it has the guest, or waits for it, and cannot hold the lock. The destination
 * does so from the greeting on, which is before the beginning of this. */
bool s_sign = false;
bool d_sign = true;
#define t_can_lock (!s_locks && !d_locks && !t_locks)

/* How many runs the guest has had since, and after which of them the state is that a side holds. */
#define NONE 15
byte runs = 0;
byte s_has = 0;
byte d_has = NONE;

bool s_alive = true;
bool s_runs = true;
bool s_ended = false;
bool s_uncertain = false;
/* It has failed, and its guest is stopped, without the disk. */
bool s_stopped = false;
bool s_serves = false;

bool d_alive = true;
bool d_runs = false;
bool d_ran = false;
bool d_listens = false;
bool d_ended = false;
bool all_pages = false;

bool t_boots = false;
bool t_takes = false;
bool t_runs = false;
bool t_ran = false;
/* The plain boot began while a migration was announced. */
bool t_late = false;

/* What may go wrong. */
byte breaks = 2;
byte outages = 1;
byte hasty = 1;
byte lost_replies = 1;
byte crashes = 1;
byte boots = 1;
byte holds = 1;
bool crash_s = false;
bool crash_d = false;
bool operator_helps = false;

#define send(link, message) if :: link_up -> link!message :: else -> skip fi
#define cut link_up = false
/* The link is gone; what was on its way has arrived, or is lost with it. */
#define lost(link) atomic { !link_up -> do :: link?_ :: empty(link) -> break od }
#define impatient atomic { hasty > 0 -> hasty--; cut; }
#define is_claimed (generation == 1 && owner == destination && !settled)
/* As an operator sees it: the destination will never run the guest. */
#define fenced (d_ended || !d_alive)

/* The destination's guest runs. Where the record did not decide, it gets the guest's new owner now. */
#if OWNED
#define settle_there atomic { d_sees && owner == destination && !settled -> settled = true }
#elif SHARED
#define settle_there atomic { d_sees && !(owner == destination && settled) -> swap(destination); settled = true }
#else
#define settle_there false
#endif

inline swap(to)
{
	generation++;
	owner = to;
	settled = false;
}

/* A process begins to run the guest with the state that it holds. */
inline begin(has, is_running)
{
	assert(has == runs);
	runs++;
	has = runs;
	is_running = true;
}

active proctype Source()
{
	/* Its operator has given it the guest, and knows that the destination has never run it. */
	bool never_ran = false;

	{
	/* While its guest runs. A record that cannot be written ends the migration. */
#if RECORD && !(broken(5) && !OWNED)
	if
	:: atomic { s_sees -> settled = false }
	:: !s_sees -> cut; goto End
	fi;
#endif
	atomic { s_runs = false; s_sign = true; s_locks = false };
	send(to_d, package);
	s_serves = true;

AwaitReady:
	if
	:: to_s?ready -> goto Permit
	:: to_s?load_failed -> goto Resume
	:: to_s?not_started -> goto Resume
	:: lost(to_s) -> goto Resume
	:: impatient -> goto Resume
	fi;

Permit:
	send(to_d, permit);
AwaitStarted:
	if
	:: to_s?started -> goto Active
#if OWNED
	:: to_s?not_started -> goto TakeBack
#else
	:: to_s?not_started -> goto Resume
#endif
	:: lost(to_s) -> goto NobodySays
	:: atomic { hasty > 0 -> hasty-- } -> goto NobodySays
	fi;

NobodySays:
#if OWNED
	goto TakeBack;
#elif broken(1)
	goto Resume;
#else
	goto Uncertain;
#endif

#if RECORD
TakeBack:
	if
	:: atomic { s_sees && generation == 0 -> swap(source) } ->
		if
		:: goto Resume
		:: lost_replies > 0 -> lost_replies--; goto Uncertain
		fi
	:: s_sees && generation > 0 && owner == source -> goto Resume
	:: s_sees && owner == destination && settled -> goto LetGo
	:: s_sees && owner == destination && !settled ->
#if broken(2)
		goto LetGo
#else
		goto Uncertain
#endif
	/* Another process has booted the guest: what is held here is too old. */
	:: s_sees && owner == third -> goto Failed
	:: !s_sees ->
#if broken(1)
		goto Resume
#else
		goto Uncertain
#endif
	fi;
#endif

Uncertain:
	s_uncertain = true;
	if
	:: to_s?started -> s_uncertain = false; goto Active
#if OWNED
	:: to_s?not_started -> s_uncertain = false; goto TakeBack
	/* It is asked again when the answer can be another one. */
	:: s_sees && (owner != destination || settled) -> s_uncertain = false; goto TakeBack
#else
	:: to_s?not_started -> s_uncertain = false; goto Resume
#endif
	/* An operator has looked at the destination, and says so. The record is asked first, and must answer. */
	:: atomic { operator_helps && !d_ran && fenced && (broken(6) || !RECORD) -> s_uncertain = false }; goto Resume
#if RECORD && !broken(6)
	:: atomic { operator_helps && !d_ran && fenced && s_sees && owner != destination -> s_uncertain = false };
		goto TakeBack
	/* What the record does not say, the destination's log does. An operator who had the guest booted elsewhere does not say this. */
	:: atomic { operator_helps && !d_ran && fenced && !t_boots && !t_ran && (!s_sees || owner == destination) -> s_uncertain = false };
		never_ran = true;
		goto Resume
#endif
	:: operator_helps && d_ran -> s_uncertain = false; goto LetGo
	fi;

LetGo:
	cut;
Paused:
	s_serves = false;
	if
	:: atomic {
			d_listens && d_alive ->
			do :: to_d?_ :: to_s?_ :: empty(to_d) && empty(to_s) -> break od;
			d_listens = false;
			link_up = true;
			to_d!recover
		};
		goto Recovering
	:: fenced -> assert(!d_alive || !d_runs || all_pages); goto End
	fi;

Recovering:
	if
	:: to_s?recover_ack -> s_serves = true; goto Active
	:: lost(to_s) -> goto Paused
	fi;

Active:
	if
	:: to_s?drained_ack -> assert(all_pages || !d_alive); goto End
	:: to_s?started -> goto Active
	:: lost(to_s) -> goto Paused
	:: impatient -> goto Paused
	fi;

	/* The guest is here. It runs once its disk is held, and a look at the record, if that answers, names no other process. */
Resume:
	cut;
	s_serves = false;
	if
	:: atomic { !t_locks -> s_locks = true; s_sign = false }
	:: atomic { t_locks -> assert(!t_late) }; goto Stopped
	fi;
#if RECORD && !broken(6)
	if
	:: atomic { s_sees && never_ran && (generation == 0 || is_claimed) -> swap(source) }
	:: s_sees && owner == source && !(never_ran && generation == 0) -> skip
	:: atomic { s_sees && owner != source && !(never_ran && is_claimed) -> s_sign = true; s_locks = false }; goto Stopped
	:: !s_sees -> skip
	fi;
#endif
	atomic { begin(s_has, s_runs) };
	goto Settle;

	/* The newest state of the guest is here, and the record goes on to say so: `failed`, and nothing runs. */
Stopped:
	s_stopped = true;
#if broken(3) && RECORD
	if
	:: atomic { s_sees && owner == source -> settled = true }
	:: !s_sees || owner != source -> skip
	fi;
#endif
	/* `cont` */
AwaitCont:
	atomic { operator_helps && !t_locks -> s_locks = true; s_sign = false };
#if RECORD && !broken(3)
	if
	:: atomic { s_sees && owner == source -> swap(source) }
	:: atomic { s_sees && owner != source -> s_sign = true; s_locks = false }; goto Failed
	:: atomic { !s_sees -> s_sign = true; s_locks = false }; s_sees -> goto AwaitCont
	fi;
#endif
	atomic { begin(s_has, s_runs); s_stopped = false };

	/* Only a process that holds the disk says so, and it insists. */
Settle:
#if RECORD
	s_ended = true;
end_settling:
	do
	/* It was out of reach when the operator gave the guest to this side. */
	:: atomic { s_sees && never_ran && is_claimed -> swap(source) }
	:: atomic { s_sees && owner == source -> settled = true }; break
	:: s_sees && owner != source && !(never_ran && is_claimed) -> break
	od;
#endif
	goto End;

	/* Stopped, and not to be had back. What is held here may be the newest all the same: the sign stays. */
Failed:
	cut;
	goto Over;
	/* The guest runs here with its disk, or is another process's for good. */
End:
	s_sign = false;
Over:
	s_ended = true;
	s_serves = false;
end_source:
	false
	}
	unless
	{
	atomic {
		crash_s -> s_alive = false; s_runs = false; s_serves = false; s_uncertain = false; s_stopped = false;
		s_locks = false; s_sign = false;
		cut
	};
end_dead_source:
	false
	}
}

active proctype Destination()
{
	{
	if
	:: atomic { to_d?package -> d_has = 0 }
	:: lost(to_d) -> goto Fail
	fi;
	if
	:: true -> send(to_s, ready)
	:: true -> send(to_s, load_failed); goto Fail
	fi;

AwaitPermit:
	if
#if OWNED
	:: to_d?permit -> goto Claim
#else
	:: to_d?permit -> goto Start
#endif
	:: lost(to_d) -> goto Fail
	:: atomic { hasty > 0 -> hasty-- } -> send(to_s, not_started); goto Fail
	fi;

#if OWNED
Claim:
	if
	:: atomic { d_sees && generation == 0 -> swap(destination) } ->
		if
		:: goto Start
		:: lost_replies > 0 -> lost_replies--; cut; goto Claim
		fi
	:: d_sees && generation == 1 && owner == destination -> goto Start
	:: d_sees && generation > 0 && owner != destination -> send(to_s, not_started); goto Fail
	:: atomic { !d_sees -> cut }; d_sees -> goto Claim
	fi;
#endif

Start:
	if
	:: atomic { !t_locks -> d_locks = true; d_sign = false }
	:: atomic { t_locks -> assert(!t_late) }; goto CannotStart
	:: goto CannotStart
	fi;
	if
#if SHARED && !broken(6)
	:: d_sees && generation > 0 && owner != destination -> goto CannotStart
	:: !d_sees || generation == 0 || owner == destination -> skip
#else
	:: skip
#endif
	fi;
	atomic { begin(d_has, d_runs); d_ran = true };
	send(to_s, started);
	goto Active;

CannotStart:
	atomic { d_sign = true; d_locks = false };
#if OWNED
	if
	:: atomic { d_sees && is_claimed -> swap(source) }
	:: d_sees && !is_claimed -> skip
	fi;
#endif
	send(to_s, not_started);
	goto Fail;

Active:
	if
	:: settle_there -> goto Active
	:: link_up && s_serves && !all_pages -> all_pages = true; goto Drained
	:: lost(to_d) -> goto Waits
	:: impatient -> goto Waits
	fi;

Waits:
	cut;
	d_listens = true;
/* Where it may stay for ever: with a source that has died. The Referee looks at the others. */
end_waits:
	do
	:: settle_there
	:: to_d?recover -> d_listens = false; send(to_s, recover_ack); goto Active
	:: !d_listens && !link_up -> goto Waits
	od;

Drained:
	send(to_s, drained_ack);
	cut;
	d_ended = true;
end_completed:
	settle_there;
end_settled:
	false;

Fail:
	cut;
	atomic { d_ended = true; d_sign = false };
end_failed:
	false
	}
	unless
	{
	atomic { crash_d -> d_alive = false; d_runs = false; d_locks = false; d_sign = false; d_listens = false; cut };
end_dead_destination:
	false
	}
}

/*
 * A plain `ferry run` of the same image: reads the record, takes the disk's lock, changes the record, runs, ends. Or one that its
 * operator told to boot whatever migration the record tells of (`,take`), since the guest is seen to stand still and the
 * destination has ended; that the source has not, the operator forgot. Or a process that holds the lock for a moment.
 */
active proctype Third()
{
	byte read = 0;
	bool read_settled = true;

end_third:
	do
	:: atomic { holds > 0 && t_can_lock -> holds--; t_locks = true }; t_locks = false
#if DISK_ALONE
	:: boots > 0 -> boots--; t_boots = true; goto Lock
#elif broken(7)
	:: boots > 0 -> boots--; t_boots = true; t_late = !settled; goto Lock
#else
	:: atomic {
			boots > 0 && settled && (!LATE || fenced && (s_uncertain || s_stopped)) ->
			boots--;
			t_boots = true;
			read = generation;
			read_settled = true
		};
		goto Lock
	/* The look before a run does without a record that it cannot reach: only one of the two goes wrong. */
	:: atomic {
			boots > 0 && !settled && (s_uncertain || s_stopped) && fenced && s_sees ->
			boots--;
			t_boots = true;
			t_takes = true;
			outages = 0;
			read = generation;
			read_settled = false
		};
		goto Lock
#endif
	:: break
	od;
end_third_is_gone:
	false;

Lock:
	if
	:: atomic { t_can_lock -> t_locks = true }
	:: !t_can_lock -> goto Gone
	fi;
#if DISK_ALONE
	if
	:: atomic { (s_sign || d_sign) && !broken(8) -> t_locks = false }; goto Gone
	:: !(s_sign || d_sign) || broken(8) -> skip
	fi;
#else
#if broken(7)
	if
	:: atomic { settled -> read = generation }
	:: !settled -> t_locks = false; goto Gone
	fi;
#endif
	if
	:: atomic { generation == read && (settled == read_settled || broken(4)) -> swap(third); settled = true }
	:: generation != read || (settled != read_settled && !broken(4)) -> t_locks = false; goto Gone
	fi;
#endif
	atomic {
		assert(!KEPT || t_takes || !((s_alive && s_has == runs) || (d_alive && !d_ended && d_has == runs)));
		runs++;
		t_runs = true;
		t_ran = true
	};
	atomic { t_runs = false; t_locks = false };
Gone:
	atomic { t_boots = false; t_late = false; read = 0; read_settled = true };
	goto end_third
}

active proctype Faults()
{
end_faults:
	do
	:: atomic { breaks > 0 && link_up -> breaks--; cut }
	:: atomic { crashes > 0 -> crashes--; if :: crash_s = true :: crash_d = true fi }
	:: atomic { outages > 0 && RECORD -> outages--; if :: s_sees = false :: d_sees = false fi }
	:: atomic { !s_sees -> s_sees = true }
	:: atomic { !d_sees -> d_sees = true }
	/* From here on an operator does what the state asks for. */
	:: atomic { !operator_helps -> operator_helps = true }
	/* From here on nothing more goes wrong, and nothing heals by itself. */
	:: break
	od
}

active proctype Monitor()
{
end_monitor:
	atomic { s_runs + d_runs + t_runs > 1 -> assert(s_runs + d_runs + t_runs <= 1) }
}

/* Speaks when no other process can do anything: first about a pair that stands still, then about the end. */
active proctype Referee()
{
	timeout;
	assert(!s_alive || !d_alive || s_runs || d_runs || s_stopped || t_ran
		|| (OWNED && ((owner == source && !s_sees) || (owner == destination && !d_sees)))
		|| (!OWNED && s_uncertain));
	atomic { s_sees = true; d_sees = true; operator_helps = true; hasty = 0 };
	timeout;
	assert(!s_alive || s_ended);
	assert(!d_alive || d_ended || (d_listens && !s_alive));
end_referee:
	false
}
