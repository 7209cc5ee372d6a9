//! Hamming distances of one query to a whole database, by population count.

use super::Codes;

/// Writes the distance of `query` to each code of `database`, in database order.
///
/// `query` is a code of the database's length, and `out` has room for each code. Codes end at 1024 bits, so a distance
/// fits 16 bits.
pub fn distances(database: &Codes, query: &[u64], out: &mut [u16]) {
    debug_assert_eq!(query.len(), database.words_per_code());
    debug_assert_eq!(out.len(), database.len());
    // One and two words are what people use; for them the loop over words must not exist.
    match *query {
        [query] => {
            for (out, code) in out.iter_mut().zip(database.words()) {
                *out = (code ^ query).count_ones() as u16;
            }
        }
        [low, high] => {
            for (out, code) in out.iter_mut().zip(database.words().chunks_exact(2)) {
                *out = ((code[0] ^ low).count_ones() + (code[1] ^ high).count_ones()) as u16;
            }
        }
        _ => {
            for (out, code) in out.iter_mut().zip(database.words().chunks_exact(query.len())) {
                *out = code.iter().zip(query).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>() as u16;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::codes::tests::random_codes;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn population_count_equals_a_loop_over_bits(
            bits in prop_oneof![1usize..=1024, Just(64), Just(65), Just(128), Just(129), Just(1024)],
            seed in any::<u64>(),
        ) {
            let codes = random_codes(seed, 6, bits, bits);
            let mut out = vec![0; codes.len()];
            distances(&codes, codes.code(0), &mut out);
            for (i, &distance) in out.iter().enumerate() {
                let differing = (0..bits).filter(|&j| codes.bit(0, j) != codes.bit(i, j)).count();
                prop_assert_eq!(usize::from(distance), differing);
            }
        }
    }

    #[test]
    fn opposite_codes_differ_in_every_bit() {
        for bits in [1, 63, 64, 128, 1024] {
            let mut codes = Codes::new(bits).unwrap();
            codes.push(&vec![1.0; bits]).unwrap();
            codes.push(&vec![-1.0; bits]).unwrap();
            let mut out = [0; 2];
            distances(&codes, codes.code(0), &mut out);
            assert_eq!(out, [0, bits as u16]);
        }
    }
}
