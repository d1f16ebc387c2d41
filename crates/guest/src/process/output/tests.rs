//! What followers see, however slow they are.

use proptest::prelude::*;

use super::*;

use OutputStream::{Stderr, Stdout};

fn read_all(output: &Output, cursor: &mut Cursor) -> Vec<String> {
    std::iter::from_fn(|| output.next(cursor).map(|item| item.text().into_owned())).collect()
}

fn replay(output: &Output, selection: Selection) -> Vec<String> {
    read_all(output, &mut Cursor::new(selection))
}

#[test]
fn both_streams_merge_in_the_order_of_arrival() {
    let mut output = Output::default();
    output.push(Stdout, b"1\n", 0);
    output.push(Stderr, b"2\n3\n", 0);
    output.push(Stdout, b"4\nrest", 0);
    assert_eq!(replay(&output, Selection::Both), ["1", "2", "3", "4"]);
    assert_eq!(replay(&output, Selection::One(Stdout)), ["1", "4"]);
    assert_eq!(replay(&output, Selection::One(Stderr)), ["2", "3"]);
    assert_eq!(output.partial_lines(Selection::Both).collect::<Vec<_>>(), ["rest"]);
    output.settle(Stdout, 0);
    assert_eq!(replay(&output, Selection::Both), ["1", "2", "3", "4", "rest"]);
    assert!(output.is_settled(Selection::One(Stdout)));
    assert!(!output.is_settled(Selection::Both));
}

#[test]
fn dropped_lines_leave_one_line_in_their_place() {
    let mut output = Output::default();
    for number in 0..10 {
        output.push(Stdout, format!("{number}\n").as_bytes(), 7);
    }
    output.push(Stderr, b"e\n", 8);
    output.shrink_to(3 * 17);
    assert_eq!(
        replay(&output, Selection::Both),
        ["[tarn: 8 earlier lines dropped]", "8", "9", "e"]
    );
    assert_eq!(replay(&output, Selection::One(Stderr)), ["e"]);
    output.shrink_to(0);
    assert_eq!(replay(&output, Selection::Both), ["[tarn: 11 earlier lines dropped]"]);
    assert_eq!(replay(&output, Selection::One(Stderr)), ["[tarn: 1 earlier lines dropped]"]);
}

#[test]
fn a_slow_follower_is_told_only_what_it_missed() {
    let mut output = Output::default();
    output.push(Stdout, b"a\nb\n", 0);
    let mut cursor = Cursor::new(Selection::Both);
    assert_eq!(read_all(&output, &mut cursor), ["a", "b"]);
    output.push(Stdout, b"c\nd\ne\n", 0);
    output.shrink_to(17);
    assert_eq!(read_all(&output, &mut cursor), ["[tarn: 2 earlier lines dropped]", "e"]);
    assert_eq!(read_all(&output, &mut cursor), [""; 0]);
}

#[test]
fn a_stream_keeps_its_retention() {
    let mut output = Output::default();
    let line = [&[b'x'; 1023][..], b"\n"].concat();
    for _ in 0..(10 << 10) {
        output.push(Stdout, &line, 0);
    }
    assert!(output.bytes() <= STREAM_RETENTION_BYTES, "{}", output.bytes());
    assert!(output.bytes() > STREAM_RETENTION_BYTES - 2048, "{}", output.bytes());
}

#[test]
fn the_gate_closes_at_its_window_and_keeps_unread_lines() {
    let mut output = Output::gated();
    let chunk = vec![b'x'; usize::try_from(GATE_WINDOW_BYTES).expect("small") + 1];
    assert!(!output.is_gated());
    output.push(Stdout, &chunk, 0);
    output.settle(Stdout, 0);
    assert!(output.is_gated());
    output.shrink_to(0);
    let mut cursor = Cursor::new(Selection::Both);
    let mut cost = 0;
    while let Some(item) = output.next(&mut cursor) {
        let Item::Line(line, _) = item else { panic!("a gated line was dropped") };
        cost += line.cost();
    }
    output.gate_advance(&cursor, cost);
    assert!(!output.is_gated());
    output.shrink_to(0);
    assert_eq!(output.bytes(), 0);
}

#[test]
fn what_is_discarded_is_told_once_and_nothing_is_kept_after() {
    let mut output = Output::default();
    output.push(Stdout, b"a\nb\nc\nrest", 0);
    let mut cursor = Cursor::new(Selection::Both);
    let first = output.next(&mut cursor).map(|item| item.text().into_owned());
    assert_eq!(first.as_deref(), Some("a"));
    assert!(!output.is_discarded());
    output.discard();
    assert!(output.is_discarded());
    output.push(Stdout, b"d\ne", 0);
    output.push_note(Stderr, "note", 0);
    output.settle(Stdout, 0);
    assert_eq!((output.bytes(), output.partial_lines(Selection::Both).count()), (0, 0));
    assert_eq!(read_all(&output, &mut cursor), ["[tarn: 2 earlier lines dropped]"]);
    assert!(output.is_settled(Selection::One(Stdout)), "a follower ends");
}

#[test]
fn the_reader_of_a_run_has_all_of_what_is_discarded() {
    let mut output = Output::gated();
    output.push(Stdout, b"a\nb\npart", 0);
    let mut cursor = Cursor::new(Selection::Both);
    assert!(output.next(&mut cursor).is_some());
    output.gate_advance(&cursor, 17);
    output.discard();
    assert_eq!(output.bytes(), 17, "a is gone, b is not");
    output.push(Stdout, b"ly\n", 0);
    assert_eq!(read_all(&output, &mut cursor), ["b", "partly"]);
    assert!(!output.is_discarded());
    output.gate_open();
    assert!(output.is_discarded());
    output.push(Stdout, b"late\n", 0);
    assert_eq!((output.bytes(), read_all(&output, &mut cursor).len()), (0, 0));
}

#[test]
fn without_its_reader_the_gate_is_open() {
    let mut output = Output::gated();
    output.push(Stdout, &vec![b'\n'; 100_000], 0);
    assert!(output.is_gated());
    output.gate_open();
    assert!(!output.is_gated());
}

proptest! {
    /// Whatever is dropped between its reads, a follower accounts for every line once.
    #[test]
    fn every_line_is_seen_or_counted(
        steps in prop::collection::vec(
            (any::<bool>(), 0_usize..6, any::<bool>(), 0_usize..400),
            1..40,
        ),
    ) {
        let mut output = Output::default();
        let mut cursor = Cursor::new(Selection::Both);
        let (mut pushed, mut accounted) = (0_u64, 0_u64);
        let mut read = |output: &Output, cursor: &mut Cursor| {
            while let Some(item) = output.next(cursor) {
                accounted += match item {
                    Item::Line(..) => 1,
                    Item::Dropped { count, .. } => count,
                };
            }
        };
        for (to_stdout, lines, read_now, shrink) in steps {
            let stream = if to_stdout { Stdout } else { Stderr };
            output.push(stream, "z\n".repeat(lines).as_bytes(), 0);
            pushed += lines as u64;
            output.shrink_to(shrink);
            if read_now {
                read(&output, &mut cursor);
            }
        }
        read(&output, &mut cursor);
        prop_assert_eq!(accounted, pushed);
    }
}
