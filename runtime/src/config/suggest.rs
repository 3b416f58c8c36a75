//! The word that was probably meant.
//!
//! Responsible for comparing a misspelt word with the ones that exist. Always holds: a suggestion
//! is near enough to be a slip, never a random guess. Not here: where the words come from.

/// The candidate nearest to `word`, if it is near: one slip in three letters, at least one.
pub fn closest<'a, S: AsRef<str>>(word: &str, candidates: &'a [S]) -> Option<&'a str> {
    let allowed = word.chars().count().checked_div(3).unwrap_or(0).max(1);
    candidates
        .iter()
        .map(|candidate| (distance(word, candidate.as_ref()), candidate.as_ref()))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, delete, replace or swap with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (normal(a), normal(b));
    // Rows of the usual table; `row[j]` is the distance of the first i letters of a and j of b.
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    let mut last_a = None;
    for (i, &in_a) in a.iter().enumerate() {
        let mut next = vec![i.saturating_add(1)];
        let mut last_b = None;
        for (j, &in_b) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX);
            let after = j.saturating_add(1);
            let replaced = at(&row, j).saturating_add(usize::from(in_a != in_b));
            let edited = at(&row, after).min(at(&next, j)).saturating_add(1);
            let mut best = replaced.min(edited);
            if last_a == Some(in_b) && last_b == Some(in_a) && j > 0 {
                let swapped = at(&before, j.saturating_sub(1)).saturating_add(1);
                best = best.min(swapped);
            }
            next.push(best);
            last_b = Some(in_b);
        }
        before = std::mem::replace(&mut row, next);
        last_a = Some(in_a);
    }
    row.last().copied().unwrap_or(usize::MAX)
}

/// Case, and hyphens for underscores, are the commonest slips and cost nothing.
fn normal(text: &str) -> Vec<char> {
    text.chars()
        .map(|letter| {
            if letter == '-' {
                '_'
            } else {
                letter.to_ascii_lowercase()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("abc", "", 3),
            ("", "abc", 3),
            ("listen", "listen", 0),
            ("listen", "listem", 1),
            ("listen", "lisen", 1),
            ("listen", "litsen", 1),
            ("Data-Dir", "data_dir", 0),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn only_near_words_are_suggested() {
        let known = ["listen", "trust_domain", "data_dir"];
        assert_eq!(closest("lisen", &known), Some("listen"));
        assert_eq!(closest("trustdomain", &known), Some("trust_domain"));
        assert_eq!(closest("data-dir", &known), Some("data_dir"));
        assert_eq!(closest("log", &known), None);
        assert_eq!(closest("x", &known), None);
        assert_eq!(closest::<&str>("listen", &[]), None);
    }
}
