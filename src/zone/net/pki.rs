//! A zone's public key infrastructure: its CA, the nodes' keys, and the certificates that
//! bind a key to a member. All keys are Ed25519; time comes from the caller's clock.

use std::fmt;
use std::sync::{Arc, OnceLock};

use nexus_kernel::{Clock, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509CertificationRequest};

use super::identity::{Fingerprint, ZoneId, parse_dns_name};
use super::tls;
use crate::raft::MemberId;

/// So long before it is made a certificate begins: clocks of nodes may be apart by as much.
const SKEW: Duration = Duration::hours(24);
/// How long a member's certificate is valid.
const NODE_VALIDITY: Duration = Duration::days(365);
/// How long a CA is: nothing renews it.
const CA_VALIDITY: Duration = Duration::days(50 * 365);
/// The same in seconds, for tests; only in builds with debug assertions.
const VALIDITY_VARIABLE: &str = "NEXUS_CERTIFICATE_SECONDS";
/// A certificate is to be renewed when less than this part of its time is left: one in so many.
const RENEWAL_PART: i64 = 3;
/// Largest certificate or signing request that is looked at, in bytes; ours have some 600.
pub(super) const MAX_DER: usize = 8 << 10;
/// Largest PEM text that is looked at, in bytes.
const MAX_PEM: usize = 64 << 10;

/// Why a key, a certificate or a request is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PkiError {
    /// A signing request; the text says what is wrong with it.
    #[error("the certificate signing request is refused: {0}")]
    Request(String),
    /// A certificate; the text says what is wrong with it.
    #[error("the certificate is refused: {0}")]
    Certificate(String),
    /// A private key; the text says what is wrong with it.
    #[error("the private key is refused: {0}")]
    Key(String),
    /// A clock that is out of the range of certificates, or no random numbers.
    #[error("cannot make a certificate: {0}")]
    Make(String),
}

/// A zone's certificate authority. Who has its key decides who is a member.
pub struct ZoneCa {
    zone: ZoneId,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A node's private key for one zone. It never leaves the node.
pub struct NodeKey(KeyPair);

/// What a certificate of a zone says, once its signature has been checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerCertificate {
    /// The zone.
    pub zone: ZoneId,
    /// The member.
    pub member: MemberId,
    /// SHA-256 of its DER.
    pub fingerprint: Fingerprint,
    /// SHA-256 of its public key.
    pub key: Fingerprint,
    /// First and last second that it is valid, from 1970 on.
    pub not_before_s: i64,
    /// See `not_before_s`.
    pub not_after_s: i64,
}

/// A node as a member: its key and certificate, and the CA that vouches for it.
#[derive(Clone)]
pub struct NodeIdentity {
    certificate: PeerCertificate,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivatePkcs8KeyDer<'static>>,
    ca: CertificateDer<'static>,
}

impl ZoneCa {
    /// The CA of a new zone. Fails only where there are no random numbers, or where the clock
    /// is out of the range of certificates.
    pub fn create(zone: ZoneId, clock: &dyn Clock) -> Result<ZoneCa, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(make)?;
        let mut params = params(&zone.dns_name(), clock, CA_VALIDITY)?;
        // It signs members, never another CA.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(make)?.der().clone();
        Ok(ZoneCa { zone, certificate, issuer: Issuer::new(params, key) })
    }

    /// Its certificate and private key, as PEM. Whoever reads it is the CA: keep it secret.
    pub fn to_pem(&self) -> String {
        format!("{}{}", certificate_pem(&self.certificate), self.issuer.key().serialize_pem())
    }

    /// Reads what [`ZoneCa::to_pem`] wrote. The key must be the certificate's.
    pub fn from_pem(text: &str) -> Result<ZoneCa, PkiError> {
        let key = read_key(text)?;
        let certificate = read_certificate(text)?;
        let zone = parse_ca(&certificate, |parsed| {
            if parsed.public_key().subject_public_key.data.as_ref() == key.public_key_raw() {
                Ok(())
            } else {
                Err(PkiError::Key("it is not the key of the CA's certificate".into()))
            }
        })?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(bad_certificate)?;
        Ok(ZoneCa { zone, certificate, issuer })
    }

    /// The zone.
    pub fn zone(&self) -> ZoneId {
        self.zone
    }

    /// Its certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// SHA-256 of its certificate: what an invitation carries.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// A certificate for `member`, valid for a year, for the key of a PKCS#10 request (DER).
    /// Of the request only the key is taken, and it must be Ed25519 and have signed it. The
    /// caller has checked that whoever sent it may be that member.
    pub fn sign(&self, csr: &[u8], member: MemberId, clock: &dyn Clock) -> Result<Vec<u8>, PkiError> {
        let request = parse_csr(csr)?;
        let mut params = params(&self.zone.member_dns_name(member), clock, node_validity())?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let signed = params.signed_by(&request.public_key, &self.issuer).map_err(make)?;
        Ok(signed.der().to_vec())
    }
}

