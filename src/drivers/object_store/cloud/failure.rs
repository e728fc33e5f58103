//! What a cloud's error means, as one sentence that tells what to do.

use nexus_kernel::error::Error;

/// Longest part of a service's own words that is passed on.
const MOST_WORDS: usize = 240;

/// Stands for what [`no_credentials`] says.
const NO_CREDENTIALS: &str = "no credentials were found";

const REFUSED: &str = "the credentials are refused: check them";
const NO_FILE: &str = "GOOGLE_APPLICATION_CREDENTIALS names a file that can't be used: it has to be the JSON file of \
                       a service account's key";

/// Marks in a service's words, with what they mean. The first that is found counts.
const MEANINGS: [(&str, &str); 25] = [
    ("Unable to canonicalize", "there is no such folder: mount the disk that it is on, or make it"),
    (
        "Unable to rename file: Operation not permitted",
        "the file system of that folder has no hard links, by which an object is there whole or not at all: use another",
    ),
    ("Missing AccessKeyId", NO_CREDENTIALS),
    // Where a machine in the cloud would be told its credentials.
    ("169.254.169.254", NO_CREDENTIALS),
    ("NoSuchBucket", "there is no such bucket: check its name, or make it"),
    ("ContainerNotFound", "there is no such container: check its name, or make it"),
    ("InvalidAccessKeyId", "the access key is not known there: check AWS_ACCESS_KEY_ID or the profile"),
    ("SignatureDoesNotMatch", "the secret key does not fit the access key: check it"),
    ("ExpiredToken", "the credentials have expired: renew them"),
    ("InvalidToken", "the session token is not valid: renew it"),
    ("RequestTimeTooSkewed", "this machine's clock is wrong: set it"),
    ("PermanentRedirect", "the bucket is in another region: name it with --region"),
    ("AuthorizationHeaderMalformed", "the bucket is in another region: name it with --region"),
    ("incorrectly configured region", "the bucket is in another region: name it with --region"),
    ("AuthenticationFailed", REFUSED),
    ("Server failed to authenticate", REFUSED),
    ("AuthenticationRequired", REFUSED),
    ("Account must be specified", "whose storage is not known: set AZURE_STORAGE_ACCOUNT_NAME"),
    ("Invalid Access Key", "AZURE_STORAGE_ACCOUNT_KEY is no key: it has to be base64, as the portal shows it"),
    ("Unable to open service account", NO_FILE),
    ("Unable to decode service account", NO_FILE),
    ("No RSA key found", NO_FILE),
    ("AccessDenied", "access is denied: the key must be allowed to list, read, write and delete below the prefix"),
    ("SlowDown", "it asks for fewer requests; they will be tried again"),
    ("InvalidBucketName", "that can't be a bucket's name"),
];

/// Where credentials are looked for, in that order, by how the store's name begins.
fn no_credentials(what: &str) -> String {
    let places = match what.split_once("://").map_or("", |(scheme, _)| scheme) {
        "gs" => {
            "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT (files) in its environment, \
             ~/.config/gcloud/application_default_credentials.json, the machine's own identity"
        }
        "az" => {
            "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, or AZURE_CLIENT_ID and so on, in its environment, \
             the machine's own identity"
        }
        _ => {
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in its environment, the profile AWS_PROFILE (or default) in \
             ~/.aws/credentials (or AWS_SHARED_CREDENTIALS_FILE), the machine's own identity"
        }
    };
    format!(
        "{NO_CREDENTIALS}. The process that uses the store (for a mounted volume, its daemon, as it was started) looks at: \
         {places}. `store add` and `store test` take --credentials-file instead"
    )
}

