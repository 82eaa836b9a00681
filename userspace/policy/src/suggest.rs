//! "Did you mean …?"

/// Longer words are no slips, and would cost their square.
const LONGEST: usize = 64;
/// How many candidates are tried.
const MOST: usize = 1000;
/// How many names fit a message.
const LISTED: usize = 10;

/// What to tell whoever wrote a name that is none of these.
pub fn instead<'a>(word: &str, names: impl Iterator<Item = &'a str> + Clone) -> String {
    if let Some(close) = closest(word, names.clone()) {
        return format!("did you mean `{close}`?");
    }
    let listed = names.clone().take(LISTED).collect::<Vec<_>>().join(", ");
    match (listed.as_str(), names.skip(LISTED).count()) {
        ("", _) => "there are none".to_owned(),
        (_, 0) => format!("there are {listed}"),
        (_, more) => format!("there are {listed} and {more} more"),
    }
}

/// The candidate that is a slip of the pen away from `word`, case aside.
pub(crate) fn closest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
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

/// How many insertions, deletions, replacements and swaps of neighbours make `a` of `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX / 2);
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    let mut last = None;
    for (x, i) in a.chars().zip(1..) {
        let mut next = vec![i];
        let mut left = None;
        for (y, j) in b.iter().copied().zip(1usize..) {
            let replaced = at(&row, j - 1) + usize::from(x != y);
            let mut least = replaced.min(at(&row, j) + 1).min(at(&next, j - 1) + 1);
            if last == Some(y) && left == Some(x) {
                least = least.min(at(&before, j - 2) + 1);
            }
            next.push(least);
            left = Some(y);
        }
        before = std::mem::replace(&mut row, next);
        last = Some(x);
    }
    at(&row, b.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_found_and_a_stranger_is_not() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(closest("creat", ["CREATE", "BIND"]), Some("CREATE"));
        assert_eq!(closest("sSnId", ["tSnID", "sSnID"]), Some("sSnID"));
        assert_eq!(closest("wbe", ["db", "web"]), Some("web"));
        assert_eq!(closest("quux", ["CREATE", "BIND"]), None);
        assert_eq!(closest("", ["CREATE"]), None);
    }

    #[test]
    fn instead_of_a_stranger_the_first_names_are_told() {
        let names: Vec<_> = (100..115).map(|number| format!("node{number}x")).collect();
        let some = |many: usize| names.iter().map(String::as_str).take(many);
        assert_eq!(instead("node101", some(15)), "did you mean `node101x`?");
        assert_eq!(instead("web", some(0)), "there are none");
        assert_eq!(instead("web", some(2)), "there are node100x, node101x");
        assert!(instead("web", some(10)).ends_with(", node109x"));
        assert!(instead("web", some(15)).ends_with(", node109x and 5 more"));
    }
}
