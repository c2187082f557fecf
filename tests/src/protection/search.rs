//! Breadth first through every interleaving: the first world that breaks a promise is one that the
//! fewest steps lead to.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;

use ferry_migration::protection::primary;

use super::event::{Class, Event, Log};
use super::invariants::{Promise, is_excused, is_served};
use super::world::{Scenario, World};
use crate::explorer::fingerprint::{self, ByFingerprint};
use crate::explorer::graph::Graph;

/// When to stop before everything was seen.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Give up with [`Report::is_complete`] false after this many worlds.
    pub worlds: usize,
    /// Stop at the first world that breaks this promise.
    pub until: Option<Promise>,
}

/// How a promise was broken.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What is wrong.
    pub why: &'static str,
    /// The shortest way there.
    pub trace: Trace,
}

/// What an exploration saw.
#[derive(Debug)]
pub struct Report {
    /// Different worlds.
    pub worlds: usize,
    /// Events carried out.
    pub transitions: usize,
    /// Everything within the bounds was seen.
    pub is_complete: bool,
    /// Worlds in which the secondary's guest is live: 0 would mean that nothing was tested.
    pub takeovers: usize,
    /// Worlds in which the guest was moved as planned.
    pub moved: usize,
    /// What was broken, with the shortest way for each.
    pub findings: BTreeMap<Promise, Finding>,
}

/// A way from the beginning: each event, and what the machines did about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace(pub Vec<(Event, Vec<String>)>);

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (event, did)) in self.0.iter().enumerate() {
            writeln!(f, "{:>3}  {event:?}", number + 1)?;
            for line in did {
                writeln!(f, "       {line}")?;
            }
        }
        Ok(())
    }
}

struct Node {
    parent: u32,
    event: u16,
    good: bool,
}

struct Search<'a> {
    scenario: &'a Scenario,
    nodes: Vec<Node>,
    seen: HashMap<u128, u32, ByFingerprint>,
    todo: VecDeque<(u32, World)>,
    broken: BTreeMap<Promise, (u32, &'static str)>,
    /// Where the worlds lead to if nothing fails any more.
    onward: Graph,
    transitions: usize,
    takeovers: usize,
    moved: usize,
}

/// Explores a scenario.
#[must_use]
pub fn explore(scenario: &Scenario, limits: Limits) -> Report {
    let mut search = Search {
        scenario,
        nodes: Vec::new(),
        seen: HashMap::default(),
        todo: VecDeque::new(),
        broken: BTreeMap::new(),
        onward: Graph::default(),
        transitions: 0,
        takeovers: 0,
        moved: 0,
    };
    let is_complete = search.run(limits);
    if is_complete {
        search.look_ahead();
    }
    let findings = search.broken.iter().map(|(promise, (node, why))| {
        let trace = search.trace(*node);
        (*promise, Finding { why, trace })
    });
    Report {
        worlds: search.nodes.len(),
        transitions: search.transitions,
        is_complete,
        takeovers: search.takeovers,
        moved: search.moved,
        findings: findings.collect(),
    }
}

impl Search<'_> {
    fn run(&mut self, limits: Limits) -> bool {
        self.see(World::new(self.scenario), 0, 0);
        while let Some((at, world)) = self.todo.pop_front() {
            if self.nodes.len() > limits.worlds {
                return false;
            }
            self.expand(at, &world);
            if limits.until.is_some_and(|promise| self.broken.contains_key(&promise)) {
                return false;
            }
        }
        true
    }

    fn expand(&mut self, at: u32, world: &World) {
        for promise in Promise::OF_A_WORLD {
            if !self.broken.contains_key(&promise)
                && let Some(why) = promise.broken(world)
            {
                self.broken.insert(promise, (at, why));
            }
        }
        for (number, (class, event)) in world.events().into_iter().enumerate() {
            let next = happens(world, class, event, &mut Log::off());
            self.transitions += 1;
            let to = self.see(next, at, number as u16);
            if !matches!(class, Class::Fault(_)) {
                self.onward.add(at, to);
            }
        }
    }

    fn see(&mut self, world: World, parent: u32, event: u16) -> u32 {
        let number = self.nodes.len() as u32;
        match self.seen.entry(fingerprint::of(&world)) {
            std::collections::hash_map::Entry::Occupied(known) => return *known.get(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(number),
        };
        let moved = world.primary.outcome() == Some(&primary::Outcome::Moved);
        self.moved += usize::from(moved && world.at_secondary.live.is_some());
        self.takeovers += usize::from(world.at_secondary.live.is_some());
        self.nodes.push(Node { parent, event, good: is_served(&world) || is_excused(&world) });
        self.todo.push_back((number, world));
        number
    }

    fn look_ahead(&mut self) {
        let reaches = self.onward.reaches(self.nodes.len(), |node| self.nodes[node].good);
        if let Some(node) = reaches.iter().position(|reaches| !reaches) {
            let why = "nothing fails any more, and the guest comes to be served nowhere";
            self.broken.insert(Promise::Served, (node as u32, why));
        }
    }

    fn trace(&self, node: u32) -> Trace {
        let mut numbers = Vec::new();
        let mut at = node;
        while at != 0 {
            numbers.push(self.nodes[at as usize].event);
            at = self.nodes[at as usize].parent;
        }
        let mut world = World::new(self.scenario);
        let steps = numbers.into_iter().rev().map(|number| {
            let (class, event) = world.events()[number as usize];
            let mut log = Log::on();
            world = happens(&world, class, event, &mut log);
            (event, log.did)
        });
        Trace(steps.collect())
    }
}

fn happens(world: &World, class: Class, event: Event, log: &mut Log) -> World {
    let mut next = world.clone();
    if let Class::Fault(fault) = class {
        next.budget.spend(fault);
    }
    next.apply(event, log);
    next
}
