//! Opening a bucket: credentials come from where the cloud's own tools take them, and go
//! nowhere else.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nexus_kernel::error::{Error, Result};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::list::PaginatedListStore;
use object_store::memory::InMemory;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use super::BoxFuture;
use super::body::Vouched;
use super::failure::explain;
use super::folder::FolderStore;
use super::profile::{self, CredentialsFile};
use super::url::{Provider, StoreUrl};

/// How a bucket is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CloudOptions {
    /// Where the service answers, if not at its usual address: `http://127.0.0.1:9000`.
    pub endpoint: Option<String>,
    /// The bucket's region, where that counts (S3).
    pub region: Option<String>,
    /// The file with the credentials, if they are not those of the environment.
    pub credentials: Option<CredentialsFile>,
    /// Longest that one try of a request takes.
    pub request_timeout: Duration,
    /// Longest that a request takes with all its tries, about.
    pub deadline: Duration,
}

impl Default for CloudOptions {
    fn default() -> CloudOptions {
        CloudOptions {
            endpoint: None,
            region: None,
            credentials: None,
            request_timeout: Duration::from_secs(20),
            deadline: Duration::from_secs(30),
        }
    }
}

/// A client for a bucket, in its several roles.
pub struct Parts {
    /// Requests.
    pub objects: Arc<dyn ObjectStore>,
    /// Listings by the page.
    pub pages: Arc<dyn PaginatedListStore>,
    /// The client of S3 itself, with the region that it signs for.
    pub s3: Option<(AmazonS3, String)>,
    /// One that stores an object in one request for less, where there is one; a service may refuse it.
    pub light: Option<Arc<dyn ObjectStore>>,
}

/// Clients of a store.
pub struct Clients {
    /// Requests.
    pub objects: Arc<dyn ObjectStore>,
    /// As [`Parts::light`].
    pub light: Option<Arc<dyn ObjectStore>>,
}

/// How HTTP is spoken.
pub fn client_options(options: &CloudOptions) -> ClientOptions {
    let plain = options.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    ClientOptions::new()
        .with_timeout(options.request_timeout)
        .with_connect_timeout(Duration::from_secs(5))
        .with_pool_idle_timeout(Duration::from_secs(60))
        .with_allow_http(plain)
}

/// Clients for the store. Nothing is asked of it yet.
/// Tries that failed are counted in `failed`.
pub fn connect(url: &StoreUrl, options: &CloudOptions, failed: &Arc<AtomicU64>) -> Result<Clients> {
    let only = |objects| Ok(Clients { objects, light: None });
    match url.provider {
        Provider::Folder => only(Arc::new(FolderStore::new(Path::new(&url.bucket)))),
        Provider::Memory => only(Arc::new(InMemory::new())),
        _ => connect_parts(url, options, failed).map(|parts| Clients { objects: parts.objects, light: parts.light }),
    }
}

/// The same for a bucket, with all that it can do.
pub fn connect_parts(url: &StoreUrl, options: &CloudOptions, failed: &Arc<AtomicU64>) -> Result<Parts> {
    // Fails where there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = client_options(options);
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(5),
            base: 2.0,
        },
        max_retries: 10,
        retry_timeout: options.deadline,
    };
    let counting = CountingConnector(failed.clone());
    match url.provider {
        Provider::S3 => {
            let (builder, profile) = match &options.credentials {
                Some(file) => (from_regions(), Some(file.aws()?)),
                None => (AmazonS3Builder::from_env(), profile::aws()?),
            };
            let mut builder = builder.with_bucket_name(&url.bucket).with_http_connector(counting);
            if let Some(profile) = profile {
                builder = builder.with_access_key_id(profile.key).with_secret_access_key(profile.secret);
                if let Some(token) = profile.token {
                    builder = builder.with_token(token);
                }
                if let Some(region) = profile.region {
                    builder = builder.with_region(region);
                }
            }
            if let Some(region) = &options.region {
                builder = builder.with_region(region);
            }
            if let Some(endpoint) = &options.endpoint {
                // One that the environment has for S3 alone would go before it.
                builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
            }
            let region = builder.get_config_value(&AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".to_owned());
            let builder = builder.with_client_options(client).with_retry(retry);
            let light = light(&builder).map(|builder| builder.build().map_err(unusable(url))).transpose()?;
            let light = light.map(|store| Arc::new(store) as Arc<dyn ObjectStore>);
            let store = builder.build().map_err(unusable(url))?;
            let (objects, pages) = (Arc::new(store.clone()), Arc::new(store.clone()));
            Ok(Parts { objects, pages, s3: Some((store, region)), light })
        }
        Provider::Gcs => {
            let builder = match &options.credentials {
                Some(file) => GoogleCloudStorageBuilder::new().with_service_account_path(file.google()?),
                None => GoogleCloudStorageBuilder::from_env(),
            };
            let mut builder = builder.with_bucket_name(&url.bucket).with_http_connector(counting);
            if let Some(endpoint) = &options.endpoint {
                builder = builder.with_base_url(endpoint);
            }
            let store = Arc::new(builder.with_client_options(client).with_retry(retry).build().map_err(unusable(url))?);
            Ok(Parts { objects: store.clone(), pages: store, s3: None, light: None })
        }
        Provider::Folder | Provider::Memory => Err(Error::Unavailable(format!(
            "{url} is no bucket: give s3://, gs:// or az:// (a folder is shown elsewhere by mount --bind)"
        ))),
        Provider::Azure => {
            let builder = match &options.credentials {
                Some(file) => azure(file)?,
                None => MicrosoftAzureBuilder::from_env(),
            };
            let mut builder = builder.with_container_name(&url.bucket).with_http_connector(counting);
            if let Some(endpoint) = &options.endpoint {
                builder = builder.with_endpoint(endpoint.clone());
            }
            let store = Arc::new(builder.with_client_options(client).with_retry(retry).build().map_err(unusable(url))?);
            Ok(Parts { objects: store.clone(), pages: store, s3: None, light: None })
        }
    }
}

