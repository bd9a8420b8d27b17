//! Files and programs as they are found on nodes.

use super::*;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

const LONG: Duration = Duration::from_secs(60);

/// A program, written by another process: one that is open for writing here, and so in a child of another test, cannot be run.
fn script(dir: &Path, text: &str) -> String {
    let path = dir.join("docker-credential-test");
    let mut sh = std::process::Command::new("/bin/sh")
        .args(["-c", "cat > \"$0\""])
        .arg(&path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    sh.stdin
        .take()
        .unwrap()
        .write_all(format!("#!/bin/sh\n{text}\n").as_bytes())
        .unwrap();
    assert!(sh.wait().unwrap().success());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

fn is_running(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim()));
    status.is_ok_and(|text| !text.contains("State:\tZ"))
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_program_is_told_the_registry_and_answers() {
    let dir = tempfile::tempdir().unwrap();
    let program = script(
        dir.path(),
        r#"[ "$1" = get ] || exit 9; printf '%s|' "$(cat)"; echo beside >&2"#,
    );
    let answer = ask_within(&program, "ghcr.io", LONG).await.unwrap();
    assert!(answer.success, "{}", answer.ended);
    assert_eq!(
        (answer.stdout.as_slice(), answer.stderr.as_slice()),
        (&b"ghcr.io|"[..], &b"beside\n"[..])
    );
}

#[tokio::test]
async fn a_program_that_fails_has_answered_too() {
    let dir = tempfile::tempdir().unwrap();
    // It does not read what it is asked.
    let program = script(
        dir.path(),
        "exec <&-; echo credentials not found in native keychain; exit 1",
    );
    let answer = ask_within(&program, &"r".repeat(200_000), LONG).await.unwrap();
    assert!(
        !answer.success && answer.ended.contains("exit status: 1"),
        "{}",
        answer.ended
    );
    assert!(answer.stdout.starts_with(b"credentials not found"));
}

#[tokio::test]
async fn what_is_no_program_is_named_as_such() {
    let missing = ask_within("docker-credential-that-nobody-has", "r", LONG).await.err();
    assert_eq!(missing, Some(HelperFault::Missing));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("docker-credential-test");
    std::fs::write(&file, "").unwrap();
    let fault = ask_within(file.to_str().unwrap(), "r", LONG).await.err().unwrap();
    assert!(
        matches!(fault, HelperFault::Unusable(_)) && !fault.is_transient(),
        "{fault}"
    );
}

#[tokio::test]
async fn one_that_takes_too_long_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let program = script(
        dir.path(),
        &format!("sleep 600 & echo $! $$ > {}; wait", pids.display()),
    );
    let begin = Instant::now();
    let fault = ask_within(&program, "r", Duration::from_millis(500))
        .await
        .err()
        .unwrap();
    assert_eq!(fault, HelperFault::Late(Duration::from_millis(500)));
    assert!(fault.is_transient() && begin.elapsed() < LONG);
    let pids = std::fs::read_to_string(&pids).unwrap();
    assert_eq!(pids.split_whitespace().count(), 2);
    for pid in pids.split_whitespace() {
        until("it is killed", || !is_running(pid)).await;
    }
}

#[tokio::test]
async fn one_that_nobody_waits_for_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let program = script(
        dir.path(),
        &format!("sleep 600 & echo $! $$ > {}; wait", pids.display()),
    );
    let asking = tokio::spawn(async move { ask_within(&program, "r", LONG).await.is_ok() });
    let text = || std::fs::read_to_string(&pids).unwrap_or_default();
    until("it runs", || text().ends_with('\n')).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    for pid in text().split_whitespace() {
        until("it is killed", || !is_running(pid)).await;
    }
}

#[tokio::test]
async fn one_that_prints_without_end_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let program = script(dir.path(), "exec cat /dev/zero");
    let fault = ask_within(&program, "r", LONG).await.err();
    assert_eq!(fault, Some(HelperFault::Verbose));
}

#[test]
fn a_file_is_read_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    assert!(read_config(&file).unwrap_err().to_string().contains("config.json"));
    std::fs::write(&file, "{}").unwrap();
    assert_eq!(read_config(&file).unwrap(), b"{}");
    std::fs::File::create(&file).unwrap().set_len(CONFIG_MAX + 1).unwrap();
    assert!(read_config(&file).unwrap_err().to_string().contains("more than"));
    for no_file in [dir.path(), Path::new("/dev/zero")] {
        assert!(
            read_config(no_file)
                .unwrap_err()
                .to_string()
                .contains("a file is expected")
        );
    }
}