/// The kernel's error for one of the client library's. `what` names the store.
pub fn explain(what: &str, error: &object_store::Error) -> Error {
    let words = all_words(error);
    let meant = MEANINGS.iter().find(|(mark, _)| words.contains(mark)).map(|(_, meaning)| *meaning);
    match (error, meant) {
        (object_store::Error::AlreadyExists { .. }, _) => Error::Exists,
        (object_store::Error::Precondition { .. }, _) => Error::Conflict,
        (_, Some(NO_CREDENTIALS)) => Error::Unavailable(format!("{what}: {}", no_credentials(what))),
        (_, Some(meaning)) => Error::Unavailable(format!("{what}: {meaning}")),
        (object_store::Error::NotFound { .. }, None) => Error::NotFound,
        (object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }, None) => {
            Error::Unavailable(format!(
                "{what}: access is denied: the key must be allowed to list, read, write and delete below the prefix"
            ))
        }
        _ => Error::Unavailable(format!("{what} does not answer as it should: {}", short(&words))),
    }
}

/// Whether a service may have refused a request for its form, and not for what it asks.
pub fn is_refusal_of_form(error: &object_store::Error) -> bool {
    let words = all_words(error);
    match error {
        // A bucket's owner may demand signatures of bodies.
        object_store::Error::PermissionDenied { .. } => true,
        object_store::Error::Generic { .. } => {
            // What was changed on its way is another matter.
            ["400 Bad Request", "501 Not Implemented"].iter().any(|mark| words.contains(mark))
                && !words.contains("BadDigest")
        }
        _ => false,
    }
}

/// What an error says, with all that is behind it.
fn all_words(error: &object_store::Error) -> String {
    let mut words = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        let more = source.to_string();
        if !words.contains(&more) {
            words.push_str(": ");
            words.push_str(&more);
        }
        next = source.source();
    }
    words
}

fn short(words: &str) -> String {
    let mut text: String = words.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = text.char_indices().nth(MOST_WORDS) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_found(words: &str) -> object_store::Error {
        object_store::Error::NotFound { path: "x".into(), source: words.into() }
    }

    #[test]
    fn a_missing_bucket_is_no_missing_object() {
        assert_eq!(explain("s3://b", &not_found("404: <Code>NoSuchKey</Code>")), Error::NotFound);
        let Error::Unavailable(text) = explain("s3://b", &not_found("404: <Code>NoSuchBucket</Code>")) else {
            panic!("taken for a missing object")
        };
        assert_eq!(text, "s3://b: there is no such bucket: check its name, or make it");
    }

    #[test]
    fn missing_credentials_are_told_with_where_they_are_looked_for() {
        for (what, says) in [
            ("s3://b", "AWS_SHARED_CREDENTIALS_FILE"),
            ("gs://b", "GOOGLE_APPLICATION_CREDENTIALS"),
            ("az://b", "AZURE_STORAGE_ACCOUNT_KEY"),
        ] {
            let error = object_store::Error::Generic { store: "S3", source: "http://169.254.169.254/x".into() };
            let Error::Unavailable(text) = explain(what, &error) else { panic!("{error:?}") };
            assert!(text.contains(says) && text.contains("its daemon") && !text.contains("169.254"), "{text}");
        }
    }

    /// As the clients word what is wrong with their settings.
    #[test]
    fn settings_that_do_not_do_are_told() {
        for (words, says) in [
            ("Unable to open service account file from /x: No such file", "GOOGLE_APPLICATION_CREDENTIALS"),
            ("Unable to decode service account file: expected value", "GOOGLE_APPLICATION_CREDENTIALS"),
            ("Account must be specified", "set AZURE_STORAGE_ACCOUNT_NAME"),
            ("Invalid Access Key: Invalid padding", "AZURE_STORAGE_ACCOUNT_KEY is no key"),
            ("401: <Code>AuthenticationRequired</Code>", "the credentials are refused"),
            ("403: <Message>Server failed to authenticate the request.", "the credentials are refused"),
        ] {
            let error = object_store::Error::Generic { store: "a cloud", source: words.into() };
            assert!(matches!(explain("az://b", &error), Error::Unavailable(text) if text.contains(says)), "{words}");
        }
    }

    #[test]
    fn what_is_not_known_is_passed_on_in_few_words() {
        let error = object_store::Error::Generic { store: "S3", source: "x ".repeat(1000).into() };
        let Error::Unavailable(text) = explain("s3://b", &error) else { panic!("{error:?}") };
        assert!(text.starts_with("s3://b does not answer as it should: ") && text.chars().count() < 300, "{text}");
    }
}
