//! Tests of what holds for any tasks on any machine: nothing is promised twice, and nobody waits for ever.

use super::tests::{GIB, ask, cpus, gpu, offered, slots};
use super::*;
use proptest::prelude::*;

/// A part of the first card, to be given back.
fn part(memory: Option<u64>) -> Part {
    Part { position: 0, card: 0, name: String::new(), memory }
}

/// A big task before an endless stream of small ones, one of which ends after each walk: after how many walks does
/// it start? `crowd` is there already.
fn walks_until(slots: &mut Slots, big: Need, small: Need, crowd: usize) -> Option<usize> {
    let mut running: Vec<Share> = (0..crowd).filter_map(|_| ask(slots, small)).collect();
    (1..100).find(|_| {
        let ready = [(TaskId(7), &big), (TaskId(8), &small), (TaskId(9), &small)];
        let started = slots.offer(ready);
        let big_started = started.iter().any(|(id, _)| id.0 == 7);
        running.extend(started.into_iter().map(|(_, share)| share));
        if !running.is_empty() {
            slots.give_back(running.remove(0));
        }
        big_started
    })
}

#[test]
fn a_big_task_is_not_passed_over_for_ever() {
    let memory = |gib| Need { memory: gib * GIB, ..cpus(1) };
    assert!(walks_until(&mut slots(4, 1, &[]), cpus(4), cpus(1), 4).is_some());
    assert!(walks_until(&mut slots(64, 8, &[]), memory(8), memory(1), 8).is_some());
    assert!(walks_until(&mut slots(64, 8, &[(24, 0), (24, 0)]), gpu(None), gpu(Some(5)), 8).is_some());
    let both = Need { cpus: Some(4), ..gpu(None) };
    assert!(walks_until(&mut slots(4, 8, &[(24, 0)]), both, gpu(Some(5)), 4).is_some());
}

#[test]
fn nothing_is_kept_for_who_waits_for_others() {
    let mut slots = slots(4, 8, &[(24, 12)]);
    let waits = Need { cpus: Some(4), ..gpu(Some(20)) };
    for _ in 0..3 * PATIENCE {
        let ready = [(TaskId(0), &waits), (TaskId(1), &gpu(Some(5))), (TaskId(2), &cpus(2))];
        let mut started = slots.offer(ready);
        assert_eq!(started.len(), 2);
        slots.give_back(started.remove(0).1);
        // One of them goes on, so that threads are lacking too.
        assert_eq!(offered(&mut slots, &[waits, cpus(1)]), [1]);
        slots.give_back(Share { threads: 1, ..Share::default() });
        slots.give_back(started.remove(0).1);
    }
}

#[test]
fn what_was_kept_stays_kept_until_the_rest_is_free() {
    let mut slots = slots(8, 8, &[(24, 0)]);
    let (memory, card) = (Need { memory: 5 * GIB, ..cpus(1) }, gpu(None));
    let both = Need { memory: 8 * GIB, ..card };
    let first = ask(&mut slots, memory).unwrap();
    slots.passed.insert(TaskId(0), Passed { times: PATIENCE, ..Passed::default() });
    assert_eq!(offered(&mut slots, &[both, card]), [1]);
    slots.give_back(first);
    // The memory is there now and the card is not: the next one may not take the memory instead.
    assert_eq!(offered(&mut slots, &[both, memory]), [0; 0]);
    slots.give_back(Share { threads: 1, memory: 0, gpus: vec![part(None)] });
    assert_eq!(offered(&mut slots, &[both, memory]), [0]);
}

