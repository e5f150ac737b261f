//! How a run of the scanner is confined, and that nothing is left of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tokio::time::Instant;

use super::*;

fn limits() -> Limits {
    Limits {
        user: Some(59_931),
        memory_bytes: 512 << 20,
        file_bytes: 64 << 20,
        open_files: 99,
        processes: 77,
        cpu_seconds: 55,
    }
}

/// Writes a program that does what a script says.
fn write(folder: &Path, script: &str) -> PathBuf {
    let binary = folder.join("program");
    fs::write(&binary, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    binary
}

/// A program that does what a script says, without anything around it.
fn program(folder: &Path, script: &str) -> TrivyProgram {
    let confinement = Confinement::full(limits()).only(&[]);
    TrivyProgram {
        binary: write(folder, script),
        temporary: folder.to_owned(),
        confinement,
    }
}

/// A folder that other users may look into.
fn open_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Lets a program that is confined as well as this machine can do what a script says, in a folder of its own.
async fn confined(script: &str) -> (TrivyProgram, TempDir, Result<(), TrivyFailure>) {
    let place = open_folder();
    let binary = write(
        place.path(),
        &format!("[ \"$1\" = --version ] && exit 0\n{script}"),
    );
    let trivy = TrivyProgram::probe(&binary, place.path(), limits())
        .await
        .unwrap();
    let folder = place.path().join("run");
    fs::create_dir(&folder).unwrap();
    let ran = run(&trivy, &folder, PROBE_LIMIT).await;
    (trivy, place, ran)
}

async fn run(trivy: &TrivyProgram, folder: &Path, limit: Duration) -> Result<(), TrivyFailure> {
    let variables = Variables::default().with("TRIVY_TOKEN", &"hunter2".into());
    trivy
        .run(folder, &["a b".to_owned()], &variables, limit)
        .await
}

fn alive(id: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", id.trim()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn a_run_has_its_own_folder_and_environment() {
    let folder = tempfile::tempdir().unwrap();
    let trivy = program(
        folder.path(),
        "env > env; pwd > pwd; echo \"$1\" > argument",
    );
    run(&trivy, folder.path(), PROBE_LIMIT).await.unwrap();
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let environment = read("env");
    assert!(environment.contains("TRIVY_TOKEN=hunter2"));
    assert!(environment.contains(&format!("HOME={}", folder.path().display())));
    // The test itself has more.
    for line in environment.lines() {
        let name = line.split('=').next().unwrap();
        let of_the_shell = ["PWD", "OLDPWD", "SHLVL", "_"];
        let given = ["HOME", "TMPDIR", "GOGC", "GOMEMLIMIT", "TRIVY_TOKEN"];
        let is_known = [&of_the_shell[..], &given[..], &INHERITED[..]].concat();
        assert!(is_known.contains(&name), "{line}");
    }
    assert_eq!(
        Path::new(read("pwd").trim()),
        folder.path().canonicalize().unwrap()
    );
    assert_eq!(read("argument"), "a b\n");
}

#[tokio::test]
async fn a_failed_run_is_recognised_by_its_output() {
    let folder = tempfile::tempdir().unwrap();
    let trivy = program(
        folder.path(),
        "echo 'MANIFEST_UNKNOWN: unknown' >&2; exit 1",
    );
    let failed = run(&trivy, folder.path(), PROBE_LIMIT).await.unwrap_err();
    assert_eq!(failed.kind, FailureKind::Missing);
    let silent = program(folder.path(), "kill -KILL $$");
    let failed = run(&silent, folder.path(), PROBE_LIMIT).await.unwrap_err();
    assert!(failed.to_string().contains("signal: 9"), "{failed}");
}

#[tokio::test]
async fn nothing_is_left_of_a_run_that_takes_too_long() {
    let folder = tempfile::tempdir().unwrap();
    let trivy = program(
        folder.path(),
        "sleep 600 & echo $! > child; echo $$ > leader; wait",
    );
    let start = Instant::now();
    let failed = run(&trivy, folder.path(), Duration::from_secs(1))
        .await
        .unwrap_err();
    assert_eq!(failed.kind, FailureKind::TimedOut);
    assert!(start.elapsed() < PROBE_LIMIT);
    for name in ["child", "leader"] {
        let id = fs::read_to_string(folder.path().join(name)).unwrap();
        while alive(&id) {
            assert!(start.elapsed() < PROBE_LIMIT, "{name} is alive");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn nothing_is_left_of_a_run_that_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let trivy = program(folder.path(), "sleep 600 & echo $! > child");
    run(&trivy, folder.path(), PROBE_LIMIT).await.unwrap();
    let id = fs::read_to_string(folder.path().join("child")).unwrap();
    let start = Instant::now();
    while alive(&id) {
        assert!(start.elapsed() < PROBE_LIMIT, "it is alive");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_process_that_leaves_its_group_dies_with_the_run_too() {
    let (trivy, place, ran) = confined("setsid sleep 987654321 & exit 0").await;
    ran.unwrap();
    if !trivy.confinement.has(Measure::ProcessNamespace) {
        return;
    }
    let start = Instant::now();
    let is_left = || {
        let all = fs::read_dir("/proc").unwrap().flatten();
        let lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        lines
            .into_iter()
            .any(|line| line == b"sleep\x00987654321\x00")
    };
    while is_left() {
        assert!(start.elapsed() < PROBE_LIMIT, "it is alive");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(place);
}

#[tokio::test]
async fn the_scanner_has_limits_and_a_user_of_its_own_and_no_rights() {
    let (trivy, place, ran) =
        confined("cat /proc/self/limits > limits; cat /proc/self/status > status").await;
    ran.unwrap();
    let read = |name: &str| fs::read_to_string(place.path().join("run").join(name)).unwrap();
    let (limits, status) = (read("limits"), read("status"));
    let value = |text: &str, name: &str| {
        let mut lines = text.lines();
        let rest = lines.find_map(|line| line.strip_prefix(name)).unwrap();
        let words: Vec<_> = rest.split_whitespace().collect();
        words[0].to_owned()
    };
    let has = |measure| trivy.confinement.has(measure);
    assert!(
        has(Measure::NoNewPrivileges) && has(Measure::Limits),
        "util-linux is missing"
    );
    assert_eq!(value(&status, "NoNewPrivs:"), "1");
    for (name, limit) in [
        ("Max data size", 512 << 20),
        ("Max address space", 2_048_u64 << 20),
        ("Max file size", 64 << 20),
        ("Max open files", 99),
        ("Max cpu time", 55),
        ("Max core file size", 0),
    ] {
        assert_eq!(value(&limits, name), limit.to_string(), "{name}");
    }
    if sluice_service::is_root() {
        assert!(
            has(Measure::User),
            "the user of `trivy.user` cannot be used"
        );
        assert_eq!(value(&status, "Uid:"), "59931");
        assert!(status.lines().any(|line| line.trim_end() == "Groups:"));
        assert_eq!(value(&limits, "Max processes"), "77");
    }
    for set in ["CapEff:", "CapPrm:", "CapInh:"] {
        assert_eq!(value(&status, set), "0000000000000000", "{set}");
    }
}

#[tokio::test]
async fn a_program_that_its_own_user_cannot_reach_runs_with_every_other_measure() {
    let (closed, place) = (tempfile::tempdir().unwrap(), open_folder());
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let binary = write(closed.path(), "exit 0");
    let trivy = TrivyProgram::probe(&binary, place.path(), limits())
        .await
        .unwrap();
    let has = |measure| trivy.confinement.has(measure);
    assert!(!has(Measure::User) && has(Measure::NoNewPrivileges) && has(Measure::Limits));
}

#[tokio::test]
async fn the_scanner_writes_nowhere_but_in_its_folder() {
    let (trivy, place, ran) =
        confined("echo 1 > inside; echo 1 > ../outside; echo 1 >> ../program; exit 0").await;
    ran.unwrap();
    assert!(place.path().join("run/inside").exists());
    if trivy.confinement.has(Measure::User) {
        assert!(!place.path().join("outside").exists());
        let program = fs::read_to_string(place.path().join("program")).unwrap();
        assert!(!program.ends_with("\n1\n"));
    }
}

#[tokio::test]
async fn a_scanner_that_eats_memory_or_fills_the_disk_fails_alone() {
    let (_, _place, ran) = confined("exec python3 -c 'bytearray(1 << 30)'").await;
    assert!(ran.unwrap_err().message.contains("MemoryError"));
    let (_, place, ran) = confined("exec head -c 200000000 /dev/zero > large").await;
    assert!(ran.is_err());
    let large = fs::metadata(place.path().join("run/large")).unwrap();
    assert_eq!(large.len(), 64 << 20);
}

#[tokio::test]
async fn a_machine_that_lacks_the_programs_runs_the_scanner_all_the_same() {
    let folder = open_folder();
    let binary = write(folder.path(), "exit 0");
    let mut trivy = TrivyProgram::probe(&binary, folder.path(), limits())
        .await
        .unwrap();
    // A user that can reach nothing of this service.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    if sluice_service::is_root() {
        assert!(trivy.confinement.has(Measure::User));
        trivy = TrivyProgram::probe(&binary, folder.path(), limits())
            .await
            .unwrap();
        assert!(!trivy.confinement.has(Measure::User));
        assert!(trivy.confinement.has(Measure::Limits));
    }
    run(&trivy, folder.path(), PROBE_LIMIT).await.unwrap();
}

#[tokio::test]
async fn the_error_of_a_missing_program_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let error = TrivyProgram::probe(&missing, folder.path(), limits())
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("trivy.binary"), "{error:#}");
}

#[tokio::test]
async fn a_run_reads_layers_and_can_write_nothing_where_they_lie() {
    if !sluice_service::is_root() {
        return;
    }
    // It may change the link in its own folder, and nothing in the folder of the layers.
    let script = "cat layers/part >read || exit 1; rm -f layers/part; mv layers away; ln -s . layers; \
                  echo x >away/part; echo x >away/other; chmod 777 away/; exit 0";
    let (trivy, place, _) = confined("exit 0").await;
    let binary = write(place.path(), script);
    let trivy = TrivyProgram { binary, ..trivy };
    let layers = place.path().join("layers");
    fs::create_dir(&layers).unwrap();
    fs::write(layers.join("part"), "tar").unwrap();
    trivy.allow_read(&layers).unwrap();
    let folder = place.path().join("run");
    std::os::unix::fs::symlink(&layers, folder.join("layers")).unwrap();
    run(&trivy, &folder, PROBE_LIMIT).await.unwrap();
    assert_eq!(fs::read_to_string(folder.join("read")).unwrap(), "tar");
    assert_eq!(fs::read_to_string(layers.join("part")).unwrap(), "tar");
    assert_eq!(fs::read_dir(&layers).unwrap().count(), 1);
    let mode = fs::metadata(&layers).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o750);
}
