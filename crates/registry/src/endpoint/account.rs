//! Accounts at a registry: a user name with a password, or an identity token.

use secrecy::{ExposeSecret as _, SecretString};

/// An account at a registry.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The user name.
    pub username: String,
    /// The password or token.
    pub password: SecretString,
}

/// The secret that authenticates a client.
#[derive(Debug, Clone)]
pub(crate) enum Account {
    /// A user name and a password.
    Password(Credential),
    /// An identity token, which the token issuer exchanges for access tokens.
    Identity(SecretString),
}

impl Account {
    /// Returns the secrets in every form in which they are sent.
    pub(crate) fn secrets(&self) -> Vec<String> {
        use http_auth::basic::encode_credentials;
        match self {
            Self::Password(Credential { username, password }) => {
                let password = password.expose_secret();
                let encoded = encode_credentials(username, password);
                vec![without_scheme(&encoded).to_owned(), password.to_owned()]
            }
            Self::Identity(token) => vec![token.expose_secret().to_owned()],
        }
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Password(one), Self::Password(other)) => {
                one.username == other.username
                    && one.password.expose_secret() == other.password.expose_secret()
            }
            (Self::Identity(one), Self::Identity(other)) => {
                one.expose_secret() == other.expose_secret()
            }
            _ => false,
        }
    }
}

/// Returns the value of an `Authorization` header without its scheme, which a server may quote in another form.
pub(crate) fn without_scheme(value: &str) -> &str {
    value.split_once(' ').map_or(value, |(_, rest)| rest)
}
