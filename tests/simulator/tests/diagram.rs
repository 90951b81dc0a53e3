//! The space-time diagram and the log of recorded runs, on made-up ones.

use std::collections::{BTreeMap, BTreeSet};

use handfast_commit_core::id::{Epoch, Protocol, Sequence, Slot, TransactionId};
use handfast_simulator::diagram::{View, render};
use handfast_simulator::trace::{EventKind, Fate, ProcessId, Recorder, Role, SyncEnd, Told, Trace};

const CLIENT: ProcessId = ProcessId(0);
const COORDINATOR: ProcessId = ProcessId(1);
const STORES: [ProcessId; 3] = [ProcessId(2), ProcessId(3), ProcessId(4)];

fn id(epoch: u64, sequence: u64) -> TransactionId {
    TransactionId::new(Slot(7), Protocol::TwoPhase, Epoch(epoch), Sequence(sequence))
}

fn lanes() -> Trace {
    let mut trace = Trace::default();
    trace.lane(CLIENT, Role::Client, "client");
    trace.lane(COORDINATOR, Role::Coordinator, "coordinator");
    for (store, name) in STORES.into_iter().zip(["store-a", "store-b", "store-c"]) {
        trace.lane(store, Role::Participant, name);
    }
    trace
}

/// A commit whose coordinator dies between the decision and its delivery, with a message lost, one
/// doubled, a failed sync and a pause on the way.
fn story() -> Trace {
    let mut trace = lanes();
    let t = id(3, 17);
    let ask = trace.sent(1_000, CLIENT, COORDINATOR, None, "execute");
    trace.delivered(ask, 1_420);
    trace.concerns(ask, t);
    trace.step(1_420, COORDINATOR, Some(t), "execute");
    for (nth, store) in (0..).zip(STORES) {
        let prepare = trace.sent(1_420, COORDINATOR, store, Some(t), "PREPARE");
        trace.delivered(prepare, 1_800 + 140 * nth);
        trace.step(1_800 + 140 * nth, store, Some(t), "prepare");
        let sync = trace.sync_began(1_800 + 140 * nth, store, [t], "PREPARED");
        trace.sync_ended(sync, 3_000 + 300 * nth, SyncEnd::Durable);
        let vote = trace.sent(3_000 + 300 * nth, store, COORDINATOR, Some(t), "vote prepared");
        if nth == 2 {
            trace.lost(vote, 3_700, "the session was cut");
        } else {
            trace.delivered(vote, 3_500 + 300 * nth);
        }
    }
    trace.pause(3_900, STORES[0], 12_000);
    trace.fault(3_700, Some(STORES[2]), "session cut");
    let prepare = trace.sent(6_000, COORDINATOR, STORES[2], Some(t), "PREPARE");
    trace.delivered(prepare, 6_500);
    trace.delivered(prepare, 7_600);
    for at in [6_500, 7_600] {
        let vote = trace.sent(at, STORES[2], COORDINATOR, Some(t), "vote prepared");
        trace.delivered(vote, at + 450);
    }
    let sync = trace.sync_began(6_950, COORDINATOR, [t], "COMMIT");
    trace.sync_ended(sync, 8_300, SyncEnd::Durable);
    let answer = trace.sent(8_300, COORDINATOR, CLIENT, Some(t), "committed");
    trace.delivered(answer, 8_700);
    trace.told(8_700, CLIENT, Some(t), Told::Committed, "");
    for (nth, store) in (0..).zip(STORES) {
        let commit = trace.sent(8_300, COORDINATOR, store, Some(t), "COMMIT");
        if nth == 1 {
            trace.delivered(commit, 8_900);
            let sync = trace.sync_began(8_900, store, [t], "COMMITTED");
            trace.sync_ended(sync, 9_700, SyncEnd::Failed);
            trace.crash(9_700, store, "failed sync");
        } else {
            trace.lost(commit, 8_500, "the coordinator died");
        }
    }
    trace.crash(8_500, COORDINATOR, "kill, disk Kept");
    trace.restart(260_000, COORDINATOR, "epoch 4");
    trace.restart(262_000, STORES[1], "in doubt: 1");
    trace.clock_jump(261_000, STORES[2], -3_600_000);
    for (nth, store) in (0..).zip(STORES) {
        let commit = trace.sent(263_000, COORDINATOR, store, Some(t), "COMMIT");
        trace.delivered(commit, 263_500 + 90 * nth);
        let sync = trace.sync_began(263_500 + 90 * nth, store, [t], "COMMITTED");
        trace.sync_ended(sync, 264_200 + 90 * nth, SyncEnd::Durable);
        let done = trace.sent(264_200 + 90 * nth, store, COORDINATOR, Some(t), "committed");
        trace.delivered(done, 264_600 + 90 * nth);
    }
    trace.note(264_780, Some(COORDINATOR), Some(t), "forgotten");
    trace
}

