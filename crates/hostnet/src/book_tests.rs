use super::*;

fn id(number: u8) -> SandboxId {
    SandboxId::from_random([number; SandboxId::LENGTH])
}

fn settled(spare: u16, maximum: u16) -> Book {
    let mut book = Book::new(spare, maximum, BTreeSet::new());
    assert!(book.settle().is_empty());
    book
}

fn build(book: &mut Book) -> usize {
    let slots = book.plan_builds(true);
    for slot in &slots {
        book.ready(*slot);
    }
    slots.len()
}

fn take(book: &mut Book) -> SlotId {
    match book.take(&id(0)) {
        Take::Slot(slot) => slot,
        other @ (Take::Wait | Take::Exhausted) => panic!("a slot was to be had: {other:?}"),
    }
}

#[test]
fn nothing_is_built_or_given_before_adoption_is_over() {
    let mut book = Book::new(4, 10, [SlotId(1), SlotId(2), SlotId(3)].into());
    assert!(book.plan_builds(true).is_empty());
    assert!(book.adopt(SlotId(2), &id(2)));
    assert!(book.adopt(SlotId(2), &id(2)), "its own, once more");
    assert!(!book.adopt(SlotId(2), &id(3)), "somebody else's");
    assert!(!book.adopt(SlotId(9), &id(9)), "adopted a slot that is not there");
    assert_eq!(book.settle(), [SlotId(1), SlotId(3)].into());
    book.unadopt(SlotId(2));
    assert!(book.adopt(SlotId(2), &id(2)), "only a release gives it up now");
    assert_eq!(book.claimed(), [SlotId(2)].into());
    assert_eq!(book.plan_builds(true), [SlotId(4), SlotId(5), SlotId(6), SlotId(7)]);
}

#[test]
fn steady_coming_and_going_builds_nothing() {
    let mut book = settled(8, 100);
    assert_eq!(build(&mut book), 8);
    for _ in 0..20 {
        let taken: Vec<_> = (0..4).map(|_| take(&mut book)).collect();
        assert_eq!(build(&mut book), 0);
        for slot in taken {
            assert!(book.release(slot, &id(0)));
            assert_eq!(book.afterlife(slot), Afterlife::Reuse);
            book.ready(slot);
        }
    }
    assert_eq!(book.count(State::Free), 8);
}

#[test]
fn a_burst_is_built_for_kept_for_another_and_removed_in_time() {
    let mut book = settled(8, 100);
    build(&mut book);
    let burst = |book: &mut Book| -> usize {
        let (mut taken, mut built) = (Vec::new(), 0);
        while taken.len() < 20 {
            match book.take(&id(0)) {
                Take::Slot(slot) => taken.push(slot),
                Take::Wait => {
                    book.begin_wait();
                    let slots = book.plan_builds(false);
                    assert_eq!(slots.len(), 1, "for who waits, and none to spare");
                    book.ready(slots[0]);
                    book.end_wait();
                    built += 1;
                }
                Take::Exhausted => panic!("there are a hundred"),
            }
        }
        for slot in taken {
            assert!(book.release(slot, &id(0)));
            match book.afterlife(slot) {
                Afterlife::Reuse => book.ready(slot),
                Afterlife::Remove => book.gone(slot),
            }
        }
        built
    };
    assert_eq!(burst(&mut book), 12);
    assert_eq!(book.count(State::Free), 20);
    book.turn();
    assert_eq!(burst(&mut book), 0);
    book.turn();
    assert_eq!(book.plan_removal(), None);
    book.turn();
    while let Some(slot) = book.plan_removal() {
        assert_eq!(book.afterlife(slot), Afterlife::Remove);
        book.gone(slot);
    }
    assert_eq!(book.count(State::Free), 8);
    assert_eq!(book.states.len(), 8);
}

#[test]
fn like_bursts_build_their_spare_slots_once() {
    let mut book = settled(8, 100);
    let built: Vec<_> = (0..5)
        .map(|_| {
            let mut built = build(&mut book);
            let mut taken = Vec::new();
            while taken.len() < 30 {
                match book.take(&id(0)) {
                    Take::Slot(slot) => taken.push(slot),
                    Take::Wait | Take::Exhausted => built += build(&mut book),
                }
            }
            built += build(&mut book);
            for slot in taken {
                assert!(book.release(slot, &id(0)));
                match book.afterlife(slot) {
                    Afterlife::Reuse => book.ready(slot),
                    Afterlife::Remove => book.gone(slot),
                }
            }
            built
        })
        .collect();
    assert_eq!(built, [38, 0, 0, 0, 0], "not in the middle of each");
}

