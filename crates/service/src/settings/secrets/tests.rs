//! The secrets that can be read from the folder, and their uses.

use std::os::unix::fs::symlink;
use std::process::Command;

use tempfile::TempDir;

use super::*;

struct Place {
    secrets: Secrets,
    folder: TempDir,
}

fn place(files: &[(&str, &str)]) -> Place {
    let folder = tempfile::tempdir().unwrap();
    let secrets = folder.path().join("secrets");
    fs::create_dir(&secrets).unwrap();
    for (name, text) in files {
        fs::write(secrets.join(name), text).unwrap();
    }
    Place {
        secrets: Secrets::at(secrets),
        folder,
    }
}

impl Place {
    fn sent_to(&self, name: &str, to: &[&str]) -> Result<String, String> {
        let origins = to.iter().map(|origin| origin.parse().unwrap()).collect();
        read_secret(&self.secrets.sent_to(&name.parse().unwrap(), origins))
    }

    fn for_comparison(&self, name: &str) -> Result<String, String> {
        read_secret(&self.secrets.for_comparison(&name.parse().unwrap()))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("secrets").join(name)
    }
}

fn read_secret(file: &SecretFile) -> Result<String, String> {
    file.text()
        .map(|text| text.expose_secret().to_owned())
        .map_err(|error| format!("{error:#}"))
}

