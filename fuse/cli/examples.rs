//! What the help of each command says below its options: examples, and what to know.

pub const MOUNT_HELP: &str = "\
Examples:
  nexus-fuse mount /mnt/nexus                  the default volume
  nexus-fuse mount /mnt/photos --volume photos a volume by name
  nexus-fuse mount ./work --data ~/work.nexus  a volume by folder
  nexus-fuse mount /mnt/nexus -f --log debug   stay in front and tell much
  nexus-fuse mount /mnt/nexus -o ro,allow_other
  nexus-fuse mount /mnt/nexus --volume far --store s3://bucket/prefix --region eu-west-1
  NEXUS_METASTORE=memory nexus-fuse mount /mnt/scratch --data /tmp/scratch

The daemon goes to the background once the mount answers, and logs to daemon.log in the
data folder. SIGTERM and SIGINT unmount and close the volume; SIGHUP reopens the log.

Settings come, in rising order, from NEXUS_* variables, the configuration file
(/etc/nexus/config.toml for root, else ~/.config/nexus/config.toml) and flags:
  data, metastore, object_store, store, endpoint, region, store_cache, store_fsync,
  store_compression, store_key, store_max_requests, store_upload_limit, store_download_limit, memory, cache, log, options
Credentials of a store are taken from where the cloud's own tools take them: AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY or ~/.aws/credentials, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_*.

In /etc/fstab, with the helper that scripts/install puts in place:
  photos  /mnt/photos  fuse.nexus  defaults,allow_other  0  0";

pub const UMOUNT_HELP: &str = "\
Examples:
  nexus-fuse umount /mnt/nexus
  nexus-fuse umount --wait /mnt/far      first wait until all of it is in its store
  nexus-fuse umount --lazy /mnt/nexus    detach now, end when the last user has gone

What is not in its store yet stays safe on this disk without --wait, and goes there at the next mount;
how much that is, is told. With it, progress is shown, and Ctrl-C, or a store that does not answer,
leaves the volume mounted.

umount(8) and fusermount3 -u unmount as well; the daemon then closes the volume by itself.";

pub const STATUS_HELP: &str = "\
Examples:
  nexus-fuse status                  all mounts of Nexus on this machine
  nexus-fuse status /mnt/nexus       one of them
  nexus-fuse status --json | jq      for programs

Exits with 1 if something is wrong with one of them.";

pub const METRICS_HELP: &str = "\
Examples:
  nexus-fuse metrics                 of all mounts, on standard output
  nexus-fuse metrics /mnt/nexus | grep store_requests
  nexus-fuse metrics --out /var/lib/node_exporter/nexus.prom

Text in Prometheus' exposition format: requests, bytes, failed tries, throttled time and the cache's hits
and misses of each store, and more; docs/metrics.md lists them with their units. Nothing listens
anywhere: have a timer write the file, from which node_exporter's textfile collector takes it.";

pub const GC_HELP: &str = "\
Examples:
  nexus-fuse gc /mnt/nexus
  nexus-fuse gc --dry-run /mnt/nexus     only tell what it would free

The daemon does this by itself in the background; the command does it now.";

pub const SCRUB_HELP: &str = "\
Examples:
  nexus-fuse scrub /mnt/nexus

Works while the volume is in use, and past the cache: what is in a bucket is read there, which costs
its requests and traffic. Exits with 1 if something is damaged, and names it.";

pub const FLUSH_HELP: &str = "\
Examples:
  nexus-fuse flush /mnt/nexus && echo all of it is in the bucket
  nexus-fuse flush /mnt/nexus/project      only what is in this directory

The daemon sends by itself what was not written to for a while; the command does it now, waits, and
tells how far it is. What is written meanwhile is not waited for. Ctrl-C ends the waiting; content goes
on being sent. On a volume without a store in the cloud it makes everything durable.";

pub const STORE_HELP: &str = "\
Examples:
  nexus-fuse store test s3://bucket/prefix --region eu-west-1
  nexus-fuse store add archive s3://bucket/prefix --region eu-west-1 --mount /mnt/nexus
  nexus-fuse store ls --mount /mnt/nexus
  nexus-fuse place /mnt/nexus/old archive
  nexus-fuse store rm archive --mount /mnt/nexus
  nexus-fuse mount /mnt/far --volume far --store s3://bucket/prefix --region eu-west-1";

pub const STORE_ADD_HELP: &str = "\
Examples:
  nexus-fuse store add archive s3://bucket/prefix --region eu-west-1 --mount /mnt/nexus
  nexus-fuse store add near s3://bucket/x --endpoint http://10.0.0.5:9000 --fsync local
  nexus-fuse store add theirs s3://bucket/z --credentials-file /etc/nexus/theirs --profile work
  nexus-fuse store add disk file:///media/disk/nexus
  nexus-fuse store add slow s3://bucket/y --max-requests 4 --upload-limit 2M --download-limit 10M