/// Many transactions at once, from several clients, with some of everything.
fn crowd(seed: u64, transactions: u64) -> Trace {
    let mut state = seed;
    let mut draw = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut trace = Trace::default();
    let clients: Vec<ProcessId> = (0..3).map(ProcessId).collect();
    let coordinator = ProcessId(3);
    let stores: Vec<ProcessId> = (4..8).map(ProcessId).collect();
    for client in &clients {
        trace.lane(*client, Role::Client, format!("client-{}", client.0));
    }
    trace.lane(coordinator, Role::Coordinator, "coordinator");
    for store in &stores {
        trace.lane(*store, Role::Participant, format!("store-{}", store.0 - 3));
    }
    for number in 0..transactions {
        let t = id(1, number);
        let client = clients[draw(3) as usize];
        let mut at = number * 700 + draw(500);
        let ask = trace.sent(at, client, coordinator, Some(t), "execute");
        at += 200 + draw(300);
        trace.delivered(ask, at);
        let mut voted = at;
        let first = draw(4);
        for nth in 0..1 + draw(4) {
            let store = stores[((first + nth) % 4) as usize];
            let prepare = trace.sent(at, coordinator, store, Some(t), "PREPARE");
            if draw(8) == 0 {
                trace.lost(prepare, at + draw(200), "link");
                continue;
            }
            let there = at + 200 + draw(400);
            trace.delivered(prepare, there);
            if draw(12) == 0 {
                trace.delivered(prepare, there + draw(800));
            }
            let sync = trace.sync_began(there, store, [t], "PREPARED");
            let synced = there + 300 + draw(900);
            trace.sync_ended(sync, synced, SyncEnd::Durable);
            let vote = trace.sent(synced, store, coordinator, Some(t), "vote prepared");
            let arrived = synced + 150 + draw(300);
            trace.delivered(vote, arrived);
            voted = voted.max(arrived);
        }
        let (outcome, message) = match draw(4) {
            0 => (Told::Aborted, "aborted: not enough money"),
            1 => (Told::Unknown, "outcome unknown"),
            _ => (Told::Committed, "committed"),
        };
        let answer = trace.sent(voted, coordinator, client, Some(t), message);
        trace.delivered(answer, voted + 250);
        trace.told(voted + 250, client, Some(t), outcome, "");
        if draw(10) == 0 {
            let victim = ProcessId(3 + draw(5) as u32);
            trace.crash(voted + 300, victim, "kill");
            trace.restart(voted + 1_700, victim, "");
        }
        if draw(10) == 0 {
            trace.fault(voted + 100, None, "partition: coordinator | store-2, store-3");
        }
    }
    trace
}