#[test]
fn a_secret_goes_only_to_the_hosts_that_its_folder_names() {
    let place = place(&[
        ("hub", " hunter2\n"),
        (
            "hub.hosts",
            "# ours\n\ndocker.io # and its issuer\nregistry.example:5000\n",
        ),
        ("unbound", "hunter3"),
    ]);
    for allowed in [
        &["docker.io"][..],
        &["registry-1.docker.io"],
        &["registry.example:5000"],
        &["registry.example:5000", "docker.io"],
    ] {
        assert_eq!(place.sent_to("hub", allowed).unwrap(), "hunter2");
    }
    for refused in [
        &["attacker.example"][..],
        &["registry.example"],
        &["http://docker.io"],
        &["http://registry.example:5000"],
        &["docker.io", "attacker.example"],
        &["docker.io.attacker.example"],
    ] {
        let error = place.sent_to("hub", refused).unwrap_err();
        assert!(
            error.contains("`hub.hosts`") && error.contains("secrets.dir"),
            "{error}"
        );
        assert!(error.contains(refused.last().unwrap()), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = place.sent_to("unbound", &["docker.io"]).unwrap_err();
    assert!(error.contains("`unbound.hosts`"), "{error}");
    // The error does not reveal whether the secret exists.
    let missing = place.sent_to("missing", &["docker.io"]).unwrap_err();
    assert_eq!(missing.replace("missing", "unbound"), error);
}

#[test]
fn a_secret_that_may_be_sent_is_no_password_of_an_account() {
    let place = place(&[("hub", "hunter2"), ("hub.hosts", ""), ("ci", "hunter3")]);
    assert_eq!(place.for_comparison("ci").unwrap(), "hunter3");
    let error = place.for_comparison("hub").unwrap_err();
    assert!(error.contains("a secret of its own"), "{error}");
    let error = place.for_comparison("missing").unwrap_err();
    assert!(
        error.contains("`missing`") && error.contains("secrets.dir"),
        "{error}"
    );
}

#[test]
fn a_list_of_hosts_that_is_not_understood_allows_nothing() {
    let place = place(&[("hub", "hunter2"), ("hub.hosts", "docker.io\n*\n")]);
    let error = place.sent_to("hub", &["docker.io"]).unwrap_err();
    assert!(error.contains("line 2 of `hub.hosts`"), "{error}");
}

#[test]
fn a_secret_and_its_hosts_are_read_at_each_use() {
    let place = place(&[("hub", "one"), ("hub.hosts", "docker.io")]);
    let file = place
        .secrets
        .sent_to(&"hub".parse().unwrap(), vec!["docker.io".parse().unwrap()]);
    assert_eq!(read_secret(&file).unwrap(), "one");
    let before = file.version();
    fs::write(place.file("hub"), "two").unwrap();
    assert_eq!(read_secret(&file).unwrap(), "two");
    fs::remove_file(place.file("hub.hosts")).unwrap();
    assert!(read_secret(&file).is_err());
    assert_ne!(file.version(), before);
}

#[test]
fn a_link_is_followed_within_the_folder_only() {
    let place = place(&[]);
    let outside = place.folder.path().join("outside");
    fs::write(&outside, "hunter2").unwrap();
    symlink(&outside, place.file("ca")).unwrap();
    let error = place.for_comparison("ca").unwrap_err();
    assert!(error.contains("leads out of the folder"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    // A list of hosts may not lie elsewhere either.
    fs::write(place.file("hub"), "hunter2").unwrap();
    symlink(&outside, place.file("hub.hosts")).unwrap();
    assert!(place.sent_to("hub", &["docker.io"]).is_err());
    // As Kubernetes mounts a secret, and exchanges it for the next.
    for (version, text) in [("..2027_01", "one"), ("..2027_02", "two")] {
        fs::create_dir(place.file(version)).unwrap();
        fs::write(place.file(version).join("token"), text).unwrap();
        fs::remove_file(place.file("..data")).ok();
        symlink(version, place.file("..data")).unwrap();
        if version == "..2027_01" {
            symlink("..data/token", place.file("token")).unwrap();
        }
        assert_eq!(place.for_comparison("token").unwrap(), text);
    }
}

#[test]
fn only_regular_files_of_64_kib_are_secrets() {
    let place = place(&[]);
    fs::create_dir(place.file("folder")).unwrap();
    let made = Command::new("mkfifo").arg(place.file("pipe")).status();
    assert!(made.unwrap().success());
    symlink("/dev/zero", place.file("device")).unwrap();
    fs::write(place.file("large"), "x".repeat((64 << 10) + 1)).unwrap();
    fs::write(place.file("full"), "x".repeat(64 << 10)).unwrap();
    fs::write(place.file("empty"), "\n").unwrap();
    fs::write(place.file("binary"), [0xff, 0xfe]).unwrap();
    assert!(place.for_comparison("full").is_ok());
    for (name, expected) in [
        ("folder", "not a regular file"),
        ("pipe", "not a regular file"),
        ("device", "leads out"),
        ("large", "larger than 64 KiB"),
        ("empty", "empty or not UTF-8"),
        ("binary", "empty or not UTF-8"),
    ] {
        let error = place.for_comparison(name).unwrap_err();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn the_keys_of_the_installation_are_no_secrets_of_resources() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    fs::create_dir_all(keys.join("accounts")).unwrap();
    fs::create_dir_all(keys.join("nats")).unwrap();
    fs::write(keys.join("signing-key.pem"), "key").unwrap();
    for name in ["notifications", "accounts/promoter", "nats/admin"] {
        fs::write(keys.join(name), "hunter2").unwrap();
    }
    symlink(&keys, folder.path().join("link")).unwrap();
    for (dir, name) in [
        ("keys", "notifications"),
        ("link", "notifications"),
        ("keys/accounts", "promoter"),
        ("keys/nats", "admin"),
        ("keys/nats/../nats", "admin"),
    ] {
        let secrets = Secrets::at(folder.path().join(dir));
        let error = read_secret(&secrets.for_comparison(&name.parse().unwrap())).unwrap_err();
        assert!(
            error.contains("keys of this installation"),
            "{dir}: {error}"
        );
    }
}

#[test]
fn a_folder_that_is_missing_is_told_by_its_setting() {
    let missing = Secrets::at("/nowhere/at/all".into());
    for secrets in [missing, Secrets::default()] {
        let error = read_secret(&secrets.for_comparison(&"ci".parse().unwrap())).unwrap_err();
        assert!(
            error.contains("secrets.dir") && error.contains("secret `ci`"),
            "{error}"
        );
    }
}