impl fmt::Debug for ZoneCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZoneCa").field("zone", &self.zone).finish_non_exhaustive()
    }
}

impl NodeKey {
    /// A new key.
    pub fn create() -> Result<NodeKey, PkiError> {
        KeyPair::generate_for(&PKCS_ED25519).map(NodeKey).map_err(make)
    }

    /// As PEM, for a file that only the node reads.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// Reads what [`NodeKey::to_pem`] wrote.
    pub fn from_pem(text: &str) -> Result<NodeKey, PkiError> {
        read_key(text).map(NodeKey)
    }

    /// SHA-256 of the public key.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.0.public_key_raw())
    }

    /// A request for a certificate of this key: PKCS#10, DER.
    pub fn csr(&self) -> Result<Vec<u8>, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&self.0).map_err(make)?.der().to_vec())
    }

    /// This key with its certificate, for servers and clients. The certificate must be of this
    /// key, signed by `ca` (both DER), and valid now.
    pub fn identity(&self, certificate: &[u8], ca: &[u8], clock: &dyn Clock) -> Result<NodeIdentity, PkiError> {
        let peer = PeerCertificate::verify(certificate, ca, clock)?;
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(bad_certificate)?;
        if parsed.public_key().subject_public_key.data.as_ref() != self.0.public_key_raw() {
            return Err(PkiError::Certificate("it is of another key than this node's".into()));
        }
        let ca = CertificateDer::from(ca.to_vec());
        Ok(NodeIdentity {
            certificate: peer,
            // The CA goes along for joiners, who know only its fingerprint.
            chain: vec![CertificateDer::from(certificate.to_vec()), ca.clone()],
            key: Arc::new(PrivatePkcs8KeyDer::from(self.0.serialize_der())),
            ca,
        })
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(..)")
    }
}

impl PeerCertificate {
    /// Checks that `ca` has signed this certificate for a member of its zone (both DER), and
    /// that it is valid now.
    pub fn verify(der: &[u8], ca: &[u8], clock: &dyn Clock) -> Result<PeerCertificate, PkiError> {
        let certificate = PeerCertificate::parse(der)?;
        let ca = CertificateDer::from(ca.to_vec());
        let zone = parse_ca(&ca, |_| Ok(()))?;
        if zone != certificate.zone {
            return Err(PkiError::Certificate(format!(
                "it is of zone {}, but its CA of zone {zone}",
                certificate.zone
            )));
        }
        tls::verify_member(&CertificateDer::from(der.to_vec()), &ca, &certificate, clock)
            .map_err(|error| PkiError::Certificate(error.to_string()))?;
        Ok(certificate)
    }

    /// The zone that a certificate names, whoever signed it.
    pub fn zone_of(der: &[u8]) -> Option<ZoneId> {
        PeerCertificate::parse(der).ok().map(|parsed| parsed.zone)
    }

    /// What a certificate says, whoever signed it.
    pub fn parse(der: &[u8]) -> Result<PeerCertificate, PkiError> {
        let parsed = parse_certificate(der)?;
        let names = parsed.subject_alternative_name().map_err(bad_certificate)?;
        let name = match names.map(|names| names.value.general_names.as_slice()) {
            Some([GeneralName::DNSName(name)]) => *name,
            _ => return Err(PkiError::Certificate("it does not have exactly one name".into())),
        };
        match parse_dns_name(name) {
            Some((zone, Some(member))) => Ok(PeerCertificate {
                zone,
                member,
                fingerprint: Fingerprint::of(der),
                key: Fingerprint::of(parsed.public_key().subject_public_key.data.as_ref()),
                not_before_s: parsed.validity().not_before.timestamp(),
                not_after_s: parsed.validity().not_after.timestamp(),
            }),
            _ => Err(PkiError::Certificate(format!("it is of {name:?}, which is no member of a zone"))),
        }
    }
}

impl PeerCertificate {
    /// Seconds that it was meant for.
    pub fn lifetime_s(&self) -> i64 {
        self.not_after_s.saturating_sub(self.not_before_s).saturating_sub(SKEW.whole_seconds())
    }

    /// Whether it is time to renew it: two thirds of its time are over, or it is not valid yet, as
    /// the clock was wrong when it was made.
    pub fn is_due(&self, now: Timestamp) -> bool {
        let left = self.not_after_s.saturating_sub(now.sec);
        now.sec < self.not_before_s || left.saturating_mul(RENEWAL_PART) < self.lifetime_s()
    }
}