/// A run of nonsense: any event at any time, in any order, with labels that XML cannot hold.
fn nonsense(seed: u64, events: u64) -> Trace {
    let mut state = seed;
    let mut draw = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let texts = ["", "<b>&\"'", "a\u{0}b\u{1b}[0m", "]]>", "\u{ffff}\u{202e}é", "two\nlines", "--"];
    let mut trace = Trace::default();
    trace.lane(ProcessId(1), Role::Coordinator, "<&\u{7}>");
    let mut refs = Vec::new();
    for _ in 0..events {
        let at = if draw(50) == 0 { u64::MAX - draw(3) } else { draw(events * 50) };
        let process = ProcessId([0, 1, 2, 3, u32::MAX][draw(5) as usize]);
        let to = ProcessId(draw(4) as u32);
        let about = (draw(3) > 0).then(|| id(draw(3), draw(9)));
        let text = texts[draw(7) as usize];
        let later = at.saturating_add(draw(5_000));
        match draw(14) {
            0..=2 => refs.push(trace.sent(at, process, to, about, text)),
            3 => refs.push(trace.sync_began(at, process, about, text)),
            4 => trace.crash(at, process, text),
            5 => trace.restart(at, process, text),
            6 => trace.pause(at, process, later),
            7 => trace.clock_jump(at, process, -(draw(9) as i64)),
            8 => trace.fault(at, (draw(2) == 0).then_some(process), text),
            9 => refs.push(trace.step(at, process, about, text)),
            10 => trace.told(at, process, about, Told::Unknown, text),
            11 => trace.note(at, (draw(2) == 0).then_some(process), about, text),
            12 if draw(4) == 0 => trace.violation(at, Some(process), about, text),
            _ => {
                if let Some(any) = refs.get(draw(refs.len().max(1) as u64) as usize).copied() {
                    match draw(4) {
                        0 => trace.delivered(any, later),
                        1 => trace.lost(any, later, text),
                        2 => trace.sync_ended(any, later, SyncEnd::Cut),
                        _ => trace.concerns(any, id(0, 0)),
                    }
                }
            }
        }
    }
    trace
}

/// Complains about text that is no XML: unbalanced elements, bare `&` and `<`, forbidden characters.
fn demand_xml(text: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['<', '&']) {
        let from = &rest[at..];
        if let Some(entity) = from.strip_prefix('&') {
            let (name, _) = entity.split_once(';').expect("an entity ends");
            assert!(["amp", "lt", "gt", "quot", "#39"].contains(&name), "&{name};");
            rest = entity;
            continue;
        }
        let (tag, after) = from[1..].split_once('>').expect("a tag ends");
        assert!(!tag.contains('<'), "{tag}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name = tag.split([' ', '\n']).next().expect("split gives at least one part");
        match tag.strip_prefix('/') {
            Some(closed) => assert_eq!(open.pop(), Some(closed)),
            None if tag.ends_with('/') => {}
            None => open.push(name),
        }
        rest = after;
    }
    assert!(open.is_empty(), "{open:?}");
    let forbidden = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{fffe}' | '\u{ffff}');
    assert_eq!(text.find(forbidden), None);
}

/// The corner and the size of every rectangle of a class.
fn rectangles(svg: &str, class: &str) -> Vec<[f64; 4]> {
    let wanted = format!("class=\"{class}\"");
    svg.lines()
        .filter(|line| line.starts_with("<rect ") && line.contains(&wanted))
        .map(|line| ["x", "y", "width", "height"].map(|name| number(line, name)))
        .collect()
}

fn number(element: &str, name: &str) -> f64 {
    let (_, value) = element.split_once(&format!(" {name}=\"")).expect("the attribute is there");
    value.split('"').next().and_then(|value| value.parse().ok()).expect("it is a number")
}

/// How many pairs overlap by more than a pixel.
fn overlaps(areas: &[[f64; 4]]) -> usize {
    let clash = |a: &[f64; 4], b: &[f64; 4]| {
        let across = (a[0] + a[2]).min(b[0] + b[2]) - a[0].max(b[0]);
        let down = (a[1] + a[3]).min(b[1] + b[3]) - a[1].max(b[1]);
        across > 1.0 && down > 1.0
    };
    (0..areas.len()).map(|i| areas[..i].iter().filter(|b| clash(&areas[i], b)).count()).sum()
}

