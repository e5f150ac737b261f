//! Ids by which a stream drops what it holds already: of each user its own, so that nobody takes another's away.
//!
//! A stream knows an id whoever sent it. Ids are derived from what happened, so that replicas find the same; without a
//! secret, a service could send a message of its own with the id that another's next one will have, which would be lost.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use uuid::Uuid;

/// The namespace of what is made of passwords.
const NAMESPACE: Uuid = Uuid::from_u128(0x91c4_5a0e_72d3_4f6b_8a19_c2d7_05e8_3b64);

/// How a user makes its ids; those of one without a password are anybody's.
#[derive(Clone, Copy, Default)]
pub(crate) struct MessageIds(Option<Uuid>);

impl fmt::Debug for MessageIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MessageIds")
    }
}

impl MessageIds {
    /// Makes the ids of a user with a password, which all its replicas share.
    pub(crate) fn of(password: &SecretString) -> Self {
        let password = password.expose_secret().as_bytes();
        Self(Some(Uuid::new_v5(&NAMESPACE, password)))
    }

    /// Returns the id that the stream is given.
    pub(crate) fn own(self, id: &str) -> String {
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
    fn replicas_find_the_same_id_and_other_users_another() {
        let [one, replica, other] = ["a", "a", "b"].map(|word| MessageIds::of(&word.into()));
        assert_eq!(one.own("id"), replica.own("id"));
        assert_ne!(one.own("id"), other.own("id"));
        assert_ne!(one.own("id"), one.own("other"));
        assert_ne!(one.own("id"), "id");
        assert_eq!(MessageIds::default().own("id"), "id");
    }
}
