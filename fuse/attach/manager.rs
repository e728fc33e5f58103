//! What a daemon has attached: mounted, remembered in the data folder, mounted again.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nexus::config::{CloudPlace, CredentialsFile};
use nexus::limits::{LimitsChange, StoreLimits};
use nexus_kernel::object_store::Traffic;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::attached::{Attached, View};
use crate::mount::{self, MountOptions, Mounted, Unmount};

/// Attachments of one volume at the most.
const MOST: usize = 64;

/// An attachment, as it is remembered. Credentials are no part of it, at most the file that has them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// The directory, from the mount's root.
    pub path: PathBuf,
    /// Bucket and prefix.
    pub url: String,
    /// Where the service answers, if not at its usual address.
    pub endpoint: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// The file with its own credentials; those of the daemon if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PathBuf>,
    /// The profile in that file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Seconds for which what was seen is believed.
    pub refresh_sec: u64,
    /// Changes are refused.
    pub read_only: bool,
    /// What the bucket may be asked for.
    #[serde(default, skip_serializing_if = "SpecLimits::is_empty")]
    pub limits: SpecLimits,
}

/// Limits of an attached bucket, as they are remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SpecLimits {
    /// Requests at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// Bytes sent a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<u64>,
    /// Bytes fetched a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download: Option<u64>,
}

impl SpecLimits {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == SpecLimits::default()
    }
}

impl From<StoreLimits> for SpecLimits {
    fn from(limits: StoreLimits) -> SpecLimits {
        SpecLimits { max_requests: limits.max_requests, upload: limits.upload, download: limits.download }
    }
}

impl From<SpecLimits> for StoreLimits {
    fn from(limits: SpecLimits) -> StoreLimits {
        StoreLimits { max_requests: limits.max_requests, upload: limits.upload, download: limits.download }
    }
}

struct Active {
    spec: Spec,
    mounted: Option<(Mounted, Arc<Attached>)>,
}

/// An attachment, as it is now.
pub struct Listed {
    /// How it is remembered.
    pub spec: Spec,
    /// Where it is.
    pub target: PathBuf,
    /// Whether it is mounted.
    pub is_served: bool,
    /// What its bucket was asked for since it was mounted.
    pub traffic: Traffic,
}

/// All attachments of a daemon.
pub struct Attachments {
    root: PathBuf,
    data: PathBuf,
    options: MountOptions,
    active: Mutex<Vec<Active>>,
}

impl Attachments {
    /// For the volume in the folder `data`, mounted at `root` with `options`. Nothing is mounted yet.
    pub fn new(data: &Path, root: &Path, options: &MountOptions) -> Attachments {
        let options =
            MountOptions { allow_other: options.allow_other, transport: options.transport, ..MountOptions::default() };
        Attachments { root: root.to_owned(), data: data.to_owned(), options, active: Mutex::default() }
    }

    fn file(&self) -> PathBuf {
        self.data.join("attachments.json")
    }