fn all(trace: &Trace) -> String {
    render(trace, &View { events_max: usize::MAX, ..View::default() })
}

fn has(svg: &str, what: &str) -> usize {
    svg.matches(what).count()
}

#[test]
fn labels_can_be_read() {
    for (trace, allowed) in [(story(), 0), (crowd(1, 60), 0), (crowd(2, 400), 4)] {
        let svg = all(&trace);
        let mut areas = rectangles(&svg, "plate");
        for class in ["chip", "f-good", "f-bad", "f-off"] {
            areas.extend(rectangles(&svg, class));
        }
        assert!(areas.len() > 40);
        let clashes = overlaps(&areas);
        assert!(clashes <= allowed, "{clashes} of {} labels overlap", areas.len());
        let width = number(&svg, "width");
        assert!(areas.iter().all(|area| area[0] >= 0.0 && area[0] + area[2] <= width));
    }
}

#[test]
fn a_busy_lane_gets_a_row_for_each_label() {
    let mut trace = lanes();
    for at in 0..60 {
        trace.note(at, Some(COORDINATOR), None, format!("the {at}th of sixty"));
        trace.fault(at / 4, Some(STORES[2]), "at one moment");
    }
    let plates = rectangles(&all(&trace), "plate");
    assert_eq!((plates.len(), overlaps(&plates)), (120, 0));
}

#[test]
fn labels_that_overlap_are_seen() {
    assert_eq!(
        overlaps(&[[0.0, 0.0, 50.0, 13.0], [40.0, 5.0, 50.0, 13.0], [0.0, 20.0, 50.0, 13.0]]),
        1
    );
}

#[test]
fn time_runs_down() {
    let mut above = (0.0, 0.0);
    let svg = all(&crowd(3, 200));
    let mut moments = 0;
    for line in svg.lines().filter(|line| line.contains("class=\"faint end\"")) {
        let (_, text) = line.split_once('>').expect("an element has an end");
        let Ok(at) = text.trim_end_matches("</text>").parse::<f64>() else { continue };
        let here = (number(line, "y"), at);
        assert!(above.0 < here.0 && above.1 < here.1, "{above:?} {here:?}");
        above = here;
        moments += 1;
    }
    assert!(moments > 50);
    // No message arrives above where it left.
    let shafts = svg.lines().filter(|line| line.starts_with("<line") && line.contains("\"s-t"));
    for line in shafts {
        assert!(number(line, "y1") <= number(line, "y2"), "{line}");
    }
}

#[test]
fn every_kind_of_event_has_its_sign() {
    let mut trace = story();
    trace.violation(264_000, Some(CLIENT), Some(id(3, 17)), "not conserved");
    let svg = all(&trace);
    let shown = |kind: fn(&EventKind) -> bool| {
        trace.events().iter().filter(|event| kind(&event.kind)).count()
    };
    let messages = shown(|kind| matches!(kind, EventKind::Message { .. }));
    let lost = shown(|kind| matches!(kind, EventKind::Message { fate: Fate::Lost { .. }, .. }));
    let crashes = shown(|kind| matches!(kind, EventKind::Crash(_)));
    // A cross is two lines; the legend has one of each sign, too.
    assert_eq!(has(&svg, "s-bad thick"), 2 * (lost + crashes + 2));
    // One tooltip at the line and one at the label.
    assert_eq!(has(&svg, " sends "), 2 * messages);
    assert_eq!(has(&svg, "class=\"s-plain dash\""), 2);
    assert_eq!(has(&svg, " is down</title>"), crashes);
    assert_eq!(has(&svg, ">COMMITTED</text>"), 1 + 3);
    for (sign, count) in [
        ("class=\"band-bad\"", 1),
        ("class=\"pause\"", 2),
        ("nothing for 248.000 ms", 1),
        (">failed: COMMITTED<", 1),
        (">clock -3600000 ms<", 1),
        (">session cut<", 1),
        (">time cut short<", 1),
    ] {
        assert_eq!(has(&svg, sign), count, "{sign}");
    }
}

