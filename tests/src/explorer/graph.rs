//! What can still come: which worlds cannot reach a good one any more.

/// An edge list of an explored graph, and backward reachability over it.
#[derive(Debug, Default)]
pub struct Graph {
    edges: Vec<(u32, u32)>,
}

impl Graph {
    /// Adds an edge.
    pub fn add(&mut self, from: u32, to: u32) {
        if from != to {
            self.edges.push((from, to));
        }
    }

    /// How many edges there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.edges.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.edges.is_empty()
    }

    /// For each node, whether it can reach one of those that `good` holds for.
    #[must_use]
    pub fn reaches(&self, nodes: usize, good: impl Fn(usize) -> bool) -> Vec<bool> {
        // Where the edges that end in a node begin, in one array.
        let mut starts = vec![0u32; nodes + 1];
        for (_, to) in &self.edges {
            starts[*to as usize + 1] += 1;
        }
        for node in 0..nodes {
            starts[node + 1] += starts[node];
        }
        let mut next = starts.clone();
        let mut sources = vec![0u32; self.edges.len()];
        for (from, to) in &self.edges {
            sources[next[*to as usize] as usize] = *from;
            next[*to as usize] += 1;
        }
        let mut reached: Vec<bool> = (0..nodes).map(&good).collect();
        let mut todo: Vec<u32> = (0..nodes as u32).filter(|node| reached[*node as usize]).collect();
        while let Some(node) = todo.pop() {
            let (begin, end) = (starts[node as usize] as usize, starts[node as usize + 1] as usize);
            for from in &sources[begin..end] {
                if !reached[*from as usize] {
                    reached[*from as usize] = true;
                    todo.push(*from);
                }
            }
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_leads_to_a_good_end_and_what_does_not() {
        let mut graph = Graph::default();
        for (from, to) in [(0, 1), (1, 2), (0, 3), (3, 4), (4, 3), (2, 2)] {
            graph.add(from, to);
        }
        assert_eq!(graph.reaches(5, |node| node == 2), [true, true, true, false, false]);
        assert_eq!(graph.len(), 5);
    }
}
