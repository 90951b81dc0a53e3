//! The dependencies between committed transactions, and the cycles in them.
//!
//! Real time alone would be a quadratic number of dependencies. So it has nodes of its own: moments, each
//! after the one before it; a transaction points to the first moment after its end, and the last moment
//! before its beginning points to it. Moments cost nothing in the length of a cycle.

use std::collections::VecDeque;

use crate::history::{History, NEVER, Ticket, number};
use crate::versions::{VersionId, Versions};
use crate::violation::Anomaly;

/// How one transaction depends on another; see the crate's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Ww,
    Wr,
    Rw,
    Rt,
}

impl Kind {
    fn bit(self) -> u8 {
        1 << self as u8
    }
}

const WW: u8 = 1;
const WW_WR: u8 = 3;
const DATA: u8 = 7;
const ALL: u8 = 15;

#[derive(Debug, Clone, Copy)]
struct Edge {
    from: u32,
    to: u32,
    kind: Kind,
    /// The later version: the one read (`wr`) or the one that overwrote.
    version: VersionId,
}

/// One dependency of a cycle: from this transaction to that of the next link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub(crate) from: Ticket,
    pub(crate) kind: Kind,
    /// As in the graph; nothing for real time.
    pub(crate) version: Option<VersionId>,
}

/// How many steps the search for the shortest cycle may take, so that a history that is wrong everywhere
/// is told as quickly as one that is wrong in one place.
const STEPS_MAX: usize = 30_000_000;

#[derive(Debug)]
pub(crate) struct Graph {
    edges: Vec<Edge>,
    /// Where the edges of each node begin.
    starts: Vec<u32>,
    transactions: u32,
    dependencies: usize,
}

impl Graph {
    pub(crate) fn new(history: &History, versions: &Versions) -> Self {
        let mut edges = data_edges(versions);
        let dependencies = edges.len();
        let transactions = number(history.transactions.len());
        let nodes = transactions + add_moments(history, versions, &mut edges);
        // Sorted by where they begin, by counting.
        let mut starts = vec![0_u32; nodes as usize + 1];
        for edge in &edges {
            starts[edge.from as usize + 1] += 1;
        }
        for index in 1..starts.len() {
            starts[index] += starts[index - 1];
        }
        let mut free = starts.clone();
        let mut sorted = edges.clone();
        for edge in edges {
            let place = &mut free[edge.from as usize];
            sorted[*place as usize] = edge;
            *place += 1;
        }
        Self { edges: sorted, starts, transactions, dependencies }
    }

    pub(crate) fn dependencies(&self) -> usize {
        self.dependencies
    }

    fn nodes(&self) -> usize {
        self.starts.len() - 1
    }

    fn from(&self, node: u32) -> &[Edge] {
        &self.edges[self.starts[node as usize] as usize..self.starts[node as usize + 1] as usize]
    }

    /// A shortest cycle of the worst kind there is.
    pub(crate) fn worst_cycle(&self) -> Option<(Anomaly, Vec<Link>)> {
        // The usual answer takes one pass.
        self.components(ALL)?;
        let shortest = |kinds: u8| {
            let components = self.components(kinds)?;
            let mut starts: Vec<u32> =
                (0..self.transactions).filter(|node| components.in_cycle(*node)).collect();
            // Small components have the short cycles.
            starts.sort_by_key(|node| components.size(*node));
            self.shortest(&components, kinds, &starts)
        };
        if let Some(cycle) = shortest(WW) {
            return Some((Anomaly::DirtyWrite, cycle));
        }
        if let Some(cycle) = shortest(WW_WR) {
            return Some((Anomaly::CircularInformation, cycle));
        }
        if let Some(cycle) = self.single_rw() {
            return Some((Anomaly::ReadSkew, cycle));
        }
        if let Some(cycle) = shortest(DATA) {
            return Some((Anomaly::WriteSkew, cycle));
        }
        shortest(ALL).map(|cycle| (Anomaly::RealTime, cycle))
    }

