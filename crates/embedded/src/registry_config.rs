//! The configuration of Distribution: tokens of the gateway, notifications to it.

use std::net::SocketAddr;
use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

/// Issuer and service of the registry's tokens, as in the defaults of the gateway.
const TOKEN_ISSUER: &str = "sluice";
const TOKEN_SERVICE: &str = "sluice-registry";

/// What differs between installations.
#[derive(Debug, Clone, Copy)]
pub struct RegistryConfig<'a> {
    /// The address it listens on.
    pub listen: SocketAddr,
    /// The folder of its images.
    pub storage: &'a Path,
    /// The URL of the token issuer, as clients reach it.
    pub token_url: &'a str,
    /// The URL of the gateway's receiver of notifications, as the registry reaches it.
    pub notifications_url: &'a str,
    /// The certificate of the key that signs tokens.
    pub certificate: &'a Path,
    /// The secret that it signs the state of uploads with.
    pub http_secret: &'a SecretString,
    /// The secret that it sends with its notifications.
    pub notifications_secret: &'a SecretString,
}

impl RegistryConfig<'_> {
    /// Returns the configuration; JSON is YAML.
    #[must_use]
    pub fn render(&self) -> Value {
        let notifications_secret = self.notifications_secret.expose_secret();
        json!({
            "version": "0.1",
            // Every other level logs two lines per request.
            "log": { "level": "error", "formatter": "json", "accesslog": { "disabled": true } },
            "storage": {
                "filesystem": { "rootdirectory": self.storage },
                "cache": { "blobdescriptor": "inmemory" },
                "delete": { "enabled": true },
            },
            "auth": { "token": {
                "realm": self.token_url,
                "service": TOKEN_SERVICE,
                "issuer": TOKEN_ISSUER,
                "rootcertbundle": self.certificate,
                // Version 3 would also accept shared-secret keys otherwise; version 2 ignores the setting.
                "signingalgorithms": ["ES256"],
            } },
            "http": {
                "addr": self.listen,
                "secret": self.http_secret.expose_secret(),
                "relativeurls": true,
                "draintimeout": "5s",
            },
            "notifications": {
                "events": { "includereferences": true },
                "endpoints": [{
                    "name": "sluice",
                    "url": self.notifications_url,
                    "headers": { "Authorization": [format!("Bearer {notifications_secret}")] },
                    "timeout": "5s",
                    "threshold": 3,
                    "backoff": "1s",
                    // Layers belong to manifests, which are notified.
                    "ignore": { "mediatypes": ["application/octet-stream"] },
                }],
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_has_a_secret_no_debug_port_and_one_algorithm() {
        let config = RegistryConfig {
            listen: "127.0.0.1:5000".parse().unwrap(),
            storage: Path::new("/var/lib/registry"),
            token_url: "http://127.0.0.1:1/token",
            notifications_url: "http://127.0.0.1:1/notifications",
            certificate: Path::new("certificate.pem"),
            http_secret: &"uploads".to_owned().into(),
            notifications_secret: &"notifications".to_owned().into(),
        };
        assert!(!format!("{config:?}").contains("uploads"));
        let config = config.render();
        assert_eq!(config["http"]["debug"], Value::Null);
        assert_eq!(config["log"]["level"], "error");
        assert_eq!(config["http"]["secret"], "uploads");
        let algorithms = &config["auth"]["token"]["signingalgorithms"];
        assert_eq!(*algorithms, json!(["ES256"]));
        // A deletion needs a token with that right.
        assert!(config["storage"]["delete"]["enabled"].as_bool().unwrap());
        assert!(config["auth"]["token"]["rootcertbundle"].is_string());
        let bearer = &config["notifications"]["endpoints"][0]["headers"]["Authorization"][0];
        assert_eq!(bearer, "Bearer notifications");
    }
}
