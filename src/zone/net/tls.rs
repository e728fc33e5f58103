//! TLS as zones use it: version 1.3, ring, both sides with certificates of the zone's CA, and
//! the time from the caller's clock. No session is resumed, so that each is verified.

use std::fmt;
use std::sync::Arc;

use nexus_kernel::Clock;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme, version,
};

use super::identity::{Fingerprint, ZoneId};
use super::pki::{NodeIdentity, PeerCertificate};

/// HTTP/2, and nothing else.
const ALPN: &[u8] = b"h2";

/// What a server shows the clients of one zone, and asks of them. A client need not have a
/// certificate; if it has one, it must be the zone's.
pub(super) fn server(identity: &NodeIdentity, clock: &Arc<dyn Clock>) -> Result<ServerConfig, Error> {
    let provider = provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(identity.ca_der())?, Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    let (chain, key) = identity.chain();
    let mut config = ServerConfig::builder_with_details(provider, Time::of(clock))
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What a member shows other members: they must be those that they are called by.
pub(super) fn client(identity: &NodeIdentity, clock: &Arc<dyn Clock>) -> Result<ClientConfig, Error> {
    let provider = provider();
    let verifier = verifier(identity.ca_der(), &provider)?;
    let (chain, key) = identity.chain();
    let config = ClientConfig::builder_with_details(provider, Time::of(clock))
        .with_protocol_versions(&[&version::TLS13])?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(chain, key)?;
    Ok(finish(config))
}

/// What a node shows that is no member yet: nothing. It trusts any member of the zone whose
/// CA has this fingerprint.
pub(super) fn stranger(zone: ZoneId, ca: Fingerprint, clock: &Arc<dyn Clock>) -> Result<ClientConfig, Error> {
    let provider = provider();
    let config = ClientConfig::builder_with_details(Arc::clone(&provider), Time::of(clock))
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { zone, ca, provider }))
        .with_no_client_auth();
    Ok(finish(config))
}

/// Checks that `ca` has signed a member's certificate, and that it is valid now.
pub(super) fn verify_member(
    der: &CertificateDer<'_>,
    ca: &CertificateDer<'static>,
    says: &PeerCertificate,
    clock: &dyn Clock,
) -> Result<(), Error> {
    let name = server_name(&says.zone.member_dns_name(says.member))?;
    verifier(ca, &provider())?.verify_server_cert(der, &[], &name, &[], unix_time(clock)).map(|_| ())
}

/// A name for a handshake.
pub(super) fn server_name(name: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(name.to_owned()).map_err(|error| Error::General(error.to_string()))
}

fn finish(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(ca: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone())?;
    Ok(Arc::new(roots))
}

fn verifier(ca: &CertificateDer<'static>, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, Error> {
    WebPkiServerVerifier::builder_with_provider(roots(ca)?, Arc::clone(provider))
        .build()
        .map_err(|error| Error::General(error.to_string()))
}

/// The caller's clock for rustls.
struct Time(Arc<dyn Clock>);

impl Time {
    fn of(clock: &Arc<dyn Clock>) -> Arc<Time> {
        Arc::new(Time(Arc::clone(clock)))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(&*self.0))
    }
}

fn unix_time(clock: &dyn Clock) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(clock.now().sec).unwrap_or(0)))
}

/// Trusts whoever a CA vouches for that is known only by its fingerprint.
#[derive(Debug)]
struct Pinned {
    zone: ZoneId,
    ca: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let ca = intermediates.iter().find(|der| Fingerprint::of(der) == self.ca).ok_or(unknown)?;
        let says =
            PeerCertificate::parse(end_entity).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if says.zone != self.zone {
            return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        }
        let name = server_name(&says.zone.member_dns_name(says.member))?;
        verifier(&ca.clone().into_owned(), &self.provider)?.verify_server_cert(end_entity, &[], &name, &[], now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
