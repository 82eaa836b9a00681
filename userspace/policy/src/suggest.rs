//! "Did you mean …?"

/// Longer words are no slips, and would cost their square.
const LONGEST: usize = 64;
/// How many candidates are tried.
const MOST: usize = 1000;

/// The candidate that is a slip of the pen away from `word`, case aside.
pub(crate) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST {
        return None;
    }
    let limit = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .take(MOST)
        .filter(|candidate| candidate.len() <= LONGEST)
        .map(|candidate| (distance(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((y, pair), j) in b.iter().zip(row.windows(2)).zip(1usize..) {
            let [diagonal, above] = *pair else { continue };
            let left = next.last().copied().unwrap_or(j);
            next.push((diagonal + usize::from(x != *y)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_found_and_a_stranger_is_not() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(closest("creat", ["CREATE", "BIND"]), Some("CREATE"));
        assert_eq!(closest("sSnId", ["tSnID", "sSnID"]), Some("sSnID"));
        assert_eq!(closest("quux", ["CREATE", "BIND"]), None);
        assert_eq!(closest("", ["CREATE"]), None);
    }
}
