//! Metadata by path.
