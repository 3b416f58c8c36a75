//! Errors as a person reads them: with their causes.
//!
//! Responsible for the one line that an error and its sources make. Always holds: each layer says its
//! own words once; a cause whose words stand there already is not said again. Not here: codes, and who
//! is told.

use std::error::Error;

/// An error with all its causes, in one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    with_causes(error.to_string(), error)
}

/// `text`, which already speaks for `error`, with all of the error's causes.
#[must_use]
pub fn with_causes(mut text: String, error: &dyn Error) -> String {
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{words}")]
    struct Layer {
        words: &'static str,
        source: Option<Box<Self>>,
    }

    fn layers(words: &[&'static str]) -> Layer {
        let (first, rest) = words.split_first().unwrap();
        let source = (!rest.is_empty()).then(|| Box::new(layers(rest)));
        Layer {
            words: first,
            source,
        }
    }

    #[test]
    fn causes_follow_in_order_and_are_said_once() {
        assert_eq!(chain(&layers(&["outer"])), "outer");
        assert_eq!(
            chain(&layers(&["outer", "middle", "inner"])),
            "outer: middle: inner"
        );
        assert_eq!(chain(&layers(&["outer: inner", "inner"])), "outer: inner");
        let error = layers(&["unsaid", "inner"]);
        assert_eq!(
            with_causes("MM-1: said".to_owned(), &error),
            "MM-1: said: inner"
        );
    }
}
