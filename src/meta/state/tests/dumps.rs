//! What a dump reads: the state as of one index, whatever is applied meanwhile.

use super::*;
use crate::types::unpack_records;

/// The blocks of a frozen copy are the records of its index, and sum to the hash that the state had then.
#[test]
fn a_copy_taken_under_load_is_the_state_at_its_index() {
    let place = TempDir::new().unwrap();
    let mut rng = Rng(77);
    let mut model = Model::new();
    let state = open(place.path());
    (0..40).for_each(|_| model.grow(&mut rng, 200, 20_000));
    model.replay(&state);
    let ended = AtomicBool::new(false);
    let copies = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut copies = Vec::new();
            while !ended.load(Ordering::Acquire) || copies.is_empty() {
                copies.push(state.freeze().unwrap());
            }
            copies
        });
        let _ended = Finished(&ended);
        for _ in 0..60 {
            model.grow(&mut rng, 200, 20_000);
            model.replay(&state);
        }
        drop(_ended);
        reader.join().unwrap()
    });
    println!("{} copies", copies.len());
    for copy in copies {
        let at = usize::try_from(copy.index().0).unwrap();
        assert_eq!(copy.tally(), model.tallies[at], "of index {at}");
        let (mut tally, mut last) = (Tally::default(), Bytes::new());
        for number in 0..copy.block_count() {
            let packed = copy.packed(number).unwrap().unwrap();
            assert!(packed.len() <= crate::types::DUMP_BLOCK_LEN_MAX);
            for (key, value) in unpack_records(&packed).unwrap() {
                assert!(key > last);
                tally.add(&key, &value);
                last = key;
            }
        }
        assert_eq!(tally, copy.tally());
        assert_eq!(copy.packed(copy.block_count()).unwrap(), None);
    }
}
