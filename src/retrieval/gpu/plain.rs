//! What a card gives, by plain loops: what its kernels are tested against, and what stands in for a card where there is
//! none.

use super::{Batch, Card, Found, LANES, Places, Ranks, STRIP, Scan, Source, Sums};
use crate::retrieval::{Codes, Refusal};

/// No card at all.
#[derive(Debug)]
pub(in crate::retrieval) struct Plain;

impl Card for Plain {
    fn load(&self, _: &Source) -> Result<Box<dyn Scan>, Refusal> {
        Ok(Box::new(Plain))
    }
}

/// A code of the database: where it stands, its signs, and whether it was removed.
struct Item<'a> {
    at: usize,
    codes: &'a Codes,
    inside: usize,
    is_there: bool,
}

fn items<'a>(source: &'a Source) -> impl Iterator<Item = Item<'a>> {
    let all = source.segments.iter().flat_map(|&codes| (0..codes.len()).map(move |inside| (codes, inside)));
    all.enumerate().map(|(at, (codes, inside))| {
        let is_there = source.removed.get(at / 64).is_none_or(|word| word >> (at % 64) & 1 == 0);
        Item { at, codes, inside, is_there }
    })
}

/// The distance of a query to a code; sign by sign, where signs may be zero.
fn distance(batch: &Batch, query: usize, item: &Item) -> usize {
    let (width, words) = (item.codes.words_per_code(), &batch.asking.words[query * batch.length()..][..batch.length()]);
    if !batch.is_ternary() {
        let code = item.codes.code(item.inside);
        return code.iter().zip(words).map(|(a, b)| (a ^ b).count_ones() as usize).sum();
    }
    let bit = |words: &[u64], j: usize| words[j / 64] >> (j % 64) & 1 == 1;
    let halves = (0..).zip(item.codes.unpack(item.inside)).map(|(j, sign)| {
        let above = bit(words, j);
        let query = match above {
            true => 1.0,
            false if bit(&words[width..], j) => 0.0,
            false => -1.0,
        };
        1.0 - query * sign
    });
    halves.sum::<f32>() as usize
}

fn shared(source: &Source, batch: &Batch, query: usize, item: &Item) -> usize {
    let Some(labels) = source.labels else { return 0 };
    labels.classes_of(item.at).filter(|class| batch.classes_of(query).contains(class)).count()
}

impl Scan for Plain {
    fn counts(&self, source: &Source, batch: &Batch, stretch: usize) -> Result<Vec<u32>, Refusal> {
        let mut counts = vec![0; source.len().div_ceil(stretch) * batch.rows() * batch.levels()];
        for query in 0..batch.len() {
            for item in items(source).filter(|item| item.is_there) {
                let rows = batch.rows_of(query);
                let row = rows.start + shared(source, batch, query, &item).min(rows.len() - 1);
                counts[(item.at / stretch * batch.rows() + row) * batch.levels() + distance(batch, query, &item)] += 1;
            }
        }
        Ok(counts)
    }

    fn places(&self, source: &Source, batch: &Batch, asked: &Places) -> Result<Found, Refusal> {
        let total = asked.first[batch.len()] as usize;
        let (mut at, mut keys) = (vec![0; total], vec![0; if asked.keys { total } else { 0 }]);
        let mut next = asked.next.clone();
        let slots = if asked.by_distance { batch.levels() } else { 1 };
        for query in 0..batch.len() {
            for item in items(source).filter(|item| item.is_there) {
                let distance = distance(batch, query, &item);
                if distance > asked.limits[query] as usize {
                    continue;
                }
                let slot = if asked.by_distance { distance } else { 0 };
                let next = &mut next[(item.at / asked.stretch * batch.len() + query) * slots + slot];
                let place = asked.first[query] + u64::from(*next);
                *next += 1;
                if place < asked.first[query + 1] {
                    at[place as usize] = item.at as u32;
                    if asked.keys {
                        let is_relevant = shared(source, batch, query, &item) > 0;
                        keys[place as usize] = (2 * distance) as u16 + u16::from(is_relevant);
                    }
                }
            }
        }
        Ok(Found { at, keys })
    }

    fn ranks(&self, source: &Source, batch: &Batch, asked: &Ranks) -> Result<Sums, Refusal> {
        let slots = batch.len() * asked.cut_count * LANES;
        let mut all = Sums { sums: vec![0.0; slots], hits: vec![0; slots], first: vec![u32::MAX; batch.len()] };
        for query in 0..batch.len() {
            let gone = &asked.gone[asked.first_gone[query] as usize..asked.first_gone[query + 1] as usize];
            let mut next = asked.next[query * batch.levels()..][..batch.levels()].to_vec();
            let mut hits = 0;
            let left = items(source).filter(|item| !gone.contains(&(item.at as u32)));
            for (place, item) in left.enumerate() {
                hits = if place % STRIP == 0 { 0 } else { hits };
                let distance = distance(batch, query, &item);
                if distance >= asked.reads[query] as usize {
                    continue;
                }
                let (rank, found) = (next[distance] as u32 + 1, (next[distance] >> 32) as u32 + 1);
                next[distance] += 1;
                if shared(source, batch, query, &item) == 0 {
                    continue;
                }
                next[distance] += 1 << 32;
                all.first[query] = all.first[query].min(rank);
                for cut in 0..asked.cut_count {
                    if rank <= asked.cuts[query * asked.cut_count + cut] {
                        let slot = (query * asked.cut_count + cut) * LANES + hits % LANES;
                        all.sums[slot] += f64::from(found) / f64::from(rank);
                        all.hits[slot] += 1;
                    }
                }
                hits += 1;
            }
        }
        Ok(all)
    }

    fn total(&self, source: &Source, batch: &Batch) -> Result<u64, Refusal> {
        let words = || source.segments.iter().flat_map(|codes| codes.words());
        let of = |query: usize| {
            words().map(move |word| u64::from((word ^ batch.asking.words[query * batch.length()]).count_ones()))
        };
        Ok((0..batch.len()).map(|query| of(query).sum::<u64>()).sum())
    }
}
