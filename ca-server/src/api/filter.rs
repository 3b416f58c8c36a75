//! Filters and paging of the list methods.
//!
//! Always: the four ways to match a set mean what SPIRE means by them; a page never holds more than
//! [`PAGE_MAX`] records, and its token is the last key that the caller has seen, so that records which
//! come and go never repeat or skip another.
//!
//! Not here: which fields a filter has.

use std::collections::BTreeSet;

use super::status::ApiError;

/// Records on a page, when the caller does not say or says more.
pub const PAGE_MAX: usize = 1000;
/// The longest page token.
const TOKEN_MAX: usize = 4096;

/// How a record's set has to relate to the filter's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetMatch {
    /// The same.
    Exact,
    /// The record's is part of the filter's.
    Subset,
    /// The filter's is part of the record's.
    Superset,
    /// They have something in common.
    Any,
}

impl SetMatch {
    /// Reads the number that SPIRE's messages use.
    ///
    /// # Errors
    /// For a number that means nothing.
    pub fn from_wire(value: i32) -> Result<Self, ApiError> {
        match value {
            0 => Ok(Self::Exact),
            1 => Ok(Self::Subset),
            2 => Ok(Self::Superset),
            3 => Ok(Self::Any),
            other => Err(ApiError::invalid(
                "match",
                format!("is {other}, which means nothing"),
            )),
        }
    }

    /// Whether a record with the set `have` passes a filter with the set `asked`.
    #[must_use]
    pub fn matches<T: Ord>(self, have: &BTreeSet<T>, asked: &BTreeSet<T>) -> bool {
        match self {
            Self::Exact => have == asked,
            Self::Subset => have.is_subset(asked),
            Self::Superset => have.is_superset(asked),
            Self::Any => !have.is_disjoint(asked),
        }
    }
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Only records with keys after this one.
    pub after: String,
    /// At most so many.
    pub size: usize,
}

impl Page {
    /// Reads size and token of a request.
    ///
    /// # Errors
    /// When the size is negative or the token is none of ours.
    pub fn from_wire(size: i32, token: &str) -> Result<Self, ApiError> {
        let size =
            usize::try_from(size).map_err(|_| ApiError::invalid("page_size", "is negative"))?;
        if token.len() > TOKEN_MAX {
            return Err(ApiError::invalid(
                "page_token",
                "is none that this server gave",
            ));
        }
        let size = if size == 0 {
            PAGE_MAX
        } else {
            size.min(PAGE_MAX)
        };
        Ok(Self {
            after: token.to_owned(),
            size,
        })
    }

    /// Takes a page off `records`, which come in the order of `key`. Returns it with the token of the
    /// next page, which is empty when there is none.
    pub fn take<'a, T>(
        &self,
        records: impl Iterator<Item = &'a T>,
        key: impl Fn(&T) -> &str,
    ) -> (Vec<&'a T>, String) {
        let mut page: Vec<&T> = Vec::new();
        for record in records.filter(|record| key(record) > self.after.as_str()) {
            if page.len() == self.size {
                let token = page.last().map(|last| key(last).to_owned());
                return (page, token.unwrap_or_default());
            }
            page.push(record);
        }
        (page, String::new())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn set(text: &str) -> BTreeSet<char> {
        text.chars().collect()
    }

    #[test]
    fn the_four_match_modes() {
        let cases = [
            ("ab", "ab", [true, true, true, true]),
            ("a", "ab", [false, true, false, true]),
            ("abc", "ab", [false, false, true, true]),
            ("bc", "ab", [false, false, false, true]),
            ("c", "ab", [false, false, false, false]),
        ];
        for (have, asked, expected) in cases {
            let got = [0, 1, 2, 3].map(|mode| {
                SetMatch::from_wire(mode)
                    .unwrap()
                    .matches(&set(have), &set(asked))
            });
            assert_eq!(got, expected, "{have} against {asked}");
        }
        assert!(SetMatch::from_wire(4).is_err());
    }

    #[test]
    fn pages_neither_repeat_nor_skip_when_records_go() {
        let mut records: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
        let page = Page::from_wire(2, "").unwrap();
        let (first, token) = page.take(records.iter(), |record| record);
        assert_eq!(
            (first, token.as_str()),
            (vec![&"a".to_owned(), &"b".to_owned()], "b")
        );
        records.retain(|record| record != "b" && record != "c");
        let (rest, token) = Page::from_wire(2, &token)
            .unwrap()
            .take(records.iter(), |record| record);
        assert_eq!(rest, [&"d".to_owned(), &"e".to_owned()]);
        assert_eq!(token, "", "a full last page has no successor");
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(Page::from_wire(0, "").unwrap().size, PAGE_MAX);
        assert_eq!(Page::from_wire(i32::MAX, "").unwrap().size, PAGE_MAX);
        assert!(Page::from_wire(-1, "").is_err());
        assert!(Page::from_wire(1, &"x".repeat(5000)).is_err());
    }
}
