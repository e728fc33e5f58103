//! Opening a bucket: credentials come from where the cloud's own tools take them, and go
//! nowhere else.

use std::sync::Arc;
use std::time::Duration;

use nexus_kernel::error::{Error, Result};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
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

/// A client for the bucket. Nothing is asked of it yet.
pub fn connect(url: &StoreUrl, options: &CloudOptions) -> Result<Arc<dyn ObjectStore>> {
    // Fails where there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let plain = options.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let client = ClientOptions::new()
        .with_timeout(options.request_timeout)
        .with_connect_timeout(Duration::from_secs(5))
        .with_pool_idle_timeout(Duration::from_secs(60))
        .with_allow_http(plain);
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(5),
            base: 2.0,
        },
        max_retries: 10,
        retry_timeout: options.deadline,
    };
    let store: Arc<dyn ObjectStore> = match url.provider {
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
            Arc::new(builder.with_client_options(client).with_retry(retry).build().map_err(unusable(url))?)
        }
        Provider::Gcs => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(&url.bucket);
            if let Some(endpoint) = &options.endpoint {
                builder = builder.with_base_url(endpoint);
            }
            Arc::new(builder.with_client_options(client).with_retry(retry).build().map_err(unusable(url))?)
        }
        Provider::Azure => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(&url.bucket);
            if let Some(endpoint) = &options.endpoint {
                builder = builder.with_endpoint(endpoint.clone());
            }
            Arc::new(builder.with_client_options(client).with_retry(retry).build().map_err(unusable(url))?)
        }
    };
    Ok(store)
}

fn unusable(url: &StoreUrl) -> impl Fn(object_store::Error) -> Error {
    let url = url.to_string();
    move |error| explain(&url, &error)
}
