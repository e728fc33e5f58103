//! The registry: which services run, in which order they came.

use std::sync::Arc;

use nexus_kernel::{Error, Result, VfsRouter};
use parking_lot::Mutex;

/// What a service gets of the system.
#[derive(Clone)]
pub struct Context {
    /// The zones.
    pub router: Arc<VfsRouter>,
}

/// Something that runs beside the kernel.
///
/// Implementors guarantee: `start` returns soon (work goes to threads of the service's own);
/// after `stop` returned, nothing of the service runs any more; `stop` of a service that is
/// not running does nothing; a stopped service can be started again.
pub trait Service: Send + Sync {
    /// Its name; one service of a name can be loaded at a time.
    fn name(&self) -> &str;
    /// Begins to work. On an error nothing of it runs.
    fn start(&self, context: &Context) -> Result<()>;
    /// Ends its work.
    fn stop(&self);
}

/// The services that are loaded. Dropping it unloads them, last one first.
pub struct ServiceRegistry {
    context: Context,
    loaded: Mutex<Vec<Arc<dyn Service>>>,
}

impl ServiceRegistry {
    /// A registry without services.
    pub fn new(context: Context) -> ServiceRegistry {
        ServiceRegistry { context, loaded: Mutex::new(Vec::new()) }
    }

    /// Starts `service` and keeps it. [`Error::Exists`] if one of its name is loaded. A
    /// service must not load or unload others from `start` or `stop`.
    pub fn load(&self, service: Arc<dyn Service>) -> Result<()> {
        let mut loaded = self.loaded.lock();
        if loaded.iter().any(|other| other.name() == service.name()) {
            return Err(Error::Exists);
        }
        service.start(&self.context)?;
        log::info!("service {} is loaded", service.name());
        loaded.push(service);
        Ok(())
    }

    /// Stops the service of this name and forgets it. [`Error::NotFound`] if there is none.
    pub fn unload(&self, name: &str) -> Result<()> {
        let mut loaded = self.loaded.lock();
        let place = loaded.iter().position(|service| service.name() == name).ok_or(Error::NotFound)?;
        let service = loaded.remove(place);
        service.stop();
        log::info!("service {name} is unloaded");
        Ok(())
    }

    /// Stops all services, last one first.
    pub fn unload_all(&self) {
        let mut loaded = self.loaded.lock();
        while let Some(service) = loaded.pop() {
            service.stop();
        }
    }

    /// Names of the services, in the order of loading.
    pub fn list(&self) -> Vec<String> {
        self.loaded.lock().iter().map(|service| service.name().to_owned()).collect()
    }
}

impl Drop for ServiceRegistry {
    fn drop(&mut self) {
        self.unload_all();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use nexus_kernel::model::{Dentry, Inode, Usage, ZoneInfo};
    use nexus_kernel::zone::ZoneStats;
    use nexus_kernel::{Command, Ino, MetaRead, Name, Outcome, Timestamp, Zone};

    /// A zone that only counts.
    #[derive(Default)]
    pub(crate) struct CountingZone {
        pub(crate) usage: Mutex<Usage>,
    }

    impl Zone for CountingZone {
        fn propose(&self, _: &Command) -> Result<Outcome> {
            Err(Error::ReadOnly)
        }
        fn read(&self, _: &mut dyn FnMut(&dyn MetaRead) -> Result<()>) -> Result<()> {
            Err(Error::NotSupported)
        }
        fn inode(&self, _: Ino) -> Result<Option<Inode>> {
            Ok(None)
        }
        fn lookup(&self, _: Ino, _: Name<'_>) -> Result<Option<(u64, Dentry)>> {
            Ok(None)
        }
        fn sync(&self) -> Result<()> {
            Ok(())
        }
        fn checkpoint(&self) -> Result<()> {
            Ok(())
        }
        fn allocate_ino(&self) -> Result<Ino> {
            Err(Error::ReadOnly)
        }
        fn now(&self) -> Timestamp {
            Timestamp::default()
        }
        fn info(&self) -> ZoneInfo {
            ZoneInfo { id: [0; 16], hash_seed: 0, created: Timestamp::default() }
        }
        fn usage(&self) -> Result<Usage> {
            Ok(*self.usage.lock())
        }
        fn stats(&self) -> Result<ZoneStats> {
            Ok(ZoneStats::default())
        }
    }

    pub(crate) fn context(zone: Arc<dyn Zone>) -> Context {
        Context { router: Arc::new(VfsRouter::new(zone)) }
    }

    struct Recorder {
        name: &'static str,
        fails: bool,
        events: Arc<Mutex<Vec<String>>>,
    }

    impl Service for Recorder {
        fn name(&self) -> &str {
            self.name
        }
        fn start(&self, _: &Context) -> Result<()> {
            self.events.lock().push(format!("start {}", self.name));
            if self.fails { Err(Error::NotPermitted) } else { Ok(()) }
        }
        fn stop(&self) {
            self.events.lock().push(format!("stop {}", self.name));
        }
    }

    #[test]
    fn services_come_and_go_while_it_runs() {
        let events = Arc::new(Mutex::new(Vec::new()));
        let service = |name, fails| Arc::new(Recorder { name, fails, events: events.clone() });
        let registry = ServiceRegistry::new(context(Arc::new(CountingZone::default())));
        registry.load(service("a", false)).unwrap();
        registry.load(service("b", false)).unwrap();
        registry.load(service("c", false)).unwrap();
        assert_eq!(registry.load(service("b", false)), Err(Error::Exists));
        assert_eq!(registry.load(service("bad", true)), Err(Error::NotPermitted));
        assert_eq!(registry.list(), ["a", "b", "c"]);
        registry.unload("b").unwrap();
        assert_eq!(registry.unload("b"), Err(Error::NotFound));
        registry.load(service("b", false)).unwrap();
        assert_eq!(registry.list(), ["a", "c", "b"]);
        drop(registry);
        assert_eq!(
            *events.lock(),
            ["start a", "start b", "start c", "start bad", "stop b", "start b", "stop b", "stop c", "stop a"]
        );
    }
}
