//! Requests of S3's protocol, counted by who only sees the bytes of a connection: what a cloud would
//! bill, whatever the daemon says of itself.

/// Longest head of a request that is looked at.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Requests by what they are billed as.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Requests {
    /// Requests that store: whole objects, parts, and what begins and ends an upload.
    pub puts: u64,
    /// Requests that read an object.
    pub gets: u64,
    /// Requests that list.
    pub lists: u64,
    /// All others.
    pub others: u64,
}

impl Requests {
    /// What came since `before`.
    pub fn since(self, before: Requests) -> Requests {
        Requests {
            puts: self.puts - before.puts,
            gets: self.gets - before.gets,
            lists: self.lists - before.lists,
            others: self.others - before.others,
        }
    }

    fn count(&mut self, method: &str, target: &str) {
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let has = |name: &str| query.split('&').any(|part| part.split('=').next() == Some(name));
        match method {
            "GET" if has("list-type") || has("uploads") || has("location") => self.lists += 1,
            "GET" => self.gets += 1,
            "PUT" => self.puts += 1,
            "POST" if has("uploads") || has("uploadId") => self.puts += 1,
            _ => self.others += 1,
        }
    }
}

/// Finds the requests in the bytes that a client sends.
#[derive(Default)]
pub struct Counter {
    head: Vec<u8>,
    body_left: u64,
    /// It is no HTTP that is understood here: nothing more is counted.
    lost: bool,
}

impl Counter {
    /// Takes the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8], requests: &mut Requests) {
        while !bytes.is_empty() && !self.lost {
            if self.body_left > 0 {
                let skip = usize::try_from(self.body_left).unwrap_or(usize::MAX).min(bytes.len());
                self.body_left -= skip as u64;
                bytes = bytes.get(skip..).unwrap_or_default();
                continue;
            }
            let before = self.head.len();
            self.head.extend_from_slice(bytes);
            let Some(end) = self.head.windows(4).position(|window| window == b"\r\n\r\n") else {
                self.lost = self.head.len() > MAX_HEAD_BYTES;
                return;
            };
            let head = String::from_utf8_lossy(self.head.get(..end).unwrap_or_default()).into_owned();
            self.take(&head, requests);
            bytes = bytes.get(end + 4 - before..).unwrap_or_default();
            self.head.clear();
        }
    }

    fn take(&mut self, head: &str, requests: &mut Requests) {
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            self.lost = true;
            return;
        };
        requests.count(method, target);
        let headers = lines.filter_map(|line| line.split_once(':'));
        for (name, value) in headers {
            if name.eq_ignore_ascii_case("content-length") {
                self.body_left = value.trim().parse().unwrap_or(0);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                self.lost = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_found_however_they_are_cut() {
        let text = "PUT /b/p/blobs/1 HTTP/1.1\r\nContent-Length: 10\r\n\r\nGET / HTTP\
                    GET /b/p/blobs/1 HTTP/1.1\r\nrange: bytes=0-9\r\n\r\n\
                    GET /b?list-type=2&prefix=p HTTP/1.1\r\n\r\n\
                    POST /b/p/blobs/2?uploads HTTP/1.1\r\ncontent-length: 0\r\n\r\n\
                    PUT /b/p/blobs/2?partNumber=1&uploadId=x HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc\
                    HEAD /b/p/blobs/1 HTTP/1.1\r\n\r\nDELETE /b/p/blobs/1 HTTP/1.1\r\n\r\n";
        for step in [1, 2, 7, 64, text.len()] {
            let (mut counter, mut requests) = (Counter::default(), Requests::default());
            for piece in text.as_bytes().chunks(step) {
                counter.feed(piece, &mut requests);
            }
            assert_eq!(requests, Requests { puts: 3, gets: 1, lists: 1, others: 2 }, "in pieces of {step}");
        }
    }

    #[test]
    fn what_is_no_http_is_left_alone() {
        let (mut counter, mut requests) = (Counter::default(), Requests::default());
        for _ in 0..40 {
            counter.feed(&[b'x'; 4096], &mut requests);
        }
        assert_eq!(requests, Requests::default());
        assert!(counter.head.len() <= MAX_HEAD_BYTES + 4096);
    }
}
