//! Search for one code: what a command that has one image asks.

use super::{Codes, Engine, Neighbour, Refusal};

/// Returns the `k` nearest items, nearest first, ties in database order; all items if there are fewer than `k`.
///
/// # Errors
/// A query of another length.
pub fn top_k(database: &Codes, query: &[u64], k: usize) -> Result<Vec<Neighbour>, Refusal> {
    Ok(Engine::over(database).top_k(&single(database, query)?, k)?.pop().unwrap_or_default())
}

/// Returns all items that differ in at most `radius` bits, nearest first, ties in database order.
///
/// # Errors
/// A query of another length.
pub fn within(database: &Codes, query: &[u64], radius: usize) -> Result<Vec<Neighbour>, Refusal> {
    Ok(Engine::over(database).within(&single(database, query)?, radius)?.pop().unwrap_or_default())
}

fn single(database: &Codes, query: &[u64]) -> Result<Codes, Refusal> {
    if query.len() != database.words_per_code() {
        return Err(Refusal::QueryWords { expected: database.words_per_code(), found: query.len() });
    }
    Codes::from_words(database.bits(), query.to_vec())
}

#[cfg(test)]
mod tests {
    use super::super::codes::tests::random_codes;
    use super::*;

    #[test]
    fn equal_codes_come_in_database_order() {
        let database = random_codes(1, 5, 8, 0);
        let indices: Vec<_> = top_k(&database, &[0], 3).unwrap().iter().map(|n| n.index).collect();
        assert_eq!(indices, [0, 1, 2]);
        assert_eq!(within(&database, &[0b11], 1).unwrap(), []);
        assert_eq!(within(&database, &[0b11], usize::MAX).unwrap().len(), 5);
    }

    #[test]
    fn a_query_of_another_length_is_refused() {
        let refusal = Err(Refusal::QueryWords { expected: 1, found: 2 });
        assert_eq!(top_k(&random_codes(1, 5, 8, 8), &[0, 0], 3), refusal);
    }
}
