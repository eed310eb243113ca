//! The node's own certificate: made at the first start, and known by its SHA-256, which the screen shows. There is no authority that would vouch for
//! a machine in a private network, so nobody is asked.

use std::io::{Error, Result};
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair};
use sha2::{Digest, Sha256};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::durable;

const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
/// Programs that look at names find this one.
const NAME: &str = "basalt";

/// The certificate with its key.
pub(super) struct Certificate {
    fingerprint: String,
    config: Arc<ServerConfig>,
}

impl Certificate {
    /// The one of this folder, or a new one where there is none.
    ///
    /// # Errors
    /// It cannot be read, or written.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
        if !certificate.is_file() || !key.is_file() {
            make(folder)?;
        }
        let named =
            |error: &dyn std::fmt::Display| Error::other(format!("{}: {error}", certificate.display()));
        let chain = CertificateDer::from_pem_file(&certificate).map_err(|error| named(&error))?;
        let key = PrivateKeyDer::from_pem_file(&key).map_err(|error| named(&error))?;
        let fingerprint = Sha256::digest(&chain).iter().map(|byte| format!("{byte:02x}")).collect();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .map_err(|error| named(&error))?;
        Ok(Self { fingerprint, config: Arc::new(config) })
    }

    /// Its SHA-256, in hexadecimal digits.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }
}

fn make(folder: &Path) -> Result<()> {
    let key = KeyPair::generate().map_err(Error::other)?;
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).map_err(Error::other)?;
    params.distinguished_name.push(DnType::CommonName, "Basalt node");
    let certificate = params.self_signed(&key).map_err(Error::other)?;
    // The key first: a certificate without one is made anew.
    for (name, text) in [(KEY, key.serialize_pem()), (CERTIFICATE, certificate.pem())] {
        durable::write(&folder.join(name), text.as_bytes(), durable::FOR_ROOT)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_once() {
        let folder = std::env::temp_dir().join(format!("basaltd-{}-certificate", std::process::id()));
        let first = Certificate::open(&folder).expect("it is made").fingerprint().to_owned();
        assert_eq!(first.len(), 64);
        assert_eq!(Certificate::open(&folder).expect("it is read").fingerprint(), first);
        std::fs::write(folder.join(CERTIFICATE), "nonsense").expect("room");
        assert!(Certificate::open(&folder).is_err());
        std::fs::remove_dir_all(folder).expect("it is there");
    }
}
