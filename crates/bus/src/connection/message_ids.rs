//! Message ids by which a stream drops duplicates: each user derives its own, so that no user suppresses another's message.
//!
//! A stream compares ids whoever sent them, and ids are derived from the event, so that replicas of a service derive the
//! same. Without a secret, a service could publish a message with the id that another's next message will have, and the
//! stream would drop that one.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use uuid::Uuid;

/// The namespace of the keys that are derived from passwords.
const NAMESPACE: Uuid = Uuid::from_u128(0x91c4_5a0e_72d3_4f6b_8a19_c2d7_05e8_3b64);

/// Derives the message ids of a user; a user without a password sends ids as they are.
#[derive(Clone, Copy, Default)]
pub(crate) struct MessageIds(Option<Uuid>);

impl fmt::Debug for MessageIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MessageIds")
    }
}

impl MessageIds {
    /// Derives ids from the password of a user, which all its replicas share.
    pub(crate) fn of_user(password: &SecretString) -> Self {
        let password = password.expose_secret().as_bytes();
        Self(Some(Uuid::new_v5(&NAMESPACE, password)))
    }

    /// Returns the id that the stream sees.
    pub(crate) fn derive(self, id: &str) -> String {
        self.0.map_or_else(
            || id.to_owned(),
            |key| Uuid::new_v5(&key, id.as_bytes()).to_string(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_derive_the_same_id_and_other_users_another() {
        let [one, replica, other] = ["a", "a", "b"].map(|word| MessageIds::of_user(&word.into()));
        assert_eq!(one.derive("id"), replica.derive("id"));
        assert_ne!(one.derive("id"), other.derive("id"));
        assert_ne!(one.derive("id"), one.derive("other"));
        assert_ne!(one.derive("id"), "id");
        assert_eq!(MessageIds::default().derive("id"), "id");
    }
}
