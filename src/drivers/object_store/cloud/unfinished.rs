//! Uploads to S3 that a killed daemon left unfinished: their parts are kept, and paid for, until somebody
//! says that they are not wanted. The client library can't list them, so these requests are made here.

use object_store::aws::{AmazonS3, AwsAuthorizer};
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use object_store::path::Path as Key;
use object_store::signer::Signer;

use super::connect::{CloudOptions, client_options};
use super::failure::explain;
use super::url::StoreUrl;
use nexus_kernel::error::{Error, Result};

/// Uploads that are looked at: one page of a listing. What is beyond waits for the next opening.
const MOST: &str = "1000";
/// Bytes of a listing that are read, at the most.
const MOST_BYTES: usize = 4 << 20;

/// A client for unfinished uploads below a prefix.
pub struct Unfinished {
    store: AmazonS3,
    region: String,
    http: HttpClient,
    name: String,
    /// Where the blobs are, with a slash at the end.
    folder: String,
}

/// An upload that was begun.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Begun {
    key: String,
    upload: String,
}

impl Unfinished {
    /// For the blobs below `url`, through a client that signs for `region`.
    pub fn new(store: AmazonS3, region: String, url: &StoreUrl, options: &CloudOptions) -> Result<Unfinished> {
        let name = url.to_string();
        let http = ReqwestConnector::default().connect(&client_options(options));
        let http = http.map_err(|error| explain(&name, &error))?;
        let folder = if url.prefix.is_empty() { "blobs/".to_owned() } else { format!("{}/blobs/", url.prefix) };
        Ok(Unfinished { store, region, http, name, folder })
    }

    /// Uploads of blobs that were begun and not ended. To be asked before this daemon begins any.
    pub async fn list(&self) -> Result<Vec<Begun>> {
        let query = [("uploads", ""), ("prefix", self.folder.as_str()), ("max-uploads", MOST)];
        let listing = self.send("GET", "", &query).await?;
        Ok(parse(&listing, &self.folder))
    }

    /// Gives up one of them, with its parts.
    pub async fn abort(&self, begun: &Begun) -> Result<()> {
        self.send("DELETE", &begun.key, &[("uploadId", &begun.upload)]).await.map(drop)
    }

    /// A request for an object, or for the bucket if there is no key.
    async fn send(&self, method: &str, key: &str, query: &[(&str, &str)]) -> Result<String> {
        let bad =
            |what: String| Error::Unavailable(format!("{}: cannot look for unfinished uploads: {what}", self.name));
        // Only for the address; the request is signed anew.
        const ANY: &str = "x";
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        let minute = std::time::Duration::from_secs(60);
        let path = if key.is_empty() { Key::from(ANY) } else { Key::parse(key).map_err(|_| Error::Invalid)? };
        let signed = self.store.signed_url(request.method().clone(), &path, minute).await;
        let mut url = signed.map_err(|error| explain(&self.name, &error))?;
        if key.is_empty() {
            let bucket = url.path().strip_suffix(ANY).map(|path| path.trim_end_matches('/').to_owned());
            url.set_path(&bucket.unwrap_or_default());
        }
        url.query_pairs_mut().clear().extend_pairs(query);
        *request.method_mut() = method.parse().map_err(|_| Error::Invalid)?;
        *request.uri_mut() = url.as_str().parse().map_err(|error| bad(format!("{error}")))?;
        let credential =
            self.store.credentials().get_credential().await.map_err(|error| explain(&self.name, &error))?;
        let authorizer = AwsAuthorizer::new(&credential, "s3", &self.region);
        authorizer.try_authorize(&mut request, None).map_err(|error| explain(&self.name, &error))?;
        let response = self.http.execute(request).await.map_err(|error| bad(error.to_string()))?;
        if !response.status().is_success() {
            return Err(bad(format!("the answer is {}", response.status())));
        }
        let body = response.into_body().bytes().await.map_err(|error| bad(error.to_string()))?;
        let body = body.get(..body.len().min(MOST_BYTES)).unwrap_or_default();
        Ok(String::from_utf8_lossy(body).into_owned())
    }
}

