//! The cluster's certificate authority.

use anyhow::{Context, Result};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use ring::digest::{SHA256, digest};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use sigil_cluster::identity::{Identity, Role};
use sigil_cluster::tls::SERVER_NAME;
use time::{Duration, OffsetDateTime};

use crate::record::{Cluster, Millis, Secret, now};

const CA_DAYS: i64 = 20 * 365;
/// Clocks differ.
const EARLIER: Duration = Duration::minutes(5);

/// Signs certificates.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    cluster: String,
    pub(crate) certificate: CertificateDer<'static>,
}

/// A certificate that was made for somebody.
pub(crate) struct Issued {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) pem: String,
    /// See `record::Node::key`.
    pub(crate) key: String,
    pub(crate) ends: Millis,
}

impl Ca {
    /// Makes a CA: certificate and key as PEM.
    pub(crate) fn create(cluster: &str) -> Result<(String, Secret<String>)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("Sigil cluster {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        valid(&mut params, Duration::days(CA_DAYS));
        let certificate = params.self_signed(&key)?;
        Ok((certificate.pem(), Secret(key.serialize_pem())))
    }

    /// The CA of a cluster.
    pub(crate) fn of(cluster: &Cluster) -> Result<Self> {
        let key = KeyPair::from_pem(&cluster.ca_key.0).context("the CA's key")?;
        let certificate = CertificateDer::from_pem_slice(cluster.ca.as_bytes())
            .context("the CA's certificate")?;
        let issuer = Issuer::from_ca_cert_pem(&cluster.ca, key).context("the CA's certificate")?;
        Ok(Self { issuer, cluster: cluster.name.clone(), certificate })
    }

    /// A certificate for the public key of a request (DER). Whatever else the request asks for is
    /// not looked at.
    pub(crate) fn certify(&self, csr: &[u8], role: Role, lifetime: Duration) -> Result<Issued> {
        let request = CertificateSigningRequestDer::from(csr);
        let request = CertificateSigningRequestParams::from_der(&request)
            .context("this is no certificate signing request")?;
        self.issue(&request.public_key, role, lifetime)
    }

    /// A new key and its certificate.
    pub(crate) fn grant(&self, role: Role, lifetime: Duration) -> Result<(Issued, KeyPair)> {
        let key = KeyPair::generate()?;
        Ok((self.issue(&key, role, lifetime)?, key))
    }

    fn issue(
        &self,
        key: &impl rcgen::PublicKeyData,
        role: Role,
        lifetime: Duration,
    ) -> Result<Issued> {
        let mut params = CertificateParams::default();
        let usage = match role {
            Role::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Role::Node(_) | Role::Admin(_) => ExtendedKeyUsagePurpose::ClientAuth,
        };
        if role == Role::Server {
            params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(SERVER_NAME)?));
        }
        let identity = Identity { cluster: self.cluster.clone(), role };
        params.distinguished_name.push(DnType::CommonName, identity.to_string());
        params.subject_alt_names.push(SanType::URI(Ia5String::try_from(identity.to_string())?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.is_ca = IsCa::ExplicitNoCa;
        valid(&mut params, lifetime);
        let certificate = params.signed_by(key, &self.issuer)?;
        let lifetime = i64::try_from(lifetime.whole_milliseconds()).unwrap_or(i64::MAX);
        Ok(Issued {
            pem: certificate.pem(),
            certificate: certificate.into(),
            key: hash(&key.subject_public_key_info()),
            ends: now().saturating_add(lifetime),
        })
    }
}

fn valid(params: &mut CertificateParams, lifetime: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - EARLIER;
    params.not_after = now + lifetime;
}

/// SHA-256, hexadecimal.
pub(crate) fn hash(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes))
}

/// A key as TLS wants it.
pub(crate) fn private_key(key: &KeyPair) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|error| anyhow::anyhow!("the server's own key: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ca() -> Ca {
        let (ca, ca_key) = Ca::create("lab").unwrap();
        let policy_key = Secret(Vec::new());
        Ca::of(&Cluster { name: "lab".into(), ca, ca_key, policy_key, suite: 3 }).unwrap()
    }

    #[test]
    fn what_a_request_asks_for_is_not_granted() {
        let key = KeyPair::generate().unwrap();
        let mut greedy = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
        greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let uri = Ia5String::try_from("spiffe://lab/admin/root").unwrap();
        greedy.subject_alt_names.push(SanType::URI(uri));
        greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let csr = greedy.serialize_request(&key).unwrap();
        let issued = ca().certify(csr.der(), Role::Node(3), Duration::hours(1)).unwrap();
        let identity = Identity::of_certificate(&issued.certificate).unwrap();
        assert_eq!(identity.role, Role::Node(3));
        let text = String::from_utf8_lossy(&issued.certificate).into_owned();
        assert!(!text.contains(SERVER_NAME) && !text.contains("admin"), "{text}");
    }

    #[test]
    fn a_request_that_its_key_did_not_sign_is_refused() {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap();
        let mut bad = csr.der().to_vec();
        let last = bad.len() - 1;
        bad[last] ^= 1;
        assert!(ca().certify(&bad, Role::Node(3), Duration::hours(1)).is_err());
        assert!(ca().certify(b"", Role::Node(3), Duration::hours(1)).is_err());
    }
}