impl NodeIdentity {
    /// What the certificate says.
    pub fn certificate(&self) -> &PeerCertificate {
        &self.certificate
    }

    /// The certificate, DER.
    pub fn certificate_der(&self) -> &[u8] {
        self.chain.first().map_or(&[], |der| der)
    }

    /// The CA's certificate, DER.
    pub fn ca(&self) -> &[u8] {
        &self.ca
    }

    pub(super) fn ca_der(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    pub(super) fn chain(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.chain.clone(), PrivateKeyDer::Pkcs8(self.key.clone_key()))
    }
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeIdentity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A request whose signature is right, and whose key is of the one kind that we use.
fn parse_csr(der: &[u8]) -> Result<CertificateSigningRequestParams, PkiError> {
    let refused = |why: &str| PkiError::Request(why.into());
    if der.len() > MAX_DER {
        return Err(refused("it is too long"));
    }
    match X509CertificationRequest::from_der(der) {
        Ok(([], _)) => {}
        Ok(_) => return Err(refused("something follows it")),
        Err(_) => return Err(refused("it is not a PKCS#10 request")),
    }
    let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
        .map_err(|error| PkiError::Request(error.to_string()))?;
    if request.public_key.algorithm() != &PKCS_ED25519 {
        return Err(refused("its key is not Ed25519"));
    }
    Ok(request)
}

fn parse_certificate(der: &[u8]) -> Result<X509Certificate<'_>, PkiError> {
    if der.len() > MAX_DER {
        return Err(PkiError::Certificate("it is too long".into()));
    }
    match X509Certificate::from_der(der) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(PkiError::Certificate("something follows it".into())),
        Err(error) => Err(bad_certificate(error)),
    }
}

/// The zone that a CA's certificate is for, if `check` has nothing against it.
fn parse_ca(der: &[u8], check: impl FnOnce(&X509Certificate<'_>) -> Result<(), PkiError>) -> Result<ZoneId, PkiError> {
    let parsed = parse_certificate(der)?;
    let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let zone = match name.and_then(parse_dns_name) {
        Some((zone, None)) if parsed.is_ca() => zone,
        _ => return Err(PkiError::Certificate("it is not that of a zone's CA".into())),
    };
    check(&parsed)?;
    Ok(zone)
}

/// How long a member's new certificate is valid.
fn node_validity() -> Duration {
    static SHORT: OnceLock<Option<i64>> = OnceLock::new();
    let short = SHORT.get_or_init(|| {
        let text = cfg!(debug_assertions).then(|| std::env::var(VALIDITY_VARIABLE).ok()).flatten();
        text.and_then(|text| text.parse().ok())
    });
    short.map_or(NODE_VALIDITY, Duration::seconds)
}

/// What all our certificates have in common.
fn params(name: &str, clock: &dyn Clock, validity: Duration) -> Result<CertificateParams, PkiError> {
    let now = OffsetDateTime::from_unix_timestamp(clock.now().sec).map_err(make)?;
    let end = |time: Option<OffsetDateTime>| time.ok_or_else(|| PkiError::Make("the clock is out of range".into()));
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| PkiError::Make("no random numbers".into()))?;
    let mut params = CertificateParams::default();
    params.not_before = end(now.checked_sub(SKEW))?;
    params.not_after = end(now.checked_add(validity))?;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::DnsName(name.try_into().map_err(make)?)];
    Ok(params)
}

fn read_key(text: &str) -> Result<KeyPair, PkiError> {
    if text.len() > MAX_PEM {
        return Err(PkiError::Key("the text is too long".into()));
    }
    let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|error| PkiError::Key(error.to_string()))?;
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519).map_err(|error| PkiError::Key(error.to_string()))
}

fn read_certificate(text: &str) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(text.as_bytes()).map_err(bad_certificate)
}

