//! The keys of one control plane: an authority, the API server's certificate, the key that signs service
//! accounts' tokens. Created for each cluster; they never leave its folder.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::error::{Error, Result};
use crate::network::CONTROL;

/// Folder of the files.
#[derive(Debug, Clone)]
pub struct Pki(PathBuf);

impl Pki {
    /// Makes all of them in `folder`.
    pub fn create(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::file(format!("make {}", folder.display())))?;
        let pki = Self(folder.to_owned());
        let failed = |what| move |cause| Error::Certificate { what, cause };

        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "berth test cluster");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().map_err(failed("authority's key"))?;
        let certificate = params.self_signed(&key).map_err(failed("authority's certificate"))?;
        pki.write("ca.crt", &certificate.pem())?;
        let issuer = Issuer::new(params, key);

        let names = ["kubernetes.default.svc", "localhost", "127.0.0.1", "10.96.0.1"].map(str::to_owned);
        let names: Vec<String> = names.into_iter().chain([CONTROL.to_string()]).collect();
        let mut params = CertificateParams::new(names).map_err(failed("API server's names"))?;
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(failed("API server's key"))?;
        let certificate = params.signed_by(&key, &issuer).map_err(failed("API server's certificate"))?;
        pki.write("apiserver.crt", &certificate.pem())?;
        pki.write("apiserver.key", &key.serialize_pem())?;

        let key = KeyPair::generate().map_err(failed("service accounts' key"))?;
        pki.write("sa.key", &key.serialize_pem())?;
        // The API server does not derive the public half of a key in this format.
        pki.write("sa.pub", &key.public_key_pem())?;
        Ok(pki)
    }

    /// One of the files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        std::fs::write(self.file(name), text).map_err(Error::file(format!("write {name}")))
    }
}
