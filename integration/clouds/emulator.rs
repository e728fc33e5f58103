//! Servers that speak the protocols of Azure and of Google Cloud Storage: processes of their own, on
//! ports of 127.0.0.1, ended by their process ids.
//!
//! Azure's is Azurite, which `scripts/test` installs. For Google's XML API there is none to install;
//! `gcs.py` says why, and answers as its reference has it.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::failure::{Check, During, Stop, ensure};
use crate::lab::Lab;
use crate::mount::Mount;
use crate::scratch::Scratch;
use crate::tool::{Tool, wait_until};

/// How long a server may take until it listens.
const PATIENCE: Duration = Duration::from_secs(60);
/// The account and the key that Azurite is born with, as its documentation tells everybody.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// The one bucket.
const BUCKET: &str = "bucket";

/// Whose protocol is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cloud {
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

impl Cloud {
    /// As URLs begin.
    pub fn scheme(self) -> &'static str {
        match self {
            Cloud::Gcs => "gs",
            Cloud::Azure => "az",
        }
    }
}

/// A server with an empty bucket.
pub struct Emulator {
    cloud: Cloud,
    port: u16,
    process: Child,
    folder: PathBuf,
}

impl Emulator {
    /// Starts one; all that it keeps is in `scratch`.
    pub fn start(lab: &Lab, cloud: Cloud, scratch: &Scratch) -> Check<Emulator> {
        let folder = scratch.folder(cloud.scheme())?;
        let log = folder.join("log");
        let port = crate::ports::own()?;
        let mut command = match cloud {
            Cloud::Gcs => gcs(&folder, port)?,
            Cloud::Azure => azurite(lab, &folder, port)?,
        };
        let words = File::create(&log)?;
        command.stdin(Stdio::piped()).stdout(words.try_clone()?).stderr(words);
        let name = command.get_program().to_owned();
        let process = command.spawn().during(format!("cannot start {}", name.display()))?;
        let mut emulator = Emulator { cloud, port, process, folder };
        wait_until("the server listens", PATIENCE, || {
            let ended = emulator.process.try_wait()?;
            ensure!(ended.is_none(), "the server ended: {}", fs::read_to_string(&log)?);
            Ok(TcpStream::connect(("127.0.0.1", port)).is_ok())
        })?;
        if cloud == Cloud::Azure {
            emulator.container("make", &[])?;
        }
        Ok(emulator)
    }

    /// As `--store` takes it.
    pub fn url(&self, prefix: &str) -> String {
        format!("{}://{BUCKET}/{prefix}", self.cloud.scheme())
    }

    /// As `--endpoint` takes it.
    pub fn endpoint(&self) -> String {
        let root = format!("http://127.0.0.1:{}", self.port);
        match self.cloud {
            Cloud::Gcs => root,
            Cloud::Azure => format!("{root}/{ACCOUNT}"),
        }
    }

    /// Variables with the credentials.
    pub fn credentials(&self) -> Vec<(&'static str, String)> {
        match self.cloud {
            Cloud::Gcs => {
                let file = self.folder.join("account.json");
                vec![("GOOGLE_APPLICATION_CREDENTIALS", file.to_string_lossy().into_owned())]
            }
            Cloud::Azure => account(KEY),
        }
    }

    /// Variables with credentials that the server does not know.
    pub fn false_credentials(&self) -> Check<Vec<(&'static str, String)>> {
        match self.cloud {
            Cloud::Gcs => {
                let file = service_account(&self.folder, "stranger")?;
                Ok(vec![("GOOGLE_APPLICATION_CREDENTIALS", file.to_string_lossy().into_owned())])
            }
            Cloud::Azure => Ok(account(&KEY.replace("Eby8", "Abc8"))),
        }
    }

    /// A mount with the credentials.
    pub fn lend(&self, mount: Mount) -> Mount {
        self.credentials().iter().fold(mount, |mount, (name, value)| mount.with_variable(name, value))
    }

