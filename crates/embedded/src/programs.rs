//! Finds the server programs and checks their versions and owners.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use sluice_service::check_program;

/// The minimum version of nats-server; older ones silently ignore settings that Sluice needs.
const NATS_SERVER: (u64, u64) = (2, 14);
/// The program names of Distribution: of Debian, and upstream.
const REGISTRY_NAMES: [&str; 2] = ["docker-registry", "registry"];

/// Finds nats-server: the named one, or the first in `tools` and PATH that is recent enough.
pub(crate) fn nats_server(named: Option<&Path>, tools: &Path) -> anyhow::Result<PathBuf> {
    let (major, minor) = NATS_SERVER;
    let mut refused = Vec::new();
    for program in candidates(named, tools, &["nats-server"]) {
        match check_program(&program)
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
    let reason = if refused.is_empty() {
        format!("none is in `{}/bin` or PATH", tools.display())
    } else {
        refused.join(", ")
    };
    anyhow::bail!(
        "`nats-server` {major}.{minor} or newer is required, but {reason}; \
         install it with `deploy/tools --for demo`, choose one with --nats-server FILE, \
         or use a running server with --nats URL"
    )
}

/// Finds Distribution: the named one, or the first in `tools` and PATH.
pub(crate) fn registry(named: Option<&Path>, tools: &Path) -> anyhow::Result<PathBuf> {
    let alternative = "choose one with --registry-program FILE, or use a running registry with --registry-url URL";
    find("Distribution", named, tools, &REGISTRY_NAMES, alternative)
}

/// Finds Trivy: the named one, or the first in `tools` and PATH.
pub(crate) fn trivy(named: Option<&Path>, tools: &Path) -> anyhow::Result<PathBuf> {
    let alternative = "or choose one with --trivy FILE";
    find("Trivy", named, tools, &["trivy"], alternative)
}

fn find(
    what: &str,
    named: Option<&Path>,
    tools: &Path,
    names: &[&str],
    alternative: &str,
) -> anyhow::Result<PathBuf> {
    let mut refused = None;
    for program in candidates(named, tools, names) {
        match check_program(&program) {
            Ok(program) => return Ok(program),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    let missing = match (refused, named) {
        (Some(error), _) => format!("{:#}", anyhow::Error::from(error)),
        (None, Some(named)) => format!("`{}` is not a file", named.display()),
        (None, None) => format!(
            "no `{}` is in `{}/bin` or PATH",
            names.join("` or `"),
            tools.display()
        ),
    };
    anyhow::bail!(
        "{what} is required, but {missing}; install it with `deploy/tools --for demo`, {alternative}"
    )
}

/// Returns the programs of a name in PATH; their owners are checked before one is run.
fn on_path(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let programs = std::env::split_paths(&path).map(|folder| folder.join(name));
    programs.filter(|program| program.is_file()).collect()
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

/// Runs a program to read its version.
fn version(program: &Path) -> anyhow::Result<(u64, u64)> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("failed to run `{}`", program.display()))?;
    let output = String::from_utf8_lossy(&output.stdout);
    parse(&output).with_context(|| format!("`{}` prints no version", program.display()))
}

/// Parses major and minor version of `nats-server: v2.15.1`.
fn parse(output: &str) -> Option<(u64, u64)> {
    let (_, rest) = output.split_once(" v")?;
    let mut parts = rest.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn program(folder: &Path, output: &str) -> PathBuf {
        let program = folder.join("bin/nats-server");
        fs::create_dir_all(folder.join("bin")).unwrap();
        fs::write(&program, format!("#!/bin/sh\necho '{output}'\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    #[test]
    fn versions_are_parsed() {
        assert_eq!(parse("nats-server: v2.15.1\n"), Some((2, 15)));
        assert_eq!(parse("nats-server: v3.0.0-dev"), Some((3, 0)));
        assert_eq!(parse("something else"), None);
    }

    #[test]
    fn a_recent_server_of_the_tools_is_used() {
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
            let error = refused.to_string();
            assert!(error.contains("others can write to"), "{error}");
            assert!(error.contains(bin.to_str().unwrap()), "{error}");
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
            let error = error.to_string();
            assert!(
                error.contains("deploy/tools") && error.contains("missing"),
                "{error}"
            );
        }
    }
}