#[test]
fn any_trace_gives_a_picture() {
    for seed in 0..60 {
        let trace = nonsense(seed, seed * 7);
        for view in [
            View::default(),
            View { transaction: Some(id(1, 3)), ..View::default() },
            View { from: Some(900), to: Some(2_000), title: "<&>".to_owned(), ..View::default() },
            View { from: Some(u64::MAX), to: Some(0), events_max: 0, ..View::default() },
        ] {
            demand_xml(&render(&trace, &view));
        }
        assert_eq!(trace.log().lines().count(), trace.events().len());
    }
    for svg in [all(&story()), all(&crowd(1, 50))] {
        demand_xml(&svg);
    }
}

#[test]
fn text_is_escaped() {
    let mut trace = lanes();
    trace.fault(5, Some(CLIENT), "<script>&\"'\u{0}");
    let svg = all(&trace);
    assert_eq!(has(&svg, "&lt;script&gt;&amp;&quot;&#39;"), 3, "a label and two tooltips");
    assert_eq!(has(&svg, "<script"), 0);
    let mut trace = lanes();
    trace.fault(5, Some(CLIENT), "two\nlines");
    assert_eq!(has(&all(&trace), ">two lines</text>"), 1);
}

#[test]
fn one_transaction_is_shown_with_its_processes_only() {
    let trace = crowd(4, 100);
    let wanted = id(1, 42);
    let svg = render(&trace, &View { transaction: Some(wanted), ..View::default() });
    let mut ids: BTreeMap<String, usize> = BTreeMap::new();
    for number in 0..100 {
        ids.insert(id(1, number).to_string(), has(&svg, &id(1, number).to_string()));
    }
    ids.retain(|_, count| *count > 0);
    assert_eq!(ids.keys().cloned().collect::<Vec<_>>(), [wanted.to_string()]);
    let mut touched = BTreeSet::new();
    for event in trace.events().iter().filter(|event| event.about.contains(&wanted)) {
        touched.extend(event.process);
        if let EventKind::Message { to, .. } = &event.kind {
            touched.insert(*to);
        }
    }
    assert!(touched.len() < trace.lanes().count());
    assert_eq!(rectangles(&svg, "chip").len(), touched.len());
}

#[test]
fn a_stretch_of_time_is_shown() {
    let trace = crowd(5, 100);
    let svg = render(&trace, &View { from: Some(20_000), to: Some(22_000), ..View::default() });
    assert_eq!(has(&svg, "execute 1.29"), 1);
    assert_eq!(has(&svg, "execute 1.20") + has(&svg, "execute 1.40"), 0);
    let few = render(&trace, &View { events_max: 10, ..View::default() });
    assert_eq!(has(&few, " 10 events, "), 2);
}

#[test]
fn what_led_to_the_violation_is_shown() {
    let mut trace = crowd(6, 200);
    trace.violation(70_000, None, None, "the books do not balance");
    let svg = render(&trace, &View { events_max: 50, ..View::default() });
    assert_eq!(has(&svg, "class=\"band-bad\""), 1);
    assert_eq!(has(&svg, ">VIOLATION: the books do not balance</text>"), 1);
    // Of a transaction: nothing but the transaction.
    let mut trace = crowd(6, 200);
    trace.violation(70_000, None, Some(id(1, 90)), "told otherwise");
    let svg = render(&trace, &View::default());
    assert_eq!(has(&svg, "transaction 0007-02-0000000001-000000000000005a"), 2);
}

