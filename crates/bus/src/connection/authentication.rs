//! How a client says who it is: with a password, or with a credentials file; both are read again at each connection.

use std::path::Path;

use anyhow::Context as _;
use async_nats::{Auth, AuthError, ConnectOptions};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use sluice_events::subject::encode;
use sluice_service::BusSettings;

use super::message_ids::MessageIds;

/// What follows from who the client is.
pub(crate) struct Identity {
    /// The options of its connections.
    pub(crate) options: ConnectOptions,
    pub(crate) message_ids: MessageIds,
    /// The token by which its inbox is named: only this user may subscribe to it.
    pub(crate) inbox: String,
}

impl Identity {
    /// Reads the secrets once; a file that cannot be used is an error at the start.
    pub(crate) fn of(settings: &BusSettings, service: &str) -> anyhow::Result<Self> {
        let named = |name: &str| if name.is_empty() { service } else { name }.to_owned();
        if let Some(file) = settings.credentials_file.clone() {
            let credentials = Credentials::read(&file)?;
            let options = ConnectOptions::with_auth_callback(move |nonce| {
                let file = file.clone();
                async move {
                    let answer = || Credentials::read(&file)?.answer(&nonce);
                    answer().map_err(|error| AuthError::new(format!("{error:#}")))
                }
            });
            return Ok(Self {
                options,
                message_ids: MessageIds::of_user(&credentials.seed),
                inbox: named(&credentials.user),
            });
        }
        let inbox = named(&settings.user);
        let Some(file) = settings.password_file.clone() else {
            return Ok(Self {
                options: ConnectOptions::new(),
                message_ids: MessageIds::default(),
                inbox,
            });
        };
        let message_ids = MessageIds::of_user(&sluice_service::secret_file(&file)?);
        let user = settings.user.clone();
        let options = ConnectOptions::with_auth_callback(move |_| {
            let (file, user) = (file.clone(), user.clone());
            async move {
                let password = sluice_service::secret_file(&file).map_err(AuthError::new)?;
                let mut auth = Auth::new();
                auth.username = Some(user);
                auth.password = Some(password.expose_secret().to_owned());
                Ok(auth)
            }
        });
        Ok(Self {
            options,
            message_ids,
            inbox,
        })
    }
}

/// A user's JWT, and the seed of the key that it is for, as nsc writes them into a `.creds` file.
struct Credentials {
    jwt: SecretString,
    seed: SecretString,
    /// The name of the user in the JWT, as a token of a subject.
    user: String,
}

impl Credentials {
    /// Reads a file; errors name it and never its content.
    fn read(file: &Path) -> anyhow::Result<Self> {
        let text = sluice_service::secret_file(file)?;
        Self::parse(text.expose_secret()).with_context(|| {
            format!(
                "`{}` is not a credentials file of NATS, as `nsc generate creds` writes it",
                file.display()
            )
        })
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let jwt = section(text, "NATS USER JWT").context("it has no user JWT")?;
        let seed = section(text, "USER NKEY SEED").context("it has no seed of a user's key")?;
        // Whether the two belong together is what the server finds out.
        KeyPair::from_seed(seed).map_err(|_| anyhow::anyhow!("the seed is not valid"))?;
        let name = user_name(jwt).context("the user JWT is not valid")?;
        Ok(Self {
            jwt: jwt.to_owned().into(),
            seed: seed.to_owned().into(),
            user: if name.is_empty() { name } else { encode(&name) },
        })
    }

    /// Answers the server's nonce.
    fn answer(&self, nonce: &[u8]) -> anyhow::Result<Auth> {
        let key = KeyPair::from_seed(self.seed.expose_secret())?;
        let mut auth = Auth::new();
        auth.jwt = Some(self.jwt.expose_secret().to_owned());
        auth.signature = Some(key.sign(nonce)?);
        Ok(auth)
    }
}

/// Returns the line after the one that begins a section.
fn section<'a>(text: &'a str, title: &str) -> Option<&'a str> {
    let begin = format!("BEGIN {title}");
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.starts_with("---") && line.contains(&begin))?;
    lines.next().filter(|line| !line.is_empty())
}

/// Returns the name in the claims of a JWT.
fn user_name(jwt: &str) -> Option<String> {
    let claims = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let name = claims.get("name").and_then(Value::as_str);
    Some(name.unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &str = "SUAIO3FHUX5PNV2LQIIP7TZ3N4L7TX3W53MQGEIVYFIGA635OZCKEYHFLM";

    fn file(jwt: &str, seed: &str) -> String {
        format!(
            "-----BEGIN NATS USER JWT-----\r\n{jwt}\r\n------END NATS USER JWT------\r\n\r\n*** IMPORTANT ***\r\n\r\n\
             -----BEGIN USER NKEY SEED-----\r\n{seed}\r\n------END USER NKEY SEED------\r\n"
        )
    }

    fn jwt(claims: &str) -> String {
        format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_file_has_the_jwt_the_seed_and_the_name_of_the_user() {
        for (name, token) in [("poller", "poller"), ("of sluice", "of=20sluice"), ("", "")] {
            let jwt = jwt(&format!("{{\"name\":\"{name}\"}}"));
            let credentials = Credentials::parse(&file(&jwt, SEED)).unwrap();
            assert_eq!(credentials.jwt.expose_secret(), jwt);
            assert_eq!(credentials.seed.expose_secret(), SEED);
            assert_eq!(credentials.user, token);
            assert!(credentials.answer(b"nonce").unwrap().signature.is_some());
        }
    }

    #[test]
    fn a_file_that_is_something_else_is_named_without_its_content() {
        let folder = tempfile::tempdir().unwrap();
        for (number, (text, reason)) in [
            ("hunter2".to_owned(), "no user JWT"),
            (file(&jwt("{}"), "").replace(SEED, ""), "no seed"),
            (file(&jwt("{}"), "SUhunter2"), "seed is not valid"),
            (file("hunter2", SEED), "JWT is not valid"),
        ]
        .into_iter()
        .enumerate()
        {
            let path = folder.path().join(number.to_string());
            std::fs::write(&path, text).unwrap();
            let error = Credentials::read(&path).err().unwrap();
            let error = format!("{error:#}");
            assert!(error.contains(&path.display().to_string()), "{error}");
            assert!(error.contains(reason), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
