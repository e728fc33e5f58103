//! [`Surroundings`]: who runs this, and where that has files looked for.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What decides where files are looked for: who runs this, and the XDG folders.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Surroundings {
    /// Whether this is the superuser.
    pub root: bool,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`, if absolute.
    pub config_home: Option<PathBuf>,
    /// `XDG_STATE_HOME`, if absolute.
    pub state_home: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_process() -> Surroundings {
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Surroundings {
            root: rustix::process::geteuid().is_root(),
            home: folder("HOME"),
            config_home: folder("XDG_CONFIG_HOME"),
            state_home: folder("XDG_STATE_HOME"),
        }
    }

    /// The configuration file that is read if it is there.
    pub fn config_file(&self) -> Option<PathBuf> {
        if self.root {
            return Some(PathBuf::from("/etc/nexus/config.toml"));
        }
        let folder = self.config_home.clone().or_else(|| self.home.as_ref().map(|home| home.join(".config")))?;
        Some(folder.join("nexus/config.toml"))
    }

    /// The folder that volumes lie in by name.
    pub fn volumes(&self) -> Result<PathBuf> {
        if self.root {
            return Ok(PathBuf::from("/var/lib/nexus"));
        }
        self.state_home
            .clone()
            .or_else(|| self.home.as_ref().map(|home| home.join(".local/state")))
            .map(|folder| folder.join("nexus"))
            .ok_or_else(|| Error::Setting {
                place: "HOME".to_owned(),
                problem: "is not set, so there is no default data folder: name one with --data".to_owned(),
            })
    }

    /// The data folder of a volume that is given by name or by path: whatever has a slash is a path.
    pub fn volume(&self, name: &Path) -> Result<PathBuf> {
        let bytes = name.as_os_str().as_encoded_bytes();
        if bytes.contains(&b'/') {
            return std::path::absolute(name).map_err(|error| Error::io(format!("reach {}", name.display()), error));
        }
        if bytes.is_empty() || bytes.starts_with(b".") {
            return Err(Error::Setting {
                place: format!("volume {:?}", name.display().to_string()),
                problem: "a volume's name has at least one letter and does not begin with a dot (a path has a slash)"
                    .to_owned(),
            });
        }
        Ok(self.volumes()?.join(name))
    }
}