/// A client that does not sign bodies, where that is as safe.
fn light(builder: &AmazonS3Builder) -> Option<AmazonS3Builder> {
    let said = |key| builder.get_config_value(&key);
    let endpoint = said(AmazonS3ConfigKey::S3Endpoint).or_else(|| said(AmazonS3ConfigKey::Endpoint));
    let said = std::env::var("AWS_UNSIGNED_PAYLOAD").ok();
    let builder = builder.clone().with_unsigned_payload(true);
    match Vouched::at(endpoint.as_deref(), said.as_deref()) {
        Vouched::Signed => None,
        Vouched::ByTls => Some(builder),
        Vouched::Summed => Some(builder.with_checksum_algorithm(Checksum::CRC64NVME)),
    }
}

/// A client without any credentials, which takes the region from where it is usually said.
fn from_regions() -> AmazonS3Builder {
    let named = ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(|name| std::env::var(name).ok());
    named.into_iter().fold(AmazonS3Builder::new(), |builder, region| builder.with_region(region))
}

/// A client with the settings of a file, which has them as the environment would.
fn azure(file: &CredentialsFile) -> Result<MicrosoftAzureBuilder> {
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in file.settings()? {
        let key = name.to_ascii_lowercase().parse().map_err(|_| {
            let file = file.file.display();
            Error::Unavailable(format!(
                "{name:?} in {file} is no setting of Azure: use AZURE_STORAGE_ACCOUNT_NAME and so on"
            ))
        })?;
        builder = builder.with_config(key, value);
    }
    Ok(builder)
}

/// Makes the usual clients, and has them count tries that failed.
#[derive(Debug)]
struct CountingConnector(Arc<AtomicU64>);

/// A client that counts.
#[derive(Debug)]
struct Counting {
    inner: HttpClient,
    failed: Arc<AtomicU64>,
}

impl HttpConnector for CountingConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Counting { inner, failed: self.0.clone() }))
    }
}

impl HttpService for Counting {
    fn call<'s, 'f>(&'s self, request: HttpRequest) -> BoxFuture<'f, std::result::Result<HttpResponse, HttpError>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let came = self.inner.execute(request).await;
            // As the client library decides on trying again.
            let is_good = came.as_ref().is_ok_and(|answer| {
                let status = answer.status().as_u16();
                status < 500 && status != 408 && status != 429
            });
            if !is_good {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
            came
        })
    }
}

fn unusable(url: &StoreUrl) -> impl Fn(object_store::Error) -> Error {
    let url = url.to_string();
    move |error| explain(&url, &error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the requests really go decides.
    #[test]
    fn an_address_that_is_for_s3_alone_counts_first() {
        let here = || AmazonS3Builder::new().with_endpoint("http://127.0.0.1:9000");
        assert!(light(&here()).is_some());
        assert!(light(&here().with_config(AmazonS3ConfigKey::S3Endpoint, "http://10.0.0.7:9000")).is_none());
        assert!(light(&here().with_config(AmazonS3ConfigKey::S3Endpoint, "https://10.0.0.7:9000")).is_some());
    }
}