    /// A shortest cycle with exactly one `rw`.
    fn single_rw(&self) -> Option<Vec<Link>> {
        let components = self.components(DATA)?;
        let mut search = Search::new(self.nodes());
        let mut best: Option<Vec<Edge>> = None;
        for edge in self.edges.iter().filter(|edge| edge.kind == Kind::Rw) {
            if !components.together(edge.from, edge.to) {
                continue;
            }
            let limit = best.as_ref().map_or(u32::MAX, |best| number(best.len()) - 1);
            if let Some(mut path) = search.path(self, &components, WW_WR, edge.to, edge.from, limit)
            {
                path.insert(0, *edge);
                best = Some(path);
            }
            if search.steps > STEPS_MAX {
                break;
            }
        }
        best.map(|best| self.links(&best))
    }

    fn shortest(&self, components: &Components, kinds: u8, starts: &[u32]) -> Option<Vec<Link>> {
        let mut search = Search::new(self.nodes());
        let mut best: Option<Vec<Edge>> = None;
        let mut length = u32::MAX;
        for start in starts {
            if let Some(path) = search.path(self, components, kinds, *start, *start, length) {
                length = number(path.iter().filter(|edge| edge.from < self.transactions).count());
                best = Some(path);
            }
            if length == 2 || search.steps > STEPS_MAX {
                break;
            }
        }
        best.map(|best| self.links(&best))
    }

    /// Without the moments.
    fn links(&self, path: &[Edge]) -> Vec<Link> {
        path.iter()
            .filter(|edge| edge.from < self.transactions)
            .map(|edge| Link {
                from: Ticket(edge.from),
                kind: edge.kind,
                version: (edge.kind != Kind::Rt).then_some(edge.version),
            })
            .collect()
    }

    /// The strongly connected components by these dependencies (Tarjan 1972); nothing when there is no
    /// cycle.
    fn components(&self, kinds: u8) -> Option<Components> {
        const UNSEEN: u32 = u32::MAX;
        let nodes = self.nodes();
        let mut index = vec![UNSEEN; nodes];
        let mut low = vec![0_u32; nodes];
        let mut component = vec![UNSEEN; nodes];
        let mut sizes = Vec::new();
        let mut stack = Vec::new();
        // The nodes on the way down, each with the next of its edges.
        let mut way: Vec<(u32, u32)> = Vec::new();
        let mut count = 0_u32;
        let mut cyclic = false;
        for root in 0..number(nodes) {
            if index[root as usize] != UNSEEN {
                continue;
            }
            way.push((root, self.starts[root as usize]));
            while let Some((node, next)) = way.last_mut() {
                let at = *node as usize;
                if *next == self.starts[at] && index[at] == UNSEEN {
                    index[at] = count;
                    low[at] = count;
                    count += 1;
                    stack.push(*node);
                }
                if *next < self.starts[at + 1] {
                    let edge = self.edges[*next as usize];
                    *next += 1;
                    let to = edge.to as usize;
                    if edge.kind.bit() & kinds == 0 {
                        continue;
                    }
                    if index[to] == UNSEEN {
                        way.push((edge.to, self.starts[to]));
                    } else if component[to] == UNSEEN {
                        low[at] = low[at].min(index[to]);
                    }
                    continue;
                }
                let done = *node;
                way.pop();
                if low[at] == index[at] {
                    let mut size = 0_u32;
                    while let Some(member) = stack.pop() {
                        component[member as usize] = number(sizes.len());
                        size += 1;
                        if member == done {
                            break;
                        }
                    }
                    sizes.push(size);
                    cyclic |= size > 1;
                }
                if let Some((above, _)) = way.last() {
                    let above = *above as usize;
                    low[above] = low[above].min(low[at]);
                }
            }
        }
        cyclic.then_some(Components { component, sizes })
    }
}

#[derive(Debug)]
struct Components {
    component: Vec<u32>,
    sizes: Vec<u32>,
}

impl Components {
    fn size(&self, node: u32) -> u32 {
        self.sizes[self.component[node as usize] as usize]
    }

    fn in_cycle(&self, node: u32) -> bool {
        self.size(node) > 1
    }

    fn together(&self, one: u32, other: u32) -> bool {
        self.component[one as usize] == self.component[other as usize]
    }
}

/// Shortest paths, one after the other, in the same memory.
struct Search {
    /// The search that reached a node last.
    seen: Vec<u32>,
    distance: Vec<u32>,
    reached_by: Vec<Option<Edge>>,
    queue: VecDeque<u32>,
    round: u32,
    steps: usize,
}

