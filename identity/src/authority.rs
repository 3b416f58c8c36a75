//! The life of an authority: states and the words for them.
