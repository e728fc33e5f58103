//! Where a volume's content lies in the cloud: `s3://bucket/prefix` and its like; in a folder:
//! `file:///path`; or in memory: `memory://`, and `memory://NAME` where there are several.

use std::fmt;
use std::path::{Component, Path};
use std::str::FromStr;

/// Whose protocol a store speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Provider {
    /// Amazon S3, or what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
    /// Nobody's: a folder that this machine reaches.
    Folder,
    /// The daemon's own memory, gone when it ends.
    Memory,
}

/// A bucket (a container, at Azure) and a prefix in it. Never holds a secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreUrl {
    /// Whose it is.
    pub provider: Provider,
    /// The bucket's name; of a folder, its path; of memory, a name that may be empty.
    pub bucket: String,
    /// What all keys begin with, without slashes at its ends; may be empty.
    pub prefix: String,
}

impl Provider {
    /// As URLs begin.
    pub fn scheme(self) -> &'static str {
        match self {
            Provider::S3 => "s3",
            Provider::Gcs => "gs",
            Provider::Azure => "az",
            Provider::Folder => "file",
            Provider::Memory => "memory",
        }
    }
}

impl StoreUrl {
    /// The folder, for a store that is one.
    pub fn folder(&self) -> Option<&Path> {
        (self.provider == Provider::Folder).then(|| Path::new(&self.bucket))
    }

    /// Whether it is a service that is asked over the network.
    pub fn is_bucket(&self) -> bool {
        !matches!(self.provider, Provider::Folder | Provider::Memory)
    }

    /// Objects that one request deletes at the most, as the client library sends them.
    pub fn deletes_at_once(&self) -> usize {
        match self.provider {
            Provider::S3 => 1000,
            Provider::Azure => 256,
            Provider::Gcs | Provider::Folder | Provider::Memory => 1,
        }
    }

    /// Whether all that is there is gone when the daemon ends.
    pub fn is_volatile(&self) -> bool {
        self.provider == Provider::Memory
    }
}

/// The path of a folder as it is written down, if it is one.
fn folder(path: &str) -> Option<String> {
    let is_plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    let is_good = path.starts_with('/') && path.len() < 4096 && !path.contains(char::is_control);
    let normal: std::path::PathBuf = Path::new(path).components().collect();
    // `.` in between is left out of the components.
    let has_dots = path.split('/').any(|part| part == ".") || !Path::new(path).components().all(is_plain);
    let normal = normal.to_str().filter(|normal| is_good && !has_dots && *normal != "/")?;
    Some(normal.to_owned())
}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<StoreUrl, String> {
        let bad = |why: &str| {
            format!(
                "{text:?} is no store: {why}; write it like s3://bucket/prefix, gs://, az://, file:///path or memory://"
            )
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("it has no scheme"))?;
        let provider = match scheme {
            "s3" => Provider::S3,
            "gs" => Provider::Gcs,
            "az" => Provider::Azure,
            "file" => {
                let bucket = folder(rest).ok_or_else(|| {
                    bad("it needs the absolute path of a folder, as in file:///srv/archive, without . and ..")
                })?;
                return Ok(StoreUrl { provider: Provider::Folder, bucket, prefix: String::new() });
            }
            "memory" => Provider::Memory,
            _ => return Err(bad("its scheme is not known")),
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() && provider != Provider::Memory || bucket.len() > 255 {
            return Err(bad("it names no bucket"));
        }
        if !bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)) {
            return Err(bad(
                "a bucket's name has letters, digits, dots and dashes only (keys and passwords go elsewhere)",
            ));
        }
        let prefix = prefix.trim_matches('/');
        if provider == Provider::Memory && !prefix.is_empty() {
            return Err(bad("memory has a name only"));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/.-_=+@".contains(&byte);
        if prefix.len() > 512 || !prefix.bytes().all(plain) || prefix.split('/').any(|part| matches!(part, "." | ".."))
        {
            return Err(bad("its prefix has letters, digits and . - _ = + @ / only"));
        }
        if prefix.contains("//") {
            return Err(bad("its prefix has an empty part"));
        }
        Ok(StoreUrl { provider, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.provider.scheme(), self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_written() {
        for (text, shown) in [
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("gs://my-bucket/a/b/", "gs://my-bucket/a/b"),
            ("az://container/x_y=1", "az://container/x_y=1"),
            ("file:///srv/my disk//x/", "file:///srv/my disk/x"),
            ("memory://", "memory://"),
            ("memory://b/", "memory://b"),
        ] {
            assert_eq!(text.parse::<StoreUrl>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_none_is_refused_with_a_reason() {
        for text in [
            "",
            "bucket/prefix",
            "ftp://bucket",
            "s3://",
            "s3:///x",
            "s3://key:secret@bucket/x",
            "s3://b/../c",
            "s3://b/a//b",
            "file://srv",
            "file:///",
            "file:///a/../b",
            "file:///a/./b",
            "file:///a\nb",
            "memory://a/b",
        ] {
            let problem = text.parse::<StoreUrl>().unwrap_err();
            assert!(problem.contains("is no store"), "{problem}");
        }
    }
}
