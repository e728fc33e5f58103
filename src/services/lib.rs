//! Services: parts that are loaded and unloaded while the system runs. They see the kernel
//! tier and nothing else; drivers and zones of a certain kind are none of their business.

mod registry;
mod usage_log;

pub use registry::{Context, Service, ServiceRegistry};
pub use usage_log::UsageLog;
