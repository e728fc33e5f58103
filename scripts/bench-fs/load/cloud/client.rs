//! A plain client of the bucket: what the server and HTTP cost without a file system.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use nexus_bench::{Context, Failure};
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::path::Path as Key;
use object_store::{ClientOptions, ObjectStoreExt, PutPayload};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::server::{BUCKET, KEY, REGION, Server};

/// Requests under way at once.
const PARALLEL: usize = 8;
/// Threads that wait for the network, as many as the daemon has.
const THREADS: usize = 2;

/// A client that keeps its connections.
pub struct Client {
    objects: Arc<AmazonS3>,
    runtime: Runtime,
}

impl Client {
    /// A client of a server, which sends bodies as the daemon does to a service on its own machine: with a
    /// checksum, and without a hash in the signature.
    pub fn of(server: &Server) -> Result<Self, Failure> {
        // Fails where there is one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let objects = AmazonS3Builder::new()
            .with_bucket_name(BUCKET)
            .with_access_key_id(KEY)
            .with_secret_access_key(KEY)
            .with_region(REGION)
            .with_endpoint(server.endpoint())
            .with_unsigned_payload(true)
            .with_checksum_algorithm(Checksum::CRC64NVME)
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .build()
            .during(|| "making a plain client".to_owned())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .during(|| "starting the client's threads".to_owned())?;
        Ok(Client { objects: Arc::new(objects), runtime })
    }

    /// Uploads an object in its parts, several at once.
    pub fn upload(&self, name: &str, parts: &[Bytes]) -> Result<(), Failure> {
        self.runtime
            .block_on(async {
                let mut upload =
                    self.objects.put_multipart(&Key::from(name)).await.during(|| "beginning".to_owned())?;
                let mut under_way = JoinSet::new();
                for part in parts {
                    if under_way.len() == PARALLEL {
                        arrived(under_way.join_next().await)?;
                    }
                    under_way.spawn(upload.put_part(PutPayload::from(part.clone())));
                }
                while let Some(ended) = under_way.join_next().await {
                    arrived(Some(ended))?;
                }
                upload.complete().await.map(drop).during(|| "completing".to_owned())
            })
            .during(|| format!("uploading {name}"))
    }

    /// Uploads parts as objects of their own below `name`, several at once.
    pub fn upload_apart(&self, name: &str, parts: &[Bytes]) -> Result<(), Failure> {
        self.runtime
            .block_on(async {
                let mut under_way = JoinSet::new();
                for (number, part) in parts.iter().enumerate() {
                    if under_way.len() == PARALLEL {
                        arrived(under_way.join_next().await)?;
                    }
                    let (objects, key) = (self.objects.clone(), Key::from(format!("{name}/{number:08}")));
                    let part = PutPayload::from(part.clone());
                    under_way.spawn(async move { objects.put(&key, part).await });
                }
                while let Some(ended) = under_way.join_next().await {
                    arrived(Some(ended))?;
                }
                Ok::<_, Failure>(())
            })
            .during(|| format!("uploading {name} in parts"))
    }

    /// Reads the first `len` bytes of an object in ranges of `step`, several at once.
    pub fn download(&self, name: &str, len: u64, step: u64) -> Result<(), Failure> {
        self.runtime
            .block_on(async {
                let (mut under_way, mut start, mut came) = (JoinSet::new(), 0, 0);
                loop {
                    while under_way.len() < PARALLEL && start < len {
                        let (objects, key, end) = (self.objects.clone(), Key::from(name), len.min(start + step));
                        under_way.spawn(async move { objects.get_range(&key, start..end).await });
                        start = end;
                    }
                    match under_way.join_next().await {
                        Some(ended) => came += arrived(Some(ended))?.map_or(0, |bytes| bytes.len() as u64),
                        None if came == len => return Ok(()),
                        None => return Err(Failure::new(format!("{came} bytes of {len} came"))),
                    }
                }
            })
            .during(|| format!("downloading {name}"))
    }

    /// One range of an object.
    pub fn get(&self, name: &str, range: Range<u64>) -> Result<Bytes, Failure> {
        self.runtime
            .block_on(self.objects.get_range(&Key::from(name), range))
            .during(|| format!("reading a range of {name}"))
    }
}

type Ended<T> = Option<Result<object_store::Result<T>, tokio::task::JoinError>>;

fn arrived<T>(ended: Ended<T>) -> Result<Option<T>, Failure> {
    match ended {
        None => Ok(None),
        Some(task) => task.during(|| "a request was cut short".to_owned())?.during(|| "a request".to_owned()).map(Some),
    }
}
