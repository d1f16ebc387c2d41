//! How much is begun that nobody waits for.

use super::*;

fn around(cores: usize, shape: &Shape) -> Surroundings {
    Surroundings {
        targets: vec![(shape.clone(), 8)],
        digests: HashMap::from([(shape.0.clone(), String::new())]),
        may_build: true,
        cores,
    }
}

/// Returns how many are begun with so many promised and so many made that are waited for.
fn begun(cores: usize, promised: usize, making: usize) -> usize {
    let shape = ("img".parse().expect("a good name"), Resources::default());
    let id = |number: usize| SandboxId::from_random([u8::try_from(number).unwrap_or(0); 21]);
    let building = (0..promised)
        .map(|number| Building { id: id(number), shape: shape.clone(), promised: true })
        .collect();
    let mut shelf = Shelf { building, making, ..Shelf::default() };
    let around = around(cores, &shape);
    (0..100).take_while(|number| shelf.next(&around, || id(*number)).is_some()).count()
}

#[test]
fn what_nobody_waits_for_gets_what_the_others_leave_of_the_machine() {
    for (cores, promised, making, expected) in [
        (1, 0, 0, 1),
        (2, 0, 0, 1),
        (8, 0, 0, 4),
        // Requests come faster than half of the machine can serve them.
        (2, 1, 0, 2),
        (8, 2, 0, 8),
        (2, 0, 2, 1),
        (2, 1, 1, 2),
        // More wait than there are CPUs.
        (2, 0, 3, 0),
        (2, 1, 2, 0),
        (2, 3, 0, 0),
        (8, 4, 5, 0),
    ] {
        let number = begun(cores, promised, making);
        assert_eq!(number, expected, "{cores} cores, {promised} promised, {making} made");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_build_the_next_one_waits_until_somebody_asks() {
    let millis = Duration::from_millis;
    let mut shelf = Shelf::default();
    let rest = |shelf: &Shelf| shelf.rest(Instant::now());
    assert_eq!(rest(&shelf), Duration::ZERO);
    shelf.note_built(millis(100));
    assert_eq!(rest(&shelf), millis(500));
    tokio::time::advance(millis(450)).await;
    assert_eq!(rest(&shelf), millis(50));
    shelf.note_ask(("img".parse().expect("a good name"), Resources::default()));
    tokio::time::advance(millis(20)).await;
    shelf.note_built(millis(100));
    assert_eq!(rest(&shelf), REST - millis(20), "requests come");
    tokio::time::advance(millis(3000)).await;
    assert_eq!(rest(&shelf), Duration::ZERO);
    shelf.note_built(millis(100));
    assert_eq!(rest(&shelf), millis(500));
}
