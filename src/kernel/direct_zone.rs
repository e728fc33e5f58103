//! A zone without a log: commands are applied straight to a metastore.
