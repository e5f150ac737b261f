//! The TLS provider of the process, and TLS errors with their remedies.

use std::error::Error;
use std::io;

use rustls::CertificateError;

/// Installs the TLS provider of the process; later calls change nothing.
pub fn install_crypto() {
    // The provider may be installed already; there is only one in this program.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
}

/// Returns the TLS error among an error of an HTTP client and its sources.
#[must_use]
pub fn tls_error(error: &(dyn Error + 'static)) -> Option<rustls::Error> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref::<rustls::Error>() {
            return Some(found.clone());
        }
        // An I/O error does not name what it wraps as its source.
        let wrapped = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => cause.source(),
        };
    }
    None
}

/// Describes an error about a server's certificate, with its remedy.
#[must_use]
pub fn certificate_fault(error: &rustls::Error) -> Option<String> {
    let rustls::Error::InvalidCertificate(fault) = error else {
        return None;
    };
    let description = match fault {
        CertificateError::UnknownIssuer => {
            "it is signed by itself, or by an authority that is not trusted; if that is intended, name the certificate of the authority in `ca` (on the command line: `--src-ca-file` or `--dest-ca-file`)".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired; it has to be renewed at the server".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet; compare the clocks of both machines".to_owned()
        }
        CertificateError::NotValidForName => other_names(&[]),
        CertificateError::NotValidForNameContext { presented, .. } => other_names(presented),
        other => match other.to_string() {
            text if text.contains("CaUsedAsEndEntity") => "it is the certificate of an authority itself (CA:TRUE), as `openssl req -x509` makes them, and not one of a server; make it with `-addext basicConstraints=critical,CA:FALSE`, or sign one with it as mkcert does, and name the authority's certificate in `ca` (on the command line: `--src-ca-file` or `--dest-ca-file`)".to_owned(),
            text if text.contains("UnsupportedCertVersion") => "it is of X.509 version 1, which names no hosts; sign it with extensions, as with `openssl x509 -req -extfile`".to_owned(),
            text => text,
        },
    };
    Some(description)
}

fn other_names(presented: &[String]) -> String {
    let names = if presented.is_empty() {
        "it names no host in its subjectAltName".to_owned()
    } else {
        format!("it is for other names: {}", presented.join(", "))
    };
    format!(
        "{names}; the host must be there as it is written here, as with `openssl req -addext subjectAltName=DNS:registry.example`, or IP: for an address"
    )
}
