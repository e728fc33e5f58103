//! Tests of the syscalls.
