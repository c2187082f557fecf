/*
 * The switchover of a postcopy migration, stated a second time: from docs and design, not from the Rust state machines, so that
 * a mistake in one has to be made twice to go unseen. tests/tests/explorer_model.rs and ci/explore run it.
 *
 *   spin -a -DOWNED=1 switchover.pml && gcc -O2 -DSAFETY -o pan pan.c && ./pan -m100000
 *
 * -DOWNED=1 is the handshake `owned`, -DOWNED=0 is `setup`.
 * -DBROKEN=1: the source resumes when its link is lost after the permit (setup) or the record is out of reach (owned).
 * -DBROKEN=2: the source takes a claim for a settled record, and lets go of the guest (owned).
 *
 * Promises: never two runners, never a stale resume, a source lets go only when every page is there (all three asserted where
 * it happens); a live pair is both stopped only while the record is out of the reach of the side that it names, or `uncertain`
 * is shown; and after everything is mended, both sides come to an end (both asserted by the Referee, who speaks when nobody
 * else can).
 */

#ifndef OWNED
#define OWNED 1
#endif
#ifndef BROKEN
#define BROKEN 0
#endif

mtype = { package, ready, load_failed, permit, started, not_started, drained_ack, recover, recover_ack };
mtype = { source, destination };

chan to_d = [4] of { mtype };
chan to_s = [4] of { mtype };
bool link_up = true;

/* The record {generation, owner, settled}, and who reaches it. */
byte changes = 0;
mtype owner = source;
bool settled = true;
bool s_sees = true;
bool d_sees = true;

bool s_alive = true;
bool s_runs = true;
bool s_ended = false;
bool s_uncertain = false;
bool s_serves = false;

bool d_alive = true;
bool d_runs = false;
bool d_ran = false;
bool d_listens = false;
bool d_ended = false;
bool all_pages = false;

/* What may go wrong. */
byte breaks = 2;
byte outages = 1;
byte hasty = 1;
byte lost_replies = 1;
byte crashes = 1;
bool crash_s = false;
bool crash_d = false;
bool operator_helps = false;

#define send(link, message) if :: link_up -> link!message :: else -> skip fi
#define cut link_up = false
/* The link is gone; what was on its way has arrived, or is lost with it. */
#define lost(link) atomic { !link_up -> do :: link?_ :: empty(link) -> break od }
#define impatient atomic { hasty > 0 -> hasty--; cut; }

inline swap(to)
{
	changes++;
	owner = to;
	settled = false;
}

active proctype Source()
{
	{
	s_runs = false;
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
	:: to_s?not_started -> if :: OWNED -> goto TakeBack :: else -> goto Resume fi
	:: lost(to_s) -> goto NobodySays
	:: atomic { hasty > 0 -> hasty-- } -> goto NobodySays
	fi;

NobodySays:
#if BROKEN == 1 && !OWNED
	goto Resume;
#endif
	if :: OWNED -> goto TakeBack :: else -> goto Uncertain fi;

TakeBack:
	if
	:: atomic { s_sees && changes == 0 -> swap(source) } ->
		if
		:: goto Resume
		:: lost_replies > 0 -> lost_replies--; goto Uncertain
		fi
	:: s_sees && changes > 0 && owner == source -> goto Resume
	:: s_sees && owner == destination && settled -> goto LetGo
	:: s_sees && owner == destination && !settled ->
#if BROKEN == 2
		goto LetGo
#else
		goto Uncertain
#endif
	:: !s_sees ->
#if BROKEN == 1
		goto Resume
#else
		goto Uncertain
#endif
	fi;

Uncertain:
	s_uncertain = true;
	if
	:: to_s?started -> s_uncertain = false; goto Active
	:: to_s?not_started -> s_uncertain = false; if :: OWNED -> goto TakeBack :: else -> goto Resume fi
	/* It is asked again when the answer can be another one. */
	:: OWNED && s_sees && (owner == source || settled) -> s_uncertain = false; goto TakeBack
	/* An operator has looked at the destination. */
	:: operator_helps && !d_ran && (d_ended || !d_alive) -> s_uncertain = false; goto Resume
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
	:: d_ended || !d_alive -> assert(!d_alive || !d_runs || all_pages); goto End
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

Resume:
	cut;
	s_serves = false;
	assert(!d_ran);
	s_runs = true;
End:
	s_ended = true;
	s_serves = false;
end_source:
	false
	}
	unless
	{
	atomic { crash_s -> s_alive = false; s_runs = false; s_serves = false; s_uncertain = false; cut };
end_dead_source:
	false
	}
}

