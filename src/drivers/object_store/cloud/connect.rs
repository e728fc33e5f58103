//! Opening a bucket: credentials come from where the cloud's own tools take them, and go
//! nowhere else.

use std::sync::Arc;
use std::time::Duration;

use nexus_kernel::error::{Error, Result};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::list::PaginatedListStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use super::failure::explain;
use super::profile;
use super::url::{Provider, StoreUrl};

/// How a bucket is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CloudOptions {
    /// Where the service answers, if not at its usual address: `http://127.0.0.1:9000`.
    pub endpoint: Option<String>,
    /// The bucket's region, where that counts (S3).
    pub region: Option<String>,
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

/// A client for the bucket. Nothing is asked of it yet.
pub fn connect(url: &StoreUrl, options: &CloudOptions) -> Result<Arc<dyn ObjectStore>> {
    connect_parts(url, options).map(|parts| parts.objects)
}

/// The same, with all that it can do.
pub fn connect_parts(url: &StoreUrl, options: &CloudOptions) -> Result<Parts> {
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
    match url.provider {
        Provider::S3 => {
            let mut builder = AmazonS3Builder::from_env().with_bucket_name(&url.bucket);
            if let Some(profile) = profile::aws()? {
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
                builder = builder.with_endpoint(endpoint);
            }
            let region = builder.get_config_value(&AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".to_owned());
            let store = builder.with_client_options(client).with_retry(retry).build().map_err(unusable(url))?;
            Ok(Parts { objects: Arc::new(store.clone()), pages: Arc::new(store.clone()), s3: Some((store, region)) })
        }
        Provider::Gcs => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(&url.bucket);
            if let Some(endpoint) = &options.endpoint {
                builder = builder.with_base_url(endpoint);
            }
            let store = Arc::new(builder.with_client_options(client).with_retry(retry).build().map_err(unusable(url))?);
            Ok(Parts { objects: store.clone(), pages: store, s3: None })
        }
        Provider::Azure => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(&url.bucket);
            if let Some(endpoint) = &options.endpoint {
                builder = builder.with_endpoint(endpoint.clone());
            }
            let store = Arc::new(builder.with_client_options(client).with_retry(retry).build().map_err(unusable(url))?);
            Ok(Parts { objects: store.clone(), pages: store, s3: None })
        }
    }
}

fn unusable(url: &StoreUrl) -> impl Fn(object_store::Error) -> Error {
    let url = url.to_string();
    move |error| explain(&url, &error)
}
