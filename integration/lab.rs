//! What every suite is given: the binary under test, and places to test in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::Cluster;
use crate::failure::{Check, Stop};
use crate::mount::Mount;
use crate::scratch::Scratch;
use crate::store::server::Server;
use crate::transport::Transport;

/// A cache that holds so little that most reads go to the server.
const TINY_CACHE: &str = "4M";

/// The node of a zone in whose mount a place is: not the one that founded it, and leads it at first.
const IN_ZONE: usize = 1;

/// How long a zone may take until all have the same state.
const ZONE_PATIENCE: Duration = Duration::from_secs(60);

/// Settings of a run.
#[derive(Clone)]
pub struct Lab {
    /// The daemon's binary.
    pub binary: PathBuf,
    /// Folder with the binaries of pjdfstest and fsx.
    pub tools: PathBuf,
    /// Folder on the machine's own file system for everything temporary.
    pub scratch: PathBuf,
    /// Test this folder instead of a mount: shows what the machine's own file system does.
    pub folder: Option<PathBuf>,
    /// What is to carry requests; `None` leaves it to the daemon.
    pub transport: Option<Transport>,
    /// Whether places have their content in an S3 server, behind a cache of hardly anything.
    pub store: bool,
    /// Whether places are in a zone that three daemons have.
    pub zone: bool,
    /// Run long.
    pub soak: bool,
    /// Where random runs begin.
    pub seed: u64,
    /// Seconds for suites that run as long as they are told to.
    pub seconds: Option<u64>,
    /// The one case that this process is for, while others run in theirs.
    pub only: Option<String>,
}

/// A place under test: a fresh mount, or a fresh folder in its stead.
pub struct Place {
    root: PathBuf,
    mount: Option<Mount>,
    zone: Option<Cluster>,
    // After the mount, which needs it to the end.
    _server: Option<Server>,
    scratch: Scratch,
    _stand_in: Option<Scratch>,
}

impl Lab {
    /// A fresh place.
    pub fn place(&self, name: &str) -> Check<Place> {
        self.place_with(name, None)
    }

    /// A fresh place, mounted with more options.
    pub fn place_with(&self, name: &str, options: Option<&str>) -> Check<Place> {
        let scratch = Scratch::new(&self.scratch, name)?;
        if let Some(folder) = &self.folder {
            let stand_in = Scratch::new(folder, name)?;
            return Ok(Place {
                root: stand_in.path().to_owned(),
                mount: None,
                zone: None,
                _server: None,
                scratch,
                _stand_in: Some(stand_in),
            });
        }
        if self.zone {
            let zone = Cluster::on_this_host(self, 3)?;
            let root = zone.zone(IN_ZONE);
            return Ok(Place { root, mount: None, zone: Some(zone), _server: None, scratch, _stand_in: None });
        }
        let server = if self.store { Some(Server::start(self, &scratch)?) } else { None };
        let mut mount = match &server {
            Some(server) => server.mount(self, &scratch, "volume")?.with_arguments(&["--store-cache", TINY_CACHE]),
            None => self.mount_on(&scratch.path().join("data"), &scratch)?,
        };
        if let Some(options) = options {
            mount = mount.with_options(options);
        }
        mount.start()?;
        let root = mount.point().to_owned();
        Ok(Place { root, mount: Some(mount), zone: None, _server: server, scratch, _stand_in: None })
    }

    /// A mount of `data`, not yet started, whose mount point and log lie in `scratch`.
    pub fn mount_on(&self, data: &Path, scratch: &Scratch) -> Check<Mount> {
        self.needs_mount()?;
        if let Some(transport) = self.transport {
            transport.needed()?;
        }
        let mount = Mount::new(&self.binary, data, &scratch.folder("mnt")?, &scratch.path().join("daemon.log"));
        Ok(mount.over(self.transport))
    }

    /// The same, over this transport, unless one was asked for.
    pub fn or_over(&self, transport: Transport) -> Lab {
        Lab { transport: self.transport.or(Some(transport)), ..self.clone() }
    }

    /// Skips the case where there is no daemon to test.
    pub fn needs_mount(&self) -> Check {
        match self.folder {
            Some(_) => Err(Stop::Skipped("needs a mount".to_owned())),
            None => Ok(()),
        }
    }

    /// `short` in CI, `long` in a soak.
    pub fn scale<T>(&self, short: T, long: T) -> T {
        if self.soak { long } else { short }
    }
}

impl Place {
    /// The folder under test.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A folder on the machine's own file system.
    pub fn outside(&self) -> &Path {
        self.scratch.path()
    }

    /// The mount, if there is one.
    pub fn mount(&mut self) -> Option<&mut Mount> {
        self.mount.as_mut()
    }

    /// Unmounts, checks the data folder, and mounts again.
    pub fn remount(&mut self) -> Check {
        if let Some(zone) = &self.zone {
            return zone.restart(IN_ZONE, false);
        }
        match &mut self.mount {
            Some(mount) => {
                mount.stop()?;
                mount.fsck()?;
                mount.start()
            }
            None => Ok(()),
        }
    }

    /// Ends the daemon with SIGKILL, checks the data folder, and mounts again.
    pub fn kill_and_remount(&mut self) -> Check {
        if let Some(zone) = &self.zone {
            return zone.restart(IN_ZONE, true);
        }
        match &mut self.mount {
            Some(mount) => {
                mount.kill()?;
                mount.fsck()?;
                mount.start()
            }
            None => Ok(()),
        }
    }

    /// Unmounts and checks the data folder. To be called when a case has passed.
    pub fn finish(mut self) -> Check {
        if let Some(zone) = self.zone.take() {
            zone.agree(ZONE_PATIENCE)?;
            return zone.finish();
        }
        match &mut self.mount {
            Some(mount) => {
                mount.stop()?;
                mount.check_log()?;
                mount.fsck()
            }
            None => Ok(()),
        }
    }
}
