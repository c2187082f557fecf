//! Breadth first through every interleaving: the first world that breaks a promise is one that the
//! fewest steps lead to.
//!
//! Of a world that was expanded only its fingerprint, its parent and the number of the event that
//! led there are kept; a trace is made by going the way again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::event::{Class, Log};
use super::fingerprint::{self, ByFingerprint};
use super::graph::Graph;
use super::invariants::{Invariant, both_stopped, finishes};
use super::scenario::Scenario;
use super::trace::Trace;
use super::world::World;

/// When to stop before everything was seen.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Give up with [`Report::is_complete`] false after this many worlds.
    pub worlds: usize,
    /// Stop at the first world that breaks this promise.
    pub until: Option<Invariant>,
    /// Also judge what can still come, which needs the whole graph.
    pub look_ahead: bool,
}

impl Limits {
    /// Everything, with at most `worlds` worlds.
    #[must_use]
    pub fn whole(worlds: usize) -> Self {
        Limits { worlds, until: None, look_ahead: true }
    }

    /// Until `invariant` is broken, with at most `worlds` worlds.
    #[must_use]
    pub fn until(invariant: Invariant, worlds: usize) -> Self {
        let look_ahead = !Invariant::OF_A_WORLD.contains(&invariant);
        Limits { worlds, until: Some(invariant), look_ahead }
    }
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
    /// The longest of all shortest ways, in steps.
    pub depth: usize,
    /// How long it took.
    pub elapsed: Duration,
    /// Bytes for what is kept of each world, and edges.
    pub memory_bytes: usize,
    /// Everything within the bounds was seen.
    pub is_complete: bool,
    /// What was broken, with the shortest way for each.
    pub findings: BTreeMap<Invariant, Finding>,
    /// A live pair may stand still until an operator or storage helps, as the invariant allows:
    /// the shortest way there.
    pub waits: Option<Trace>,
}

struct Node {
    parent: u32,
    depth: u32,
    /// Which of the parent's events led here.
    event: u16,
    runs: bool,
    kept: bool,
    good: bool,
}

struct Search<'a> {
    scenario: &'a Scenario,
    limits: Limits,
    nodes: Vec<Node>,
    seen: HashMap<u128, u32, ByFingerprint>,
    todo: VecDeque<(u32, World)>,
    broken: BTreeMap<Invariant, (u32, &'static str)>,
    waits: Option<u32>,
    /// Without operators and healing; with them.
    alone: Graph,
    helped: Graph,
    transitions: usize,
}

/// Explores a scenario.
#[must_use]
pub fn explore(scenario: &Scenario, limits: Limits) -> Report {
    let began = Instant::now();
    let mut search = Search {
        scenario,
        limits,
        nodes: Vec::new(),
        seen: HashMap::default(),
        todo: VecDeque::new(),
        broken: BTreeMap::new(),
        waits: None,
        alone: Graph::default(),
        helped: Graph::default(),
        transitions: 0,
    };
    let is_complete = search.run();
    if is_complete && limits.look_ahead {
        search.look_ahead();
    }
    search.report(began, is_complete)
}

impl Search<'_> {
    fn run(&mut self) -> bool {
        self.see(World::new(self.scenario), 0, 0);
        while let Some((at, world)) = self.todo.pop_front() {
            if self.nodes.len() > self.limits.worlds {
                return false;
            }
            self.expand(at, &world);
            if self.limits.until.is_some_and(|invariant| self.broken.contains_key(&invariant)) {
                return false;
            }
        }
        true
    }

    fn expand(&mut self, at: u32, world: &World) {
        let events = world.events();
        let moves = |class: &Class| matches!(class, Class::Progress | Class::Wait);
        self.check(at, world, !events.iter().any(|(class, _)| moves(class)));
        let mut log = Log::off();
        for (number, (class, event)) in events.into_iter().enumerate() {
            let mut next = world.clone();
            next.apply(self.scenario, event, &mut log);
            self.transitions += 1;
            let to = self.see(next, at, number as u16);
            if self.limits.look_ahead && class != Class::Fault {
                if moves(&class) {
                    self.alone.add(at, to);
                }
                self.helped.add(at, to);
            }
        }
    }

    fn see(&mut self, world: World, parent: u32, event: u16) -> u32 {
        let number = self.nodes.len() as u32;
        let entry = self.seen.entry(fingerprint::of(&world));
        if let std::collections::hash_map::Entry::Occupied(known) = &entry {
            return *known.get();
        }
        entry.or_insert(number);
        let depth = self.nodes.get(parent as usize).map_or(0, |node| node.depth + 1);
        let runs = both_stopped::runs(&world);
        let kept = runs || both_stopped::excused(&world);
        let good = finishes::ended_well(&world);
        self.nodes.push(Node { parent, depth, event, runs, kept, good });
        self.todo.push_back((number, world));
        number
    }

    fn check(&mut self, at: u32, world: &World, quiet: bool) {
        for invariant in Invariant::OF_A_WORLD {
            if !self.broken.contains_key(&invariant)
                && let Some(why) = invariant.broken(world, quiet)
            {
                self.broken.insert(invariant, (at, why));
            }
        }
    }

    fn look_ahead(&mut self) {
        let count = self.nodes.len();
        let runs = self.alone.reaches(count, |node| self.nodes[node].kept);
        if let Some(node) = runs.iter().position(|runs| !runs) {
            let why = "both processes live, and the guest will run on neither side by itself";
            self.broken.insert(Invariant::BothStopped, (node as u32, why));
        }
        let runs = self.alone.reaches(count, |node| self.nodes[node].runs);
        self.waits = (0..count).find(|node| !runs[*node] && self.nodes[*node].kept).map(|node| node as u32);
        let ends = self.helped.reaches(count, |node| self.nodes[node].good);
        if let Some(node) = ends.iter().position(|ends| !ends) {
            let why = "nothing leads to a good end from here any more";
            self.broken.insert(Invariant::Finishes, (node as u32, why));
        }
    }

    fn report(self, began: Instant, is_complete: bool) -> Report {
        let findings = self.broken.iter().map(|(invariant, (node, why))| {
            let look_ahead = !Invariant::OF_A_WORLD.contains(invariant);
            (*invariant, Finding { why, trace: self.trace(*node, look_ahead) })
        });
        let findings = findings.collect();
        let per_world = std::mem::size_of::<Node>() + std::mem::size_of::<(u128, u32)>() * 8 / 7;
        Report {
            worlds: self.nodes.len(),
            transitions: self.transitions,
            depth: self.nodes.last().map_or(0, |node| node.depth as usize),
            elapsed: began.elapsed(),
            memory_bytes: self.nodes.len() * per_world + (self.alone.len() + self.helped.len()) * 8,
            is_complete,
            findings,
            waits: self.waits.map(|node| self.trace(node, true)),
        }
    }

    /// The way to a node, and, where what still comes matters, how it goes on by itself.
    fn trace(&self, node: u32, look_ahead: bool) -> Trace {
        let mut events = Vec::new();
        let mut at = node;
        while at != 0 {
            events.push(self.nodes[at as usize].event);
            at = self.nodes[at as usize].parent;
        }
        events.reverse();
        Trace::replay(self.scenario, &events, look_ahead)
    }
}