impl Search {
    fn new(nodes: usize) -> Self {
        Self {
            seen: vec![0; nodes],
            distance: vec![0; nodes],
            reached_by: vec![None; nodes],
            queue: VecDeque::new(),
            round: 0,
            steps: 0,
        }
    }

    /// A shortest path of at least one edge inside a component, if it is shorter than `limit`.
    fn path(
        &mut self,
        graph: &Graph,
        components: &Components,
        kinds: u8,
        from: u32,
        to: u32,
        limit: u32,
    ) -> Option<Vec<Edge>> {
        self.round += 1;
        self.queue.clear();
        self.queue.push_back(from);
        let mut found: Option<(u32, Edge)> = None;
        self.distance[from as usize] = 0;
        // The start is not marked as seen: a cycle comes back to it.
        while let Some(node) = self.queue.pop_front() {
            let distance = self.distance[node as usize];
            // Moments are free, what comes from a transaction counts.
            let cost = u32::from(node < graph.transactions);
            let bound = found.map_or(limit, |(length, _)| length);
            if distance + cost >= bound {
                continue;
            }
            for edge in graph.from(node) {
                self.steps += 1;
                if edge.kind.bit() & kinds == 0 || !components.together(node, edge.to) {
                    continue;
                }
                let at = edge.to as usize;
                if edge.to == to {
                    if found.is_none_or(|(length, _)| distance + cost < length) {
                        found = Some((distance + cost, *edge));
                    }
                    continue;
                }
                if edge.to == from
                    || self.seen[at] == self.round && self.distance[at] <= distance + cost
                {
                    continue;
                }
                self.seen[at] = self.round;
                self.distance[at] = distance + cost;
                self.reached_by[at] = Some(*edge);
                if cost == 0 {
                    self.queue.push_front(edge.to);
                } else {
                    self.queue.push_back(edge.to);
                }
            }
        }
        let (_, last) = found?;
        let mut path = vec![last];
        let mut node = last.from;
        while node != from {
            let edge = self.reached_by[node as usize]?;
            path.push(edge);
            node = edge.from;
        }
        path.reverse();
        Some(path)
    }
}

/// `ww`, `wr` and `rw`.
fn data_edges(versions: &Versions) -> Vec<Edge> {
    let mut edges = Vec::with_capacity(versions.readers.len() * 2 + versions.all.len());
    let mut add = |from: Option<Ticket>, to: Option<Ticket>, kind: Kind, version: VersionId| {
        if let (Some(from), Some(to)) = (from, to)
            && from != to
        {
            edges.push(Edge { from: from.0, to: to.0, kind, version });
        }
    };
    for (id, version) in versions.all.iter().enumerate() {
        let previous = version.previous.map(|previous| &versions.all[previous as usize]);
        add(previous.and_then(|previous| previous.writer), version.writer, Kind::Ww, number(id));
    }
    for (read, reader) in &versions.readers {
        let version = &versions.all[*read as usize];
        add(version.writer, Some(*reader), Kind::Wr, *read);
        if let Some(next) = version.next {
            add(Some(*reader), versions.all[next as usize].writer, Kind::Rw, next);
        }
    }
    edges
}

/// Real time. Returns how many moments it takes.
fn add_moments(history: &History, versions: &Versions, edges: &mut Vec<Edge>) -> u32 {
    let transactions = number(history.transactions.len());
    let mut events = Vec::with_capacity(2 * history.transactions.len());
    for (index, transaction) in history.transactions.iter().enumerate() {
        if versions.has_committed(index) {
            events.push((transaction.begun, number(index), false));
            if transaction.ended != NEVER {
                events.push((transaction.ended, number(index), true));
            }
        }
    }
    events.sort_unstable();
    let mut moments = 0;
    let mut begun_since = true;
    for (_, transaction, is_end) in events {
        let (from, to) = match is_end {
            false => {
                begun_since = true;
                if moments == 0 {
                    continue;
                }
                (transactions + moments - 1, transaction)
            }
            true => {
                if begun_since {
                    let moment = transactions + moments;
                    if moments > 0 {
                        edges.push(Edge {
                            from: moment - 1,
                            to: moment,
                            kind: Kind::Rt,
                            version: 0,
                        });
                    }
                    moments += 1;
                    begun_since = false;
                }
                (transaction, transactions + moments - 1)
            }
        };
        edges.push(Edge { from, to, kind: Kind::Rt, version: 0 });
    }
    moments
}
