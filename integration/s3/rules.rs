//! What the server refuses, as Amazon's does: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>.
//!
//! | | |
//! |---|---|
//! | key `nexus-expired` | `ExpiredToken` |
//! | key `nexus-reader`, to change anything | `AccessDenied` |
//! | bucket `abroad`, signed for another region than eu-west-1 | `AuthorizationHeaderMalformed` |
//! | a bucket that is not there | `NoSuchBucket`; s3s-fs makes it at the first upload |
//! | a date that is more than 15 minutes off | `RequestTimeTooSkewed` |
//!
//! Secret keys are as the access keys.

use std::path::PathBuf;

use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};
use time::{Date, Duration, Month, OffsetDateTime, Time};

/// A bucket elsewhere, and where it is.
const ABROAD: (&str, &str) = ("abroad", "eu-west-1");
/// How far dates may be off.
const MOST_SKEW: Duration = Duration::minutes(15);

/// The keys.
pub struct Keys;

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match access_key {
            "nexus-test" | "nexus-reader" => Ok(access_key.into()),
            "nexus-expired" => Err(s3_error!(ExpiredToken, "The provided token has expired.")),
            _ => Err(s3_error!(InvalidAccessKeyId, "The key does not exist in our records.")),
        }
    }
}

/// What is refused of requests with a signature that fits.
pub struct Rules {
    /// Where the buckets are.
    pub folder: PathBuf,
}

#[async_trait::async_trait]
impl S3Access for Rules {
    async fn check(&self, request: &mut S3AccessContext<'_>) -> S3Result<()> {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let Some(who) = request.credentials() else {
            return Err(s3_error!(AccessDenied, "Anonymous access is forbidden."));
        };
        let now = OffsetDateTime::now_utc();
        if moment(header("x-amz-date")).is_some_and(|when| (now - when).abs() > MOST_SKEW) {
            return Err(s3_error!(
                RequestTimeTooSkewed,
                "The difference between the request time and now is too large."
            ));
        }
        let bucket = request.s3_path().get_bucket_name();
        let operation = request.s3_op().name();
        if bucket.is_some_and(|bucket| operation != "CreateBucket" && !self.folder.join(bucket).exists()) {
            return Err(s3_error!(NoSuchBucket, "The specified bucket does not exist."));
        }
        let (abroad, region) = ABROAD;
        if bucket == Some(abroad) && !header("authorization").contains(&format!("/{region}/")) {
            return Err(s3_error!(AuthorizationHeaderMalformed, "The region is wrong; expecting '{region}'"));
        }
        let reads = ["Get", "Head", "List"].iter().any(|begins| operation.starts_with(begins));
        if who.access_key == "nexus-reader" && !reads {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        Ok(())
    }
}

/// A date like `20261127T151656Z`.
fn moment(text: &str) -> Option<OffsetDateTime> {
    let part = |from: usize, to: usize| text.get(from..to)?.parse::<u8>().ok();
    let month = Month::try_from(part(4, 6)?).ok()?;
    let date = Date::from_calendar_date(text.get(..4)?.parse().ok()?, month, part(6, 8)?).ok()?;
    let time = Time::from_hms(part(9, 11)?, part(11, 13)?, part(13, 15)?).ok()?;
    Some(date.with_time(time).assume_utc())
}