    /// A program with them.
    pub fn lend_tool(&self, tool: Tool) -> Tool {
        self.credentials().iter().fold(tool, |tool, (name, value)| tool.env(name, value))
    }

    /// Names and lengths of the objects below `prefix`, in order.
    pub fn objects(&self, prefix: &str) -> Check<Vec<(String, u64)>> {
        let said = match self.cloud {
            Cloud::Gcs => {
                let found =
                    Tool::shell("find . -type f -printf '%P %s\\n'").within(self.folder.join("buckets").join(BUCKET));
                found.ok()?
            }
            Cloud::Azure => self.container("list", &[])?,
        };
        let parsed = said.lines().filter_map(|line| line.rsplit_once(' '));
        let mut found: Vec<(String, u64)> = parsed
            .filter(|(name, _)| name.starts_with(&format!("{prefix}/")))
            .map(|(name, len)| len.parse().map(|len| (name.to_owned(), len)))
            .collect::<Result<_, _>>()
            .map_err(|error| Stop::Failed(format!("{said:?}: {error}")))?;
        found.sort();
        Ok(found)
    }

    /// Deletes an object, as somebody else may.
    pub fn delete(&self, name: &str) -> Check {
        match self.cloud {
            Cloud::Gcs => Ok(fs::remove_file(self.folder.join("buckets").join(BUCKET).join(name))?),
            Cloud::Azure => self.container("delete", &[name]).map(drop),
        }
    }

    fn container(&self, what: &str, more: &[&str]) -> Check<String> {
        let tool = Tool::python(include_str!("container.py"));
        tool.args([what, &self.endpoint(), ACCOUNT, KEY, BUCKET]).args(more).ok()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait().map(drop)) {
            eprintln!("cannot end the server of {}://: {error}", self.cloud.scheme());
        }
    }
}

fn account(key: &str) -> Vec<(&'static str, String)> {
    vec![("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.to_owned()), ("AZURE_STORAGE_ACCOUNT_KEY", key.to_owned())]
}

fn azurite(lab: &Lab, folder: &Path, port: u16) -> Check<Command> {
    let program = match lab.tools.parent() {
        Some(tools) => tools.join("azurite/node_modules/azurite/dist/src/blob/main.js"),
        None => lab.tools.clone(),
    };
    ensure!(program.exists(), "Azurite is not at {}: `scripts/test clouds` installs it", program.display());
    let mut command = Command::new("node");
    command.arg(program).args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
    command.args(["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--location"]).arg(folder);
    Ok(command)
}

fn gcs(folder: &Path, port: u16) -> Check<Command> {
    service_account(folder, "account")?;
    let key = folder.join("account.pub");
    Tool::new("openssl").args(["pkey", "-pubout", "-in"]).arg(folder.join("account.pem")).arg("-out").arg(&key).ok()?;
    let buckets = folder.join("buckets");
    fs::create_dir_all(buckets.join(BUCKET))?;
    let mut command = Command::new("python3");
    command.args(["-c", include_str!("gcs.py")]).arg(buckets).arg(key).arg(port.to_string());
    Ok(command)
}

/// The file of a service account with a key of its own, as Google's console gives it out.
fn service_account(folder: &Path, name: &str) -> Check<PathBuf> {
    let key = folder.join(format!("{name}.pem"));
    let make = Tool::new("openssl").args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"]);
    make.arg(&key).ok()?;
    let pem = fs::read_to_string(&key)?.replace('\n', "\\n");
    let file = folder.join(format!("{name}.json"));
    fs::write(
        &file,
        format!(
            "{{\"type\": \"service_account\", \"private_key_id\": \"1\", \"private_key\": \"{pem}\", \
             \"client_email\": \"{name}@tests.example\", \"client_id\": \"1\"}}"
        ),
    )?;
    Ok(file)
}
