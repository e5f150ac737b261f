//! The folder of the secrets that resources of a test name.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Stack;

impl Stack {
    /// Returns the resource of an account whose password is its name twice, and makes the secret of that.
    pub fn account(&self, name: &str, rights: &str) -> String {
        put_secret(self.folder(), name, &format!("{name}{name}\n"), None);
        format!("---\nkind: Account\nname: {name}\npassword: {{ secret: {name} }}\n{rights}")
    }

    /// Returns the lines of a `Registry` without TLS at which this account is used, and makes the secret of its password.
    pub fn login(&self, host: &str, (username, password): (&str, &str)) -> String {
        put_secret(
            self.folder(),
            "login",
            password,
            Some(&format!("http://{host}")),
        );
        format!(
            "host: {host}\nplain_http: true\nusername: {username}\npassword: {{ secret: login }}\n"
        )
    }

    /// Returns the token of the REST API.
    pub fn api_token(&self) -> String {
        let token = fs::read_to_string(self.keys.api_token()).unwrap();
        token.trim().to_owned()
    }
}

/// Returns the folder of secrets of a test, which is made if it is not there.
pub fn secrets_folder(folder: &Path) -> PathBuf {
    let secrets = folder.join("secrets");
    fs::create_dir_all(&secrets).unwrap();
    secrets
}

/// Puts a secret where resources may name it; it may be sent to the origin, or nowhere.
pub fn put_secret(folder: &Path, name: &str, text: &str, origin: Option<&str>) {
    let secrets = secrets_folder(folder);
    fs::write(secrets.join(name), text).unwrap();
    if let Some(origin) = origin {
        fs::write(secrets.join(format!("{name}.hosts")), origin).unwrap();
    }
}