active proctype Destination()
{
	{
	if
	:: to_d?package -> skip
	:: lost(to_d) -> goto Fail
	fi;
	if
	:: true -> send(to_s, ready)
	:: true -> send(to_s, load_failed); goto Fail
	fi;

AwaitPermit:
	if
	:: to_d?permit -> if :: OWNED -> goto Claim :: else -> goto Start fi
	:: lost(to_d) -> goto Fail
	:: atomic { hasty > 0 -> hasty-- } -> send(to_s, not_started); goto Fail
	fi;

Claim:
	if
	:: atomic { d_sees && changes == 0 -> swap(destination) } ->
		if
		:: goto Start
		:: lost_replies > 0 -> lost_replies--; cut; goto Claim
		fi
	:: d_sees && changes == 1 && owner == destination -> goto Start
	:: d_sees && owner == source && changes > 0 -> send(to_s, not_started); goto Fail
	:: atomic { !d_sees -> cut }; d_sees -> goto Claim
	fi;

Start:
	if
	:: d_ran = true; d_runs = true; assert(!s_runs); send(to_s, started); goto Active
	:: goto CannotStart
	fi;

CannotStart:
	if
	:: OWNED -> atomic { d_sees -> swap(source) }
	:: else -> skip
	fi;
	send(to_s, not_started);
	goto Fail;

Active:
	if
	:: OWNED && d_sees && !settled -> settled = true; goto Active
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
	:: OWNED && d_sees && !settled -> settled = true
	:: to_d?recover -> d_listens = false; send(to_s, recover_ack); goto Active
	:: !d_listens && !link_up -> goto Waits
	od;

Drained:
	send(to_s, drained_ack);
	cut;
	d_ended = true;
end_completed:
	OWNED && d_sees && !settled -> settled = true;
end_settled:
	false;

Fail:
	cut;
	d_ended = true;
end_failed:
	false
	}
	unless
	{
	atomic { crash_d -> d_alive = false; d_runs = false; d_listens = false; cut };
end_dead_destination:
	false
	}
}

active proctype Faults()
{
end_faults:
	do
	:: atomic { breaks > 0 && link_up -> breaks--; cut }
	:: atomic { crashes > 0 -> crashes--; if :: crash_s = true :: crash_d = true fi }
	:: atomic { outages > 0 && OWNED -> outages--; if :: s_sees = false :: d_sees = false fi }
	:: atomic { !s_sees -> s_sees = true }
	:: atomic { !d_sees -> d_sees = true }
	/* From here on nothing more goes wrong, and nothing heals by itself. */
	:: break
	od
}

active proctype Monitor()
{
end_monitor:
	atomic { s_runs && d_runs -> assert(false) }
}

/* Speaks when nobody else can do anything: first about a pair that stands still, then about the end. */
active proctype Referee()
{
	timeout;
	assert(!s_alive || !d_alive || s_runs || d_runs
		|| (OWNED && ((owner == source && !s_sees) || (owner == destination && !d_sees)))
		|| (!OWNED && s_uncertain));
	atomic { s_sees = true; d_sees = true; operator_helps = true; hasty = 0 };
	timeout;
	assert(!s_alive || s_ended);
	assert(!d_alive || d_ended || (d_listens && !s_alive));
end_referee:
	false
}
