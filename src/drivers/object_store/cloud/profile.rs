//! The shared credentials file of AWS tools, which the client library does not read. Counts
//! only where the environment names no key. And files with the credentials of one store alone.

use std::collections::HashMap;
use std::env;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use nexus_kernel::error::{Error, Result};

/// Keys of a profile.
#[derive(Clone, PartialEq, Eq)]
pub struct Profile {
    /// Who.
    pub key: String,
    /// The proof.
    pub secret: String,
    /// Of temporary keys.
    pub token: Option<String>,
    /// The region to use, if the file names one.
    pub region: Option<String>,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Profile { .. }")
    }
}

/// A file with the credentials of a store: for S3 in the format of AWS's shared credentials file, for
/// Google the JSON of a service account, for Azure a line `NAME=VALUE` for each variable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CredentialsFile {
    /// Where it is.
    pub file: PathBuf,
    /// The profile in it, for S3; `default` if none is named.
    pub profile: Option<String>,
}

impl CredentialsFile {
    fn text(&self) -> Result<String> {
        let failed = |error| format!("the credentials file {} can't be read: {error}", self.file.display());
        fs::read_to_string(&self.file).map_err(|error| Error::Unavailable(failed(error)))
    }

    /// The profile's keys.
    pub(super) fn aws(&self) -> Result<Profile> {
        let name = self.profile.as_deref().unwrap_or("default");
        find(&self.text()?, "", name).ok_or_else(|| {
            Error::Unavailable(format!(
                "the credentials file {} has no aws_access_key_id and aws_secret_access_key under [{name}]",
                self.file.display()
            ))
        })
    }

    /// The path, as the client library takes it.
    pub(super) fn google(&self) -> Result<String> {
        self.text().map(|_| self.file.to_string_lossy().into_owned())
    }

    /// Names and values of its lines.
    pub(super) fn settings(&self) -> Result<Vec<(String, String)>> {
        let text = self.text()?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let pairs = lines
            .map(|line| line.split_once('=').map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())));
        pairs.collect::<Option<_>>().ok_or_else(|| {
            Error::Unavailable(format!(
                "the credentials file {} has a line that is not NAME=VALUE, as in AZURE_STORAGE_ACCOUNT_NAME=mine",
                self.file.display()
            ))
        })
    }
}

/// The profile that `AWS_PROFILE` names, or the one called `default`.
pub fn aws() -> Result<Option<Profile>> {
    if env::var_os("AWS_ACCESS_KEY_ID").is_some() {
        return Ok(None);
    }
    let named = env::var("AWS_PROFILE").ok().filter(|name| !name.is_empty());
    let home = env::var_os("HOME").map(PathBuf::from);
    let file = |variable: &str, name: &str| {
        let path = env::var_os(variable).map(PathBuf::from);
        path.or_else(|| home.as_ref().map(|home| home.join(".aws").join(name)))
    };
    let read = |path: Option<PathBuf>| path.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let credentials = read(file("AWS_SHARED_CREDENTIALS_FILE", "credentials"));
    let config = read(file("AWS_CONFIG_FILE", "config"));
    let name = named.as_deref().unwrap_or("default");
    match find(&credentials, &config, name) {
        None if named.is_some() => Err(Error::Unavailable(format!(
            "AWS_PROFILE of the daemon is {name:?}, but its shared credentials file (AWS_SHARED_CREDENTIALS_FILE, else \
             ~/.aws/credentials) has no key under that name"
        ))),
        found => Ok(found),
    }
}

fn find(credentials: &str, config: &str, name: &str) -> Option<Profile> {
    let mut own = section(credentials, name);
    let heading = if name == "default" { name.to_owned() } else { format!("profile {name}") };
    let mut more = section(config, &heading);
    let region = own.remove("region").or_else(|| more.remove("region"));
    let mut take = |key: &str| own.remove(key).or_else(|| more.remove(key));
    Some(Profile {
        key: take("aws_access_key_id")?,
        secret: take("aws_secret_access_key")?,
        token: take("aws_session_token"),
        region,
    })
}

/// The settings under a heading.
fn section(text: &str, name: &str) -> HashMap<String, String> {
    let mut within = false;
    let mut found = HashMap::new();
    for line in text.lines().map(str::trim) {
        if let Some(heading) = line.strip_prefix('[').and_then(|line| line.split(']').next()) {
            within = heading.trim() == name;
        } else if within
            && !line.starts_with(['#', ';'])
            && let Some((key, value)) = line.split_once('=')
        {
            found.insert(key.trim().to_owned(), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_can_have_a_file_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        let of = |profile: Option<&str>| CredentialsFile { file: file.clone(), profile: profile.map(str::to_owned) };
        assert!(matches!(of(None).aws(), Err(Error::Unavailable(text)) if text.contains("can't be read")));
        fs::write(&file, "[x]\naws_access_key_id=A\naws_secret_access_key=B\n").unwrap();
        assert_eq!(of(Some("x")).aws().unwrap().key, "A");
        assert!(matches!(of(None).aws(), Err(Error::Unavailable(text)) if text.contains("under [default]")));
        fs::write(&file, "# mine\nAZURE_STORAGE_ACCOUNT_NAME = a\nAZURE_STORAGE_ACCOUNT_KEY=b==\n").unwrap();
        let pairs = of(None).settings().unwrap();
        assert_eq!(pairs[1], ("AZURE_STORAGE_ACCOUNT_KEY".to_owned(), "b==".to_owned()));
        fs::write(&file, "secret").unwrap();
        assert!(matches!(of(None).settings(), Err(Error::Unavailable(text)) if !text.contains("secret")));
    }

    #[test]
    fn a_profile_is_found_by_name() {
        let credentials = "# keys\n[default]\naws_access_key_id = A\naws_secret_access_key=B\n\n\
                           [work]\naws_access_key_id=C\naws_secret_access_key = D=\naws_session_token=E\n";
        let config = "[default]\nregion = eu-west-1\n[profile work]\nregion=us-east-2\n[profile bare]\nregion=x\n";
        let found = find(credentials, config, "default").unwrap();
        assert_eq!((found.key.as_str(), found.secret.as_str(), found.token), ("A", "B", None));
        assert_eq!(found.region.as_deref(), Some("eu-west-1"));
        let found = find(credentials, config, "work").unwrap();
        assert_eq!((found.secret.as_str(), found.token.as_deref()), ("D=", Some("E")));
        assert_eq!(found.region.as_deref(), Some("us-east-2"));
        assert_eq!(find(credentials, config, "bare"), None);
        assert!(!format!("{found:?}").contains('D'));
    }
}
