//! Where the servers' programs are, and whether they are new enough.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use sluice_service::{UntrustedProgram, trusted_program};

/// The oldest `nats-server` that has what Sluice uses; older ones ignore it silently.
const NATS_SERVER: (u64, u64) = (2, 14);
/// What Distribution is called: by Debian, and by itself.
const REGISTRY_NAMES: [&str; 2] = ["docker-registry", "registry"];

/// Finds `nats-server`: the one that was named, or the first of the tools and the path that is new enough.
pub(crate) fn nats_server(named: Option<&Path>, tools: &Path) -> anyhow::Result<PathBuf> {
    let (major, minor) = NATS_SERVER;
    let mut refused = Vec::new();
    for program in candidates(named, tools, &["nats-server"]) {
        match trusted_program(&program)
            .map_err(Into::into)
            .and_then(|program| version(&program))
        {
            Ok(found) if found >= NATS_SERVER => return Ok(std::path::absolute(program)?),
            Ok((found_major, found_minor)) => refused.push(format!(
                "`{}` is {found_major}.{found_minor}",
                program.display()
            )),
            Err(error) => refused.push(format!("{error:#}")),
        }
    }
    let why = if refused.is_empty() {
        format!("there is none in `{}/bin` or on the path", tools.display())
    } else {
        refused.join(", ")
    };
    anyhow::bail!(
        "`nats-server` {major}.{minor} or newer is needed, and {why}; \
         install it with `deploy/tools --for demo`, name one with --nats-server FILE, \
         or use a server that runs with --nats URL"
    )
}

/// Finds Distribution: the one that was named, or the first of the tools and the path.
pub(crate) fn registry(named: Option<&Path>, tools: &Path) -> anyhow::Result<PathBuf> {
    let otherwise = "name one with --registry-program FILE, or use a registry that runs with --registry-url URL";
    one(
        "Distribution's registry",
        named,
        tools,
        &REGISTRY_NAMES,
        otherwise,
    )
}

/// Finds Trivy: the one that was named, or the first of the tools and the path.
pub(crate) fn trivy(named: Option<&Path>, tools: &Path) -> anyhow::Result<PathBuf> {
    let otherwise = "or name one with --trivy FILE";
    one("Trivy", named, tools, &["trivy"], otherwise)
}

fn one(
    what: &str,
    named: Option<&Path>,
    tools: &Path,
    names: &[&str],
    otherwise: &str,
) -> anyhow::Result<PathBuf> {
    let mut refused = None;
    for program in candidates(named, tools, names) {
        match trusted_program(&program) {
            Ok(program) => return Ok(program),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    let missing = match (refused, named) {
        (Some(error), _) => chain(&error),
        (None, Some(named)) => format!("`{}` is no file", named.display()),
        (None, None) => format!(
            "no `{}` is in `{}/bin` or on the path",
            names.join("` or `"),
            tools.display()
        ),
    };
    anyhow::bail!(
        "{what} is needed, and {missing}; install it with `deploy/tools --for demo`, {otherwise}"
    )
}

/// Says what was refused and why, in one line.
fn chain(error: &UntrustedProgram) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Returns what the path has of a name; who could have put it there is checked before it is run.
fn on_path(name: &str) -> impl Iterator<Item = PathBuf> + use<> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name));
    let found: Vec<_> = found.filter(|program| program.is_file()).collect();
    found.into_iter()
}

fn candidates(named: Option<&Path>, tools: &Path, names: &[&str]) -> Vec<PathBuf> {
    if let Some(named) = named {
        return vec![named.to_owned()];
    }
    let own = names.iter().map(|name| tools.join("bin").join(name));
    own.filter(|program| program.is_file())
        .chain(names.iter().flat_map(|name| on_path(name)))
        .collect()
}

/// Asks a program for its version.
fn version(program: &Path) -> anyhow::Result<(u64, u64)> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("`{}` cannot be run", program.display()))?;
    let told = String::from_utf8_lossy(&output.stdout);
    parse(&told).with_context(|| format!("`{}` does not tell its version", program.display()))
}

/// Reads major and minor of `nats-server: v2.15.1`.
fn parse(told: &str) -> Option<(u64, u64)> {
    let (_, rest) = told.split_once(" v")?;
    let mut parts = rest.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn program(folder: &Path, told: &str) -> PathBuf {
        let program = folder.join("bin/nats-server");
        fs::create_dir_all(folder.join("bin")).unwrap();
        fs::write(&program, format!("#!/bin/sh\necho '{told}'\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(parse("nats-server: v2.15.1\n"), Some((2, 15)));
        assert_eq!(parse("nats-server: v3.0.0-dev"), Some((3, 0)));
        assert_eq!(parse("something else"), None);
    }

    #[test]
    fn a_new_server_among_the_tools_is_taken() {
        let tools = tempfile::tempdir().unwrap();
        let program = program(tools.path(), "nats-server: v2.14.0");
        assert_eq!(nats_server(None, tools.path()).unwrap(), program);
    }

    #[test]
    fn no_program_is_run_from_a_folder_that_others_can_write_to() {
        let tools = tempfile::tempdir().unwrap();
        let bin = tools.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let ran = tools.path().join("ran");
        for name in ["nats-server", "docker-registry", "trivy"] {
            let program = bin.join(name);
            let script = format!(
                "#!/bin/sh\ntouch '{}'\necho nats-server: v2.15.0\n",
                ran.display()
            );
            fs::write(&program, script).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let named = |name: &str| bin.join(name);
        fs::set_permissions(&bin, fs::Permissions::from_mode(0o777)).unwrap();
        for refused in [
            nats_server(Some(&named("nats-server")), tools.path()).unwrap_err(),
            registry(Some(&named("docker-registry")), tools.path()).unwrap_err(),
            trivy(Some(&named("trivy")), tools.path()).unwrap_err(),
        ] {
            let told = refused.to_string();
            assert!(told.contains("others can write to"), "{told}");
            assert!(told.contains(bin.to_str().unwrap()), "{told}");
        }
        assert!(!ran.exists(), "it was run to ask for its version");
        fs::set_permissions(&bin, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(nats_server(None, tools.path()).is_ok() && ran.exists());
    }

    #[test]
    fn an_old_or_missing_server_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let old = program(folder.path(), "nats-server: v2.9.10");
        let error = nats_server(Some(&old), folder.path()).unwrap_err();
        assert!(error.to_string().contains("is 2.9;"), "{error}");
        let missing = folder.path().join("missing");
        for error in [
            nats_server(Some(&missing), folder.path()).unwrap_err(),
            registry(Some(&missing), folder.path()).unwrap_err(),
            trivy(Some(&missing), folder.path()).unwrap_err(),
        ] {
            let told = error.to_string();
            assert!(
                told.contains("deploy/tools") && told.contains("missing"),
                "{told}"
            );
        }
    }
}
