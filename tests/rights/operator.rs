//! A NATS with an operator: one account for all of Sluice, whose users have JWTs, as nsc makes them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use sluice_bus::permissions::{claims, users};

/// The keys of an operator and of its accounts.
pub(crate) struct Operator {
    operator: KeyPair,
    account: KeyPair,
    system: KeyPair,
    /// For each user of Sluice the key that issues its JWTs, with the permissions that those have.
    roles: BTreeMap<&'static str, KeyPair>,
}

/// The JWT of a user with its key.
pub(crate) struct Issued {
    pub(crate) jwt: String,
    pub(crate) key: KeyPair,
}

impl Operator {
    pub(crate) fn new() -> Self {
        let with_permissions = users()
            .into_iter()
            .filter(|user| claims(user, &[]).is_some());
        Self {
            operator: KeyPair::new_operator(),
            account: KeyPair::new_account(),
            system: KeyPair::new_account(),
            roles: with_permissions
                .map(|user| (user, KeyPair::new_account()))
                .collect(),
        }
    }

    /// Returns what the configuration of the server says of the operator; it refuses the users with these public keys.
    pub(crate) fn config(&self, revoked: &[String]) -> String {
        let operator = self.sign(&self.operator, "operator", json!({ "type": "operator" }));
        let system = self.sign(&self.system, "SYS", account(&[], &[]));
        let roles: Vec<_> = self
            .roles
            .iter()
            .map(|(name, key)| role(name, key))
            .collect();
        let sluice = self.sign(&self.account, "SLUICE", account(&roles, revoked));
        let (system_key, sluice_key) = (self.system.public_key(), self.account.public_key());
        format!(
            "operator: {operator}\nsystem_account: {system_key}\nresolver: MEMORY\n\
             resolver_preload: {{\n  {system_key}: {system}\n  {sluice_key}: {sluice}\n}}\n"
        )
    }

    /// Issues a JWT for a user of Sluice, with the permissions of its role.
    pub(crate) fn issue(&self, user: &str) -> Issued {
        let nats = json!({ "type": "user", "issuer_account": self.account.public_key() });
        let key = KeyPair::new_user();
        let jwt = jwt(&self.roles[user], &key, user, nats);
        Issued { jwt, key }
    }

    /// Issues a JWT that has permissions itself; with none the user may do everything.
    pub(crate) fn issue_with(&self, user: &str, permissions: Value) -> Issued {
        let key = KeyPair::new_user();
        let mut nats = permissions;
        nats["type"] = json!("user");
        for limit in ["subs", "data", "payload"] {
            nats[limit] = json!(-1);
        }
        let jwt = jwt(&self.account, &key, user, nats);
        Issued { jwt, key }
    }

    fn sign(&self, subject: &KeyPair, name: &str, nats: Value) -> String {
        jwt(&self.operator, subject, name, nats)
    }
}

impl Issued {
    /// Returns the text of the credentials file.
    pub(crate) fn file(&self) -> String {
        format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            self.jwt,
            self.key.seed().unwrap()
        )
    }
}

/// Returns the public key of the user of a credentials file.
pub(crate) fn subject_of(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let seed = text.lines().find(|line| line.starts_with("SU")).unwrap();
    KeyPair::from_seed(seed).unwrap().public_key()
}

/// Returns the configuration of a server with an operator, from that of one with users.
pub(crate) fn configured(before: &str, operator: &str) -> String {
    let jetstream = before.lines().find(|line| line.starts_with("jetstream"));
    format!("{}\n{operator}", jetstream.unwrap())
}

fn account(roles: &[Value], revoked: &[String]) -> Value {
    // In a year in which no test runs.
    let revocations: BTreeMap<_, _> = revoked.iter().map(|key| (key, 4_102_444_800_u64)).collect();
    json!({
        "type": "account",
        "limits": {
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
            "leaf": -1, "mem_storage": if roles.is_empty() { 0 } else { -1 },
            "disk_storage": if roles.is_empty() { 0 } else { -1 }, "streams": -1, "consumer": -1,
        },
        "signing_keys": roles,
        "revocations": revocations,
    })
}

/// Returns a key that issues JWTs with the permissions of a user of Sluice.
fn role(user: &str, key: &KeyPair) -> Value {
    let mut template = claims(user, &[]).unwrap();
    for limit in ["subs", "data", "payload"] {
        template[limit] = json!(-1);
    }
    json!({ "kind": "user_scope", "key": key.public_key(), "role": user, "template": template })
}

fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, mut nats: Value) -> String {
    nats["version"] = json!(2);
    let (issuer_key, subject_key) = (issuer.public_key(), subject.public_key());
    let claims = json!({
        "jti": subject_key, "iat": 1_700_000_000, "iss": issuer_key, "sub": subject_key, "name": name, "nats": nats,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(&json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let signed = format!("{header}.{}", part(&claims));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}
