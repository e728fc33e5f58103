//! [`Limited`]: a client whose requests wait until the limits of their store let them begin.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

use super::{Limiter, Urgency, Way};
use crate::object_store::cloud::BoxFuture;

/// A client under limits. What a request is for, [`Urgency`] in its options' extensions tells; without,
/// somebody waits for it. A request that is tried again is paid for once.
#[derive(Debug)]
pub struct Limited {
    inner: Arc<dyn ObjectStore>,
    limiter: Arc<Limiter>,
}

impl Limited {
    /// `inner` under the limits of `limiter`.
    pub fn new(inner: Arc<dyn ObjectStore>, limiter: Arc<Limiter>) -> Limited {
        Limited { inner, limiter }
    }
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Bytes that a request asks for, as far as it tells.
fn wanted(range: Option<&GetRange>) -> u64 {
    match range {
        Some(GetRange::Bounded(Range { start, end })) => end.saturating_sub(*start),
        Some(GetRange::Suffix(bytes)) => *bytes,
        Some(GetRange::Offset(_)) | None => 0,
    }
}

/// A stream whose request ends with it.
fn limited_stream<T: Send + 'static>(
    limiter: &Arc<Limiter>,
    begin: impl FnOnce() -> BoxStream<'static, T> + Send + 'static,
) -> BoxStream<'static, T> {
    let limiter = limiter.clone();
    let begun = async move {
        let place = limiter.begin(Way::Down, 0, Urgency::Demand).await;
        begin().inspect(move |_| {
            let _held = &place;
        })
    };
    begun.into_stream().flatten().boxed()
}

impl ObjectStore for Limited {
    fn put_opts<'s, 'p, 'f>(
        &'s self,
        location: &'p Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> BoxFuture<'f, Result<PutResult>>
    where
        's: 'f,
        'p: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let _place = self.limiter.begin(Way::Up, payload.content_length() as u64, Urgency::Demand).await;
            self.inner.put_opts(location, payload, options).await
        })
    }

    fn put_multipart_opts<'s, 'p, 'f>(
        &'s self,
        location: &'p Path,
        options: PutMultipartOptions,
    ) -> BoxFuture<'f, Result<Box<dyn MultipartUpload>>>
    where
        's: 'f,
        'p: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let _place = self.limiter.begin(Way::Up, 0, Urgency::Demand).await;
            let inner = self.inner.put_multipart_opts(location, options).await?;
            Ok(Box::new(LimitedUpload { inner, limiter: self.limiter.clone() }) as Box<dyn MultipartUpload>)
        })
    }

    fn get_opts<'s, 'p, 'f>(&'s self, location: &'p Path, options: GetOptions) -> BoxFuture<'f, Result<GetResult>>
    where
        's: 'f,
        'p: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let bytes = if options.head { 0 } else { wanted(options.range.as_ref()) };
            let urgency = options.extensions.get::<Urgency>().copied().unwrap_or(Urgency::Demand);
            let place = self.limiter.begin(Way::Down, bytes, urgency).await;
            let mut result = self.inner.get_opts(location, options).await?;
            result.payload = match result.payload {
                GetResultPayload::Stream(stream) => {
                    let held = stream.inspect(move |_| {
                        let _held = &place;
                    });
                    GetResultPayload::Stream(held.boxed())
                }
                // A file that is open, of which nobody else is asked.
                file => file,
            };
            Ok(result)
        })
    }

    fn get_ranges<'s, 'p, 'r, 'f>(
        &'s self,
        location: &'p Path,
        ranges: &'r [Range<u64>],
    ) -> BoxFuture<'f, Result<Vec<Bytes>>>
    where
        's: 'f,
        'p: 'f,
        'r: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let bytes = ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum();
            let _place = self.limiter.begin(Way::Down, bytes, Urgency::Demand).await;
            self.inner.get_ranges(location, ranges).await
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let inner = self.inner.clone();
        limited_stream(&self.limiter, move || inner.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, prefix) = (self.inner.clone(), prefix.cloned());
        limited_stream(&self.limiter, move || inner.list(prefix.as_ref()))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, prefix, offset) = (self.inner.clone(), prefix.cloned(), offset.clone());
        limited_stream(&self.limiter, move || inner.list_with_offset(prefix.as_ref(), &offset))
    }

    fn list_with_delimiter<'s, 'p, 'f>(&'s self, prefix: Option<&'p Path>) -> BoxFuture<'f, Result<ListResult>>
    where
        's: 'f,
        'p: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let _place = self.limiter.begin(Way::Down, 0, Urgency::Demand).await;
            self.inner.list_with_delimiter(prefix).await
        })
    }

    fn copy_opts<'s, 'a, 'b, 'f>(
        &'s self,
        from: &'a Path,
        to: &'b Path,
        options: CopyOptions,
    ) -> BoxFuture<'f, Result<()>>
    where
        's: 'f,
        'a: 'f,
        'b: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let _place = self.limiter.begin(Way::Up, 0, Urgency::Demand).await;
            self.inner.copy_opts(from, to, options).await
        })
    }

    fn rename_opts<'s, 'a, 'b, 'f>(
        &'s self,
        from: &'a Path,
        to: &'b Path,
        options: RenameOptions,
    ) -> BoxFuture<'f, Result<()>>
    where
        's: 'f,
        'a: 'f,
        'b: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let _place = self.limiter.begin(Way::Up, 0, Urgency::Demand).await;
            self.inner.rename_opts(from, to, options).await
        })
    }
}

/// Parts under limits.
#[derive(Debug)]
struct LimitedUpload {
    inner: Box<dyn MultipartUpload>,
    limiter: Arc<Limiter>,
}

impl MultipartUpload for LimitedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (bytes, limiter) = (data.content_length() as u64, self.limiter.clone());
        let part = self.inner.put_part(data);
        Box::pin(async move {
            let _place = limiter.begin(Way::Up, bytes, Urgency::Demand).await;
            part.await
        })
    }

    fn complete<'s, 'f>(&'s mut self) -> BoxFuture<'f, Result<PutResult>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let _place = self.limiter.begin(Way::Up, 0, Urgency::Demand).await;
            self.inner.complete().await
        })
    }

    fn abort<'s, 'f>(&'s mut self) -> BoxFuture<'f, Result<()>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let _place = self.limiter.begin(Way::Up, 0, Urgency::Demand).await;
            self.inner.abort().await
        })
    }
}
