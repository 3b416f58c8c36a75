//! Binding and peers against the real kernel.