#[test]
fn a_transaction_without_end_is_shown_with_its_beginning_and_its_violation() {
    let mut trace = lanes();
    let t = id(1, 1);
    for nth in 0..5_000 {
        let ask = trace.sent(nth * 1_000, CLIENT, COORDINATOR, Some(t), format!("attempt {nth}"));
        trace.delivered(ask, nth * 1_000 + 400);
    }
    trace.violation(5_000_000, None, Some(t), "does not end");
    let svg = render(&trace, &View { events_max: 100, ..View::default() });
    for (label, count) in
        [("attempt 0", 1), ("attempt 49", 1), ("attempt 50", 0), ("attempt 4950", 0)]
    {
        assert_eq!(has(&svg, &format!(">{label}</text>")), count, "{label}");
    }
    assert_eq!(has(&svg, ">attempt 4951</text>") + has(&svg, ">attempt 4999</text>"), 2);
    assert_eq!(has(&svg, ">4901 events in 4901.600 ms are not drawn</text>"), 1);
    assert_eq!(has(&svg, "VIOLATION: does not end</text>"), 1);
    // Few are left out, in a time that would not be cut short by itself.
    let svg = render(&trace, &View { events_max: 4_998, ..View::default() });
    assert_eq!(has(&svg, ">3 events in 3.600 ms are not drawn</text>"), 1);
}

#[test]
fn equal_runs_have_equal_pictures_logs_and_digests() {
    let (one, same, other) = (crowd(7, 50), crowd(7, 50), crowd(8, 50));
    assert_eq!(all(&one), all(&same));
    assert_eq!(one.log(), same.log());
    assert_eq!(one.digest(), same.digest());
    assert_ne!(one.digest(), other.digest());
    let mut renamed = one.clone();
    renamed.lane(ProcessId(99), Role::Client, "one that does nothing");
    assert_ne!(one.digest(), renamed.digest());
}

#[test]
fn the_log_is_a_line_per_event() {
    let mut trace = lanes();
    let t = id(1, 2);
    let prepare = trace.sent(1_500, COORDINATOR, STORES[0], Some(t), "PREPARE");
    let sync = trace.sync_began(2_000, STORES[0], [t, id(1, 3)], "PREPARED");
    trace.sync_ended(sync, 2_700, SyncEnd::Durable);
    trace.delivered(prepare, 2_000);
    trace.fault(900, None, "partition\nheals");
    trace.delivered(prepare, 3_000);
    trace.lost(prepare, 4_000, "too late to be lost");
    trace.told(5_000_000, CLIENT, None, Told::Unknown, "");
    let (a, b) = (t, id(1, 3));
    let expected = format!(
        "
      0.900 ms  world           fault: partition heals
      1.500 ms  coordinator     sends PREPARE to store-a, arrives 2.000 ms  {a}
      1.500 ms  coordinator     sends PREPARE again to store-a, arrives 3.000 ms  {a}
      2.000 ms  store-a         syncs PREPARED: durable 2.700 ms  {a}  {b}
   5000.000 ms  client          is told outcome unknown
"
    );
    assert_eq!(trace.log(), expected[1..]);
}

#[test]
fn the_story_of_a_transaction_has_what_happened_to_its_processes() {
    let mut trace = crowd(9, 30);
    trace.crash(9_500, ProcessId(3), "kill");
    let story = trace.story(id(1, 11), 8);
    assert!(story.contains("CRASH: kill"), "{story}");
    let of_others = story
        .lines()
        .filter(|line| line.contains("0007-02-") && !line.ends_with("000000000000000b"));
    assert_eq!(of_others.count(), 0, "{story}");
    assert!(trace.story(id(9, 9), 8).is_empty());
}

#[test]
fn a_recorder_that_is_off_composes_nothing() {
    let mut recorder = Recorder::off();
    let composed = recorder.record(|trace| trace.note(0, None, None, "composed"));
    assert_eq!((composed, recorder.is_on()), (None, false));
    assert!(recorder.into_trace().is_none());
    let mut recorder = Recorder::on();
    recorder.record(|trace| trace.note(0, None, None, "composed"));
    assert_eq!(recorder.trace().map(|trace| trace.events().len()), Some(1));
}
