//! The error index, `docs/errors.md`, as this binary carries it.
//!
//! Always: what an error says to do next, where its place in the code says nothing better, is what the
//! index says of its code; so the two cannot differ, and no error is without a next step.

const INDEX: &str = include_str!("../../docs/errors.md");
/// What a code begins with, and the digits after it.
const PREFIX: &str = "MM-";
const DIGITS: usize = 4;

/// What to do about an error with this code.
pub fn advice(code: &str) -> Option<&'static str> {
    INDEX.lines().find_map(|line| {
        let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
        (cells.next() == Some(code)).then(|| cells.nth(1))?
    })
}

/// The first code that stands in a text.
pub fn code_in(text: &str) -> Option<&str> {
    text.match_indices(PREFIX).find_map(|(at, _)| {
        let code = text.get(at..)?.get(..PREFIX.len() + DIGITS)?;
        let digits = code.get(PREFIX.len()..)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then_some(code)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_index_has_advice() {
        let rows = INDEX.lines().filter(|line| line.starts_with("| MM-"));
        let mut count = 0;
        for row in rows {
            let code = code_in(row).unwrap();
            assert!(!advice(code).unwrap().is_empty(), "{row}");
            count += 1;
        }
        assert!(count > 100, "{count}");
        assert_eq!(advice("MM-9999"), None);
    }

    #[test]
    fn a_code_is_found_where_a_daemon_put_it() {
        assert_eq!(code_in("MM-1203: no such entry"), Some("MM-1203"));
        assert_eq!(code_in("no identity issued (MM-2003)"), Some("MM-2003"));
        for none in ["", "MM-", "MM-12", "MM-12x4", "nothing", "MM-é123"] {
            assert_eq!(code_in(none), None, "{none}");
        }
    }
}
