//! The command line and the daemon, as a user meets them: the real program on real mounts.
