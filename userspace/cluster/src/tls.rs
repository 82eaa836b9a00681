//! TLS 1.3 and nothing else, with certificates of the cluster's CA on both sides.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};

use crate::credential::Credential;
use crate::token::Token;

/// The DNS name in every server's certificate; the CA tells clusters apart.
pub const SERVER_NAME: &str = "sigil-server";

/// What TLS cannot work with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// Certificates or keys that are none.
    #[error("the credential cannot be used for TLS")]
    Credential(#[from] Error),
    /// As above.
    #[error("the CA's certificate cannot be used")]
    Ca(#[from] rustls::server::VerifierBuilderError),
    /// The credential lacks a part.
    #[error("the credential is incomplete")]
    Incomplete,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(ca: CertificateDer<'static>) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca)?;
    Ok(Arc::new(roots))
}

/// For clients with a credential.
///
/// # Errors
/// See [`TlsError`].
pub fn client(credential: &Credential) -> Result<ClientConfig, TlsError> {
    let incomplete = || TlsError::Incomplete;
    let ca = credential.ca().ok_or_else(incomplete)?;
    let certificate = credential.certificate().ok_or_else(incomplete)?;
    let key = credential.key().ok_or_else(incomplete)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots(ca)?)
        .with_client_auth_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A ticket could outlive the certificate it was given for.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// For a node that has nothing but a token: the server has to show the CA that the token names.
///
/// # Errors
/// See [`TlsError`].
pub fn joining(token: &Token) -> Result<ClientConfig, TlsError> {
    let verifier = Pinned { token: token.clone(), provider: provider() };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// For servers. Clients without a certificate get through the handshake, to enrol; those with one
/// of another CA do not.
///
/// # Errors
/// See [`TlsError`].
pub fn server(
    ca: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca.clone())?, provider())
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        // The CA goes with it, for those who know it by its fingerprint alone.
        .with_single_cert(vec![certificate, ca], key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Verifies as usual, with the one CA of the chain that a token names.
#[derive(Debug)]
struct Pinned {
    token: Token,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ca = intermediates.iter().find(|certificate| self.token.names(certificate));
        let ca = ca.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let roots = roots(ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(end_entity, &[], name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
