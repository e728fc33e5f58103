//! Tests of the local zone.