#[test]
fn what_is_kept_is_only_what_is_lacking() {
    let mut slots = slots(8, 8, &[(24, 0)]);
    let (running, whole) = (ask(&mut slots, gpu(Some(5))).unwrap(), gpu(None));
    for _ in 0..PATIENCE {
        let small = offered(&mut slots, &[whole, gpu(Some(2))]);
        assert_eq!(small, [1]);
        slots.give_back(Share { threads: 1, memory: 0, gpus: vec![part(Some(2 * GIB))] });
    }
    // Now the card is kept, and threads are not.
    assert_eq!(offered(&mut slots, &[whole, gpu(Some(2)), cpus(3), Need::default()]), [2, 3]);
    slots.give_back(running);
}

fn any_need() -> impl Strategy<Value = Need> {
    let cpus = prop::option::of(1usize..6);
    let part = prop::option::of(1u64..26);
    (cpus, 0u64..10, 0usize..4, part, any::<bool>()).prop_map(|(cpus, memory, gpus, part, alone)| Need {
        cpus,
        memory: memory * GIB,
        gpus,
        gpu_memory: part.map(|part| part * GIB),
        alone,
    })
}

/// What is wrong with so many shares being out at once.
fn over_committed(machine: &Machine, running: &[Share]) -> Option<String> {
    let threads: usize = running.iter().map(|share| share.threads).sum();
    let memory: u64 = running.iter().map(|share| share.memory).sum();
    if threads > machine.cpus || memory > machine.memory.unwrap_or(u64::MAX) {
        return Some(format!("{threads} threads, {memory} bytes"));
    }
    let used = |used| if let Use::Bytes(used) = used { used } else { u64::MAX };
    let others = machine.used_by_others(&[]).into_iter().map(used);
    machine.cards().iter().zip(others).find_map(|(card, others)| {
        let parts: Vec<Option<u64>> =
            running.iter().flat_map(|share| &share.gpus).filter(|p| p.card == card.number).map(|p| p.memory).collect();
        let shared: u64 = parts.iter().flatten().sum();
        let whole = parts.iter().filter(|part| part.is_none()).count();
        let wrong = whole > 1 || (whole == 1 && parts.len() > 1) || (shared > 0 && shared + others > card.memory?);
        wrong.then(|| format!("card {}: {parts:?}", card.number))
    })
}

proptest! {
    #[test]
    fn nothing_is_promised_twice_and_everything_runs_in_the_end(
        needs in prop::collection::vec(any_need(), 1..40),
        total in (1usize..6, 1u64..10),
        cards in prop::collection::vec((1u64..26, 0u64..12), 0..4),
        ends in prop::collection::vec(any::<prop::sample::Index>(), 400)
    ) {
        let mut slots = slots(total.0, total.1, &cards);
        let machine = slots.machine.clone();
        // Others stay for good here, so what waits for them is left out.
        let possible = |slots: &mut Slots, need: &Need| slots.can_ever("t", need).is_ok() && !slots.waits_for_others(need);
        let mut ready: Vec<(TaskId, Need)> = vec![];
        for (i, need) in needs.iter().enumerate() {
            if possible(&mut slots, need) {
                ready.push((TaskId(i), *need));
            }
        }
        let (mut running, mut ends) = (vec![], ends.iter());
        while !ready.is_empty() || !running.is_empty() {
            for (id, share) in slots.offer(ready.iter().map(|(id, need)| (*id, need)).collect::<Vec<_>>()) {
                let position = ready.iter().position(|(other, _)| *other == id).unwrap();
                let (_, need) = ready.remove(position);
                prop_assert!(need.cpus.is_none_or(|cpus| cpus == share.threads) && share.threads > 0);
                prop_assert!(share.memory == need.memory && share.gpus.len() == need.gpus);
                running.push(share);
            }
            prop_assert_eq!(over_committed(&machine, &running), None);
            prop_assert!(!running.is_empty(), "{:?} cannot start on a free machine", ready);
            let end = ends.next().unwrap().index(running.len());
            slots.give_back(running.swap_remove(end));
        }
        prop_assert_eq!((slots.cpus, slots.memory), (total.0, total.1 * GIB));
        prop_assert!(slots.cards.iter().all(|load| *load == Load::default()));
    }
}