    /// Mounts what is remembered. What can't be is told in the log, and stays remembered.
    pub fn restore(&self) {
        let specs: Vec<Spec> = match fs::read(self.file()) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                log::error!("{} can't be read ({error}): nothing is attached", self.file().display());
                Vec::new()
            }),
            Err(_) => Vec::new(),
        };
        for spec in specs {
            let mounted = self.mount(&spec, false).inspect_err(|why| log::warn!("{} is not attached: {why}", spec.url));
            self.active.lock().push(Active { spec, mounted: mounted.ok() });
        }
    }

    /// Attaches a bucket at the absolute path `target`.
    pub fn attach(&self, target: &Path, spec: Spec) -> Result<(), String> {
        let inside = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
        let path = target.strip_prefix(&self.root).ok().filter(|path| inside(path) && path.file_name().is_some());
        let path = path.ok_or_else(|| {
            format!("{} is not a directory below the mount {}", target.display(), self.root.display())
        })?;
        let spec = Spec { path: path.to_owned(), ..spec };
        self.check_free(target, path)?;
        // Not under the lock: the bucket may be slow to answer, and two can't be mounted at one place.
        let mounted = Some(self.mount(&spec, true)?);
        let mut active = self.active.lock();
        active.push(Active { spec, mounted });
        self.save(&active)
    }

    /// Refuses a place that is taken, and more attachments than there may be.
    fn check_free(&self, target: &Path, path: &Path) -> Result<(), String> {
        let active = self.active.lock();
        if active.iter().any(|other| other.spec.path.starts_with(path) || path.starts_with(&other.spec.path)) {
            return Err(format!("{} has an attached bucket already: detach it first", target.display()));
        }
        if active.len() >= MOST {
            return Err(format!("{MOST} buckets are attached, and more can't be: detach one first"));
        }
        Ok(())
    }

    fn mount(&self, spec: &Spec, look: bool) -> Result<(Mounted, Arc<Attached>), String> {
        let target = self.root.join(&spec.path);
        if !target.is_dir() {
            return Err(format!("{} is no directory: make it (mkdir), then attach", target.display()));
        }
        let credentials = spec.credentials.clone();
        let credentials = credentials.map(|file| CredentialsFile { file, profile: spec.profile.clone() });
        let place = CloudPlace {
            coding: Default::default(),
            url: spec.url.parse()?,
            endpoint: spec.endpoint.clone(),
            region: spec.region.clone(),
            credentials,
        };
        let bucket = nexus::cloud::bucket(&place, spec.limits.into(), look).map_err(|error| error.to_string())?;
        let folder = self.data.join("staged");
        fs::create_dir_all(&folder).map_err(|error| format!("{} can't be made: {error}", folder.display()))?;
        let view = View {
            refresh: Duration::from_secs(spec.refresh_sec),
            read_only: spec.read_only,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            folder,
        };
        let options = MountOptions { read_only: Some(spec.read_only), ..self.options.clone() };
        let handler = Arc::new(Attached::new(bucket, view));
        let mounted = mount::serve_attached(&spec.url, &target, &options, handler.clone(), &Attached::settings());
        mounted.map(|mounted| (mounted, handler)).map_err(|error| error.to_string())
    }

    fn save(&self, active: &[Active]) -> Result<(), String> {
        let specs: Vec<&Spec> = active.iter().map(|active| &active.spec).collect();
        let write = || -> std::io::Result<()> {
            let new = self.data.join("attachments.new");
            fs::write(&new, serde_json::to_vec_pretty(&specs)?)?;
            fs::File::open(&new)?.sync_all()?;
            fs::rename(&new, self.file())?;
            fs::File::open(&self.data)?.sync_all()
        };
        write().map_err(|error| format!("it is done now, but can't be remembered for the next mount: {error}"))
    }

    /// Detaches what is attached at the absolute path `target`, and forgets it.
    pub fn detach(&self, target: &Path) -> Result<(), String> {
        let mut active = self.active.lock();
        let at = active.iter().position(|active| self.root.join(&active.spec.path) == target);
        let at = at.ok_or_else(|| format!("no bucket is attached at {}", target.display()))?;
        if let Some((mounted, _)) = active.get(at).and_then(|active| active.mounted.as_ref()) {
            mounted.unmount(Unmount::WhenIdle).map_err(|error| error.to_string())?;
        }
        active.remove(at);
        self.save(&active)
    }

    /// Unmounts all, for the mount below them is to go; they stay remembered. If one is in use,
    /// says so, and those that are gone are mounted again.
    pub fn suspend(&self, how: Unmount) -> Result<(), String> {
        let result = self.active.lock().iter_mut().try_for_each(|active| {
            if let Some((mounted, _)) = &active.mounted {
                mounted.unmount(how).map_err(|error| error.to_string())?;
            }
            active.mounted = None;
            Ok(())
        });
        if result.is_err() {
            self.resume();
        }
        result
    }

    /// Mounts again what [`Attachments::suspend`] took away.
    pub fn resume(&self) {
        for active in self.active.lock().iter_mut().filter(|active| active.mounted.is_none()) {
            active.mounted = self.mount(&active.spec, false).inspect_err(|why| log::warn!("{why}")).ok();
        }
    }

    /// Has the bucket that is attached at `target` be asked for no more than the change leaves; answers
    /// what holds then.
    pub fn set_limits(&self, target: &Path, change: LimitsChange) -> Result<SpecLimits, String> {
        let mut active = self.active.lock();
        let found = active.iter_mut().find(|active| self.root.join(&active.spec.path) == target);
        let found = found.ok_or_else(|| format!("no bucket is attached at {}", target.display()))?;
        let limits = change.over(found.spec.limits.into());
        found.spec.limits = limits.into();
        if let Some((_, attached)) = &found.mounted {
            attached.bucket.set_limits(limits);
        }
        self.save(&active)?;
        Ok(limits.into())
    }

    /// What is attached.
    pub fn list(&self) -> Vec<Listed> {
        let active = self.active.lock();
        let told = |active: &Active| Listed {
            spec: active.spec.clone(),
            target: self.root.join(&active.spec.path),
            is_served: active.mounted.as_ref().is_some_and(|(mounted, _)| mounted.is_served()),
            traffic: active.mounted.as_ref().map(|(_, attached)| attached.bucket.traffic()).unwrap_or_default(),
        };
        active.iter().map(told).collect()
    }
}
