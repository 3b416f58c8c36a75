//! Keys, and the seam behind which they live.