The store is there at once and at every later mount; nothing goes there until a directory is
placed there (`nexus-fuse place`). It has to answer, and its prefix to be no other volume's. Its
credentials are those that the daemon was started with, from the environment or from files; what the
environment of this command has does not count. --credentials-file names a file with its own, which the
daemon reads at each start, and whose path alone is remembered.

file:///PATH is a folder on another disk, outside of the data folder and of all mounts of Nexus; it is
made if only it itself is missing. memory:// is for trying things out: what goes there is gone when the
daemon ends.";

pub const STORE_SET_HELP: &str = "\
Examples:
  nexus-fuse store set archive --upload-limit 2M --download-limit 10M --mount /mnt/nexus
  nexus-fuse store set default --max-requests 4
  nexus-fuse store set archive --upload-limit none

Holds at once, also for what waits already, and for all later mounts. Limits that are not named stay.
Rates are bytes a second, in binary units. What somebody waits for goes before what is read ahead.";

pub const STORE_LS_HELP: &str = "\
Examples:
  nexus-fuse store ls
  nexus-fuse store ls --mount /mnt/nexus";

pub const STORE_RM_HELP: &str = "\
Examples:
  nexus-fuse migrate /mnt/nexus default          first bring home what is there
  nexus-fuse place /mnt/nexus default
  nexus-fuse store rm archive --mount /mnt/nexus

Refused while content of any file is there, or files and directories are placed there. Nothing is left
in the bucket, so that another volume can use the prefix; where that can't be, it tells.";

pub const PLACE_HELP: &str = "\
Examples:
  nexus-fuse place /mnt/nexus/old                       where content goes now
  nexus-fuse place /mnt/nexus/old archive               new content below goes to store archive
  nexus-fuse place /mnt/nexus/db --fsync local          fsync waits for this disk only
  nexus-fuse place /mnt/nexus/old default               back to the volume's first store

What is there already stays where it is (`nexus-fuse migrate` moves it). Files and directories
that are made later take over what their directory has; one that is moved elsewhere keeps its own.";

pub const MIGRATE_HELP: &str = "\
Examples:
  nexus-fuse migrate /mnt/nexus/old archive
  nexus-fuse migrate /mnt/nexus/old default

The files can be used meanwhile. Cut short, it loses nothing; called again, it goes on where it
stopped. What is moved goes through this disk, and up from there; `nexus-fuse flush` waits for that.";

pub const STORE_TEST_HELP: &str = "\
Examples:
  nexus-fuse store test s3://bucket/prefix --region eu-west-1
  nexus-fuse store test s3://bucket/prefix --endpoint http://127.0.0.1:9000
  nexus-fuse store test gs://bucket/prefix

Tries with the credentials that a mount from here would have: listing, storing, storing only what
is not there, reading of ranges, uploads in parts, deleting. Tells latency and throughput, and
leaves nothing there. Exits with 1 if something does not work.";

pub const ATTACH_HELP: &str = "\
Examples:
  mkdir /mnt/nexus/data && nexus-fuse attach s3://bucket/prefix /mnt/nexus/data --region eu-west-1
  nexus-fuse attach s3://bucket /mnt/nexus/logs --read-only --refresh 60
  nexus-fuse attach s3://bucket /mnt/nexus/x --endpoint http://127.0.0.1:9000
  nexus-fuse attach s3://bucket /mnt/nexus/slow --max-requests 4 --download-limit 10M
  nexus-fuse attach s3://theirs /mnt/nexus/theirs --credentials-file /etc/nexus/theirs --profile work

Each object is a file, each common prefix a directory, for reading and writing. Files are stored
whole, at close and at fsync; close tells whether that worked. There are no links, owners or
permissions of single files. docs/attach.md tells what else is different.

The attachment is remembered and comes back at the next mount; `detach` ends that. Credentials
are those that the daemon got when the volume was mounted (where they lie, `mount --help` tells), or
those in the file of --credentials-file, which the daemon reads. `store set` changes limits.";

pub const DETACH_HELP: &str = "\
Examples:
  nexus-fuse detach /mnt/nexus/data

`nexus-fuse status` lists what is attached.";

pub const COMPLETIONS_HELP: &str = "\
Examples:
  nexus-fuse completions bash > /etc/bash_completion.d/nexus-fuse
  nexus-fuse completions zsh > ~/.zfunc/_nexus-fuse
  nexus-fuse completions fish > ~/.config/fish/completions/nexus-fuse.fish";

pub const MAN_HELP: &str = "\
Examples:
  nexus-fuse man | man -l -
  nexus-fuse man --out /usr/local/share/man/man1";
