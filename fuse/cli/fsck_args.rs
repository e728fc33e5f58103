//! The command line of `fsck`.

use std::path::PathBuf;

use clap::Args;

/// What follows the options of `fsck --help`.
pub const FSCK_HELP: &str = "\
Examples:
  nexus-fuse fsck                        the default volume
  nexus-fuse fsck --deep /srv/photos     a data folder, reading all content too
  nexus-fuse fsck /mnt/nexus             a mounted volume, through its daemon
  nexus-fuse fsck --repair --dry-run /srv/photos     only tell what a repair would do
  nexus-fuse fsck --repair /srv/photos               put right what can be put right

Prints one line for each damage. Exits with 0 if all is well, 1 if there is damage, 2 if
the volume could not be looked at. Changes nothing without --repair.

A repair needs the volume unmounted and its stores reachable. It copies the metastore first, to
meta/root.redb.before-repair-TIME in the data folder, and writes what it does into repair.log there;
put back before the next mount, the copy undoes the repair. It deletes no content: files without a name go to /lost+found, and of a file whose content is gone
the rest stays; what is gone answers EIO, and the files are listed. If the missing content
can still be brought back, do that first. Exits with 1 if a file has lost bytes.";

/// Arguments of `fsck`.
#[derive(Args, Debug, Clone)]
pub struct FsckArgs {
    /// A data folder, a mount point or a volume's name [default: the default volume]
    pub target: Option<PathBuf>,
    /// Read all content and hold it against its checksums
    #[arg(long)]
    pub deep: bool,
    /// Put right what can be put right; the volume must not be mounted
    #[arg(long)]
    pub repair: bool,
    /// With --repair: only tell what would be done
    #[arg(short = 'n', long, requires = "repair")]
    pub dry_run: bool,
    /// Configuration file to read instead of the usual one
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}