/// What a listing of uploads tells of blobs in a folder; what else is in it is nobody's here.
fn parse(listing: &str, folder: &str) -> Vec<Begun> {
    let within = |text: &str, tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        let (inner, _) = rest.split_once(&format!("</{tag}>"))?;
        Some(inner.to_owned())
    };
    let is_blob = |name: &str| name.len() == 16 && name.bytes().all(|digit| digit.is_ascii_hexdigit());
    let mut found = Vec::new();
    for upload in listing.split("<Upload>").skip(1) {
        let (Some(key), Some(upload)) = (within(upload, "Key"), within(upload, "UploadId")) else { continue };
        // The folder may have characters that are written in another way here; the name has none.
        match key.rsplit('/').next() {
            Some(name) if is_blob(name) && !upload.is_empty() => {
                found.push(Begun { key: format!("{folder}{name}"), upload });
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc;

    use super::super::connect::connect_parts;
    use super::super::profile::CredentialsFile;
    use super::*;

    const LISTING: &str = "<?xml version=\"1.0\"?><ListMultipartUploadsResult><Bucket>b</Bucket>\
        <Upload><Key>p/blobs/00000abc00000001</Key><UploadId>one.two_3-4</UploadId></Upload>\
        <Upload><Key>p/blobs/notes.txt</Key><UploadId>theirs</UploadId></Upload>\
        <Upload><UploadId>no key</UploadId></Upload>\
        <Upload><Key>p/blobs/00000abc00000002</Key><UploadId>5</UploadId></Upload><IsTruncated>false";

    #[test]
    fn uploads_of_blobs_are_found_in_a_listing_and_nothing_else() {
        let keys: Vec<_> = parse(LISTING, "p/blobs/").into_iter().map(|begun| (begun.key, begun.upload)).collect();
        let expected = [("p/blobs/00000abc00000001", "one.two_3-4"), ("p/blobs/00000abc00000002", "5")];
        assert_eq!(keys, expected.map(|(key, upload)| (key.to_owned(), upload.to_owned())));
        for text in ["", "<Upload>", "<Upload><Key>", "<Upload><Key>blobs/00000abc00000001</Key><UploadId></UploadId>"]
        {
            assert_eq!(parse(text, "blobs/"), [], "{text}");
        }
    }

    /// A server that answers each request with a listing, and tells the first line and whether it was signed.
    #[test]
    fn requests_are_as_s3_takes_them() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", server.local_addr().unwrap());
        let (asked, requests) = mpsc::channel();
        let answers = std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = server.accept().unwrap();
                let (mut text, mut part) = (String::new(), [0; 4096]);
                while !text.contains("\r\n\r\n") {
                    let n = stream.read(&mut part).unwrap();
                    text.push_str(std::str::from_utf8(&part[..n]).unwrap());
                }
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", LISTING.len());
                stream.write_all(head.as_bytes()).unwrap();
                stream.write_all(LISTING.as_bytes()).unwrap();
                let signed = text.to_ascii_lowercase().contains("authorization: aws4-hmac-sha256");
                asked.send((text.lines().next().unwrap_or_default().to_owned(), signed)).unwrap();
            }
        });
        let keys = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(keys.path(), "[default]\naws_access_key_id = a\naws_secret_access_key = b\n").unwrap();
        let credentials = Some(CredentialsFile { file: keys.path().to_owned(), profile: None });
        let region = Some("eu-west-1".to_owned());
        let options = CloudOptions { endpoint: Some(endpoint), region, credentials, ..CloudOptions::default() };
        let url: StoreUrl = "s3://b/p".parse().unwrap();
        let (store, region) = connect_parts(&url, &options, &std::sync::Arc::default()).unwrap().s3.unwrap();
        let unfinished = Unfinished::new(store, region, &url, &options).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let found = runtime.block_on(unfinished.list()).unwrap();
        assert_eq!(found.len(), 2);
        runtime.block_on(unfinished.abort(&found[0])).unwrap();
        answers.join().unwrap();
        let asked: Vec<_> = requests.iter().collect();
        let list = "GET /b?uploads=&prefix=p%2Fblobs%2F&max-uploads=1000 HTTP/1.1";
        let abort = "DELETE /b/p/blobs/00000abc00000001?uploadId=one.two_3-4 HTTP/1.1";
        assert_eq!(asked, [(list.to_owned(), true), (abort.to_owned(), true)]);
    }
}