/// A certificate as PEM, for a file.
fn certificate_pem(der: &[u8]) -> String {
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in encoded.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

fn make(error: impl fmt::Display) -> PkiError {
    PkiError::Make(error.to_string())
}

fn bad_certificate(error: impl fmt::Display) -> PkiError {
    PkiError::Certificate(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::TestClock;

    const DAY_S: i64 = 24 * 3600;
    const YEAR_S: i64 = 365 * DAY_S;

    #[test]
    fn a_ca_signs_what_its_members_show_each_other() {
        let clock = TestClock::new();
        let zone = ZoneId([3; 16]);
        let ca = ZoneCa::create(zone, &*clock).unwrap();
        let again = ZoneCa::from_pem(&ca.to_pem()).unwrap();
        assert_eq!((again.zone(), again.fingerprint()), (zone, ca.fingerprint()));
        let key = NodeKey::create().unwrap();
        let key = NodeKey::from_pem(&key.to_pem()).unwrap();
        // The one that was read signs for the one that was made.
        let der = again.sign(&key.csr().unwrap(), MemberId(7), &*clock).unwrap();
        let identity = key.identity(&der, ca.certificate(), &*clock).unwrap();
        let expected = PeerCertificate {
            zone,
            member: MemberId(7),
            fingerprint: Fingerprint::of(&der),
            key: key.fingerprint(),
            not_before_s: clock.now().sec - DAY_S,
            not_after_s: clock.now().sec + YEAR_S,
        };
        assert_eq!(*identity.certificate(), expected);
        assert_eq!(expected.lifetime_s(), YEAR_S);
        clock.advance(YEAR_S * 2 / 3);
        assert!(!expected.is_due(clock.now()));
        clock.advance(1);
        assert!(expected.is_due(clock.now()));
        let renewed = ca.sign(&key.csr().unwrap(), MemberId(7), &*clock).unwrap();
        let renewed = key.identity(&renewed, ca.certificate(), &*clock).unwrap();
        assert_eq!((renewed.certificate().member, renewed.certificate().key), (MemberId(7), expected.key));
        assert_ne!(renewed.certificate().fingerprint, expected.fingerprint);
        clock.advance(YEAR_S / 3 + 1);
        assert!(matches!(PeerCertificate::verify(&der, ca.certificate(), &*clock), Err(PkiError::Certificate(_))));
        clock.advance(-2 * YEAR_S);
        assert!(renewed.certificate().is_due(clock.now()), "it was made by a clock that was far ahead");
        clock.advance(2 * YEAR_S);
        assert!(PeerCertificate::verify(renewed.certificate_der(), ca.certificate(), &*clock).is_ok());
    }

    #[test]
    fn what_another_ca_signed_or_another_key_has_is_refused() {
        let clock = TestClock::new();
        let ca = ZoneCa::create(ZoneId([1; 16]), &*clock).unwrap();
        let twin = ZoneCa::create(ZoneId([1; 16]), &*clock).unwrap();
        let other = ZoneCa::create(ZoneId([2; 16]), &*clock).unwrap();
        let key = NodeKey::create().unwrap();
        let der = ca.sign(&key.csr().unwrap(), MemberId(7), &*clock).unwrap();
        for wrong in [&twin, &other] {
            assert!(PeerCertificate::verify(&der, wrong.certificate(), &*clock).is_err());
        }
        let thief = NodeKey::create().unwrap();
        assert!(matches!(thief.identity(&der, ca.certificate(), &*clock), Err(PkiError::Certificate(_))));
        assert!(PeerCertificate::verify(ca.certificate(), ca.certificate(), &*clock).is_err(), "a CA is no member");
        assert!(PeerCertificate::verify(&der, &der, &*clock).is_err(), "a member is no CA");
        // The certificate of one CA with the key of another.
        let mixed = format!("{}{}", certificate_pem(ca.certificate()), twin.issuer.key().serialize_pem());
        assert!(matches!(ZoneCa::from_pem(&mixed), Err(PkiError::Key(_))));
    }

    #[test]
    fn of_a_request_only_a_proven_ed25519_key_is_taken() {
        let clock = TestClock::new();
        let ca = ZoneCa::create(ZoneId([1; 16]), &*clock).unwrap();
        // It asks to be another member, and a CA.
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut greedy = params(&ca.zone().member_dns_name(MemberId(1)), &*clock, CA_VALIDITY).unwrap();
        greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        greedy.serial_number = None;
        let csr = greedy.serialize_request(&key).unwrap().der().to_vec();
        let der = ca.sign(&csr, MemberId(9), &*clock).unwrap();
        let parsed = PeerCertificate::verify(&der, ca.certificate(), &*clock).unwrap();
        assert_eq!(parsed.member, MemberId(9));
        assert!(!parse_certificate(&der).unwrap().is_ca());
        let p256 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let csr = CertificateParams::default().serialize_request(&p256).unwrap().der().to_vec();
        assert_eq!(ca.sign(&csr, MemberId(9), &*clock), Err(PkiError::Request("its key is not Ed25519".into())));
        let mut forged = NodeKey::create().unwrap().csr().unwrap();
        *forged.last_mut().unwrap() ^= 1;
        assert!(matches!(ca.sign(&forged, MemberId(9), &*clock), Err(PkiError::Request(_))));
        let long = [NodeKey::create().unwrap().csr().unwrap(), vec![0]].concat();
        assert_eq!(ca.sign(&long, MemberId(9), &*clock), Err(PkiError::Request("something follows it".into())));
    }
}