#[test]
fn what_is_kept_counts_those_in_use() {
    let mut book = settled(2, 100);
    let mut taken = Vec::new();
    while taken.len() < 6 {
        match book.take(&id(0)) {
            Take::Slot(slot) => taken.push(slot),
            Take::Wait | Take::Exhausted => assert!(build(&mut book) > 0),
        }
    }
    assert_eq!(build(&mut book), 2);
    let kept: Vec<_> = (0..6)
        .map(|_| {
            let slot = taken.pop().unwrap();
            assert!(book.release(slot, &id(0)));
            match book.afterlife(slot) {
                Afterlife::Reuse => book.ready(slot),
                Afterlife::Remove => book.gone(slot),
            }
            book.count(State::Free)
        })
        .collect();
    assert_eq!(kept, [2, 3, 4, 5, 6, 7], "one more than were in use, so that none is missing then");
}

#[test]
fn slots_released_together_do_not_all_count_as_the_one_that_is_missing() {
    let mut book = settled(2, 10);
    build(&mut book);
    let taken = [take(&mut book), take(&mut book)];
    build(&mut book);
    assert!(taken.iter().all(|slot| book.release(*slot, &id(0))));
    assert_eq!(book.count(State::Free), 2);
    let afterlives = taken.map(|slot| book.afterlife(slot));
    assert_eq!(
        afterlives,
        [Afterlife::Reuse, Afterlife::Remove],
        "two were in use, and one to spare"
    );
    let mut book = settled(2, 10);
    build(&mut book);
    let taken = [take(&mut book), take(&mut book)];
    build(&mut book);
    let third = take(&mut book);
    for slot in taken.into_iter().chain([third]) {
        book.release(slot, &id(0));
    }
    assert_eq!(book.afterlife(third), Afterlife::Reuse);
    let afterlives = taken.map(|slot| book.afterlife(slot));
    assert_eq!(afterlives, [Afterlife::Reuse; 2], "three were in use");
}

#[test]
fn the_maximum_holds_and_a_release_ends_it() {
    let mut book = settled(1, 2);
    build(&mut book);
    let first = take(&mut book);
    assert_eq!(book.take(&id(0)), Take::Wait);
    assert!(book.is_short());
    build(&mut book);
    take(&mut book);
    assert_eq!(book.take(&id(0)), Take::Exhausted);
    assert!(!book.is_short());
    assert!(book.plan_builds(true).is_empty());
    assert!(book.release(first, &id(0)));
    assert!(!book.release(first, &id(0)), "released twice");
    assert_eq!(book.take(&id(0)), Take::Wait, "it is on its way");
    book.ready(first);
    assert_eq!(book.take(&id(0)), Take::Slot(first));
}

#[test]
fn what_was_built_for_one_who_left_is_removed() {
    let mut book = settled(2, 10);
    build(&mut book);
    let taken = [take(&mut book), take(&mut book)];
    book.begin_wait();
    assert_eq!(build(&mut book), 3);
    assert_eq!(book.plan_removal(), None, "it may still be taken");
    book.end_wait();
    let surplus = book.plan_removal().expect("one is too many");
    assert_eq!(book.plan_removal(), None);
    assert_eq!(book.afterlife(surplus), Afterlife::Remove);
    book.gone(surplus);
    assert_eq!(book.count(State::Free), 2);
    assert!(taken.iter().all(|slot| book.state(*slot) == Some(State::Claimed)));
}

#[test]
fn no_spare_slots_still_serves_those_who_wait() {
    let mut book = settled(0, 5);
    assert!(book.plan_builds(true).is_empty());
    assert_eq!(book.take(&id(0)), Take::Wait);
    book.begin_wait();
    assert_eq!(build(&mut book), 1);
    assert!(matches!(book.take(&id(0)), Take::Slot(_)));
    book.end_wait();
}

#[test]
fn only_its_own_sandbox_ends_a_claim() {
    let mut book = settled(1, 1);
    build(&mut book);
    let first = take(&mut book);
    assert!(!book.release(first, &id(1)), "somebody else's");
    assert_eq!(book.state(first), Some(State::Claimed));
    assert!(book.release(first, &id(0)));

    let mut book = Book::new(1, 2, [SlotId(1), SlotId(2)].into());
    assert!(book.adopt(SlotId(1), &id(1)) && book.adopt(SlotId(2), &id(2)));
    book.unadopt(SlotId(2));
    assert_eq!(book.settle(), [SlotId(2)].into());
    book.gone(SlotId(2));
    assert!(!book.release(SlotId(2), &id(2)), "it was given up");
    assert!(!book.release(SlotId(1), &id(2)) && book.release(SlotId(1), &id(1)));
}
