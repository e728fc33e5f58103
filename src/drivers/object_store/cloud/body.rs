//! How the bodies of requests to S3 are vouched for. The client library signs their SHA-256, which takes
//! longer than all else that is done with a body, here and once more where it arrives. Where nobody can
//! stand between the two, a signature of the request without its body is as good.

/// What goes along with a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vouched {
    /// Its SHA-256 is signed.
    Signed,
    /// Nothing: the connection is encrypted and authenticated.
    ByTls,
    /// A CRC-64, which the service holds it against.
    Summed,
}

impl Vouched {
    /// For a service at `endpoint`, or at Amazon's usual address; `said` is what the environment says of
    /// bodies without a signature.
    pub fn at(endpoint: Option<&str>, said: Option<&str>) -> Vouched {
        if said.is_some_and(|said| said.eq_ignore_ascii_case("false") || said == "0") {
            return Vouched::Signed;
        }
        match endpoint {
            // Not every other service takes the checksum, and TLS has its own.
            Some(endpoint) if endpoint.starts_with("https://") => Vouched::ByTls,
            Some(endpoint) if is_here(endpoint) => Vouched::Summed,
            Some(_) => Vouched::Signed,
            None => Vouched::Summed,
        }
    }
}

/// Whether an address without encryption is this machine's own.
fn is_here(endpoint: &str) -> bool {
    let Some(rest) = endpoint.strip_prefix("http://") else { return false };
    let host = rest.split('/').next().unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost" || name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_can_change_on_its_way_goes_without_a_signature() {
        let cases = [
            (None, Vouched::Summed),
            (Some("https://minio.example:9000"), Vouched::ByTls),
            (Some("http://127.0.0.1:9000"), Vouched::Summed),
            (Some("http://localhost"), Vouched::Summed),
            (Some("http://[::1]:9000/path"), Vouched::Summed),
            (Some("http://10.0.0.7:9000"), Vouched::Signed),
            (Some("http://minio.example"), Vouched::Signed),
            (Some("http://localhost.example"), Vouched::Signed),
            (Some("http://127.0.0.1.example:80"), Vouched::Signed),
        ];
        for (endpoint, expected) in cases {
            assert_eq!(Vouched::at(endpoint, None), expected, "{endpoint:?}");
            assert_eq!(Vouched::at(endpoint, Some("True")), expected, "{endpoint:?}");
            assert_eq!(Vouched::at(endpoint, Some("False")), Vouched::Signed, "{endpoint:?}");
        }
    }
}
