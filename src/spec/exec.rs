//! A command that runs beside a task's own process: the OCI process of it, made from the container's.
//!
//! User, groups, environment, working directory, capabilities, limits, labels and whatever else the container's process
//! has are taken over as they are, so that a command can do neither more nor less than the task; only what makes it
//! another command is replaced. The source is the specification that containerd keeps, which is the one in force also
//! for a task that another driver or an older build has started.

use serde_json::{Value, json};

/// What a shell answers for a program that is not there (POSIX, XCU 2.8.2).
const NOT_FOUND: i32 = 127;
/// What a shell answers for a program that cannot be run.
const NOT_EXECUTABLE: i32 = 126;

/// What a terminal is called for programs that ask, if the task says nothing else. Docker's word for it.
const TERM: &str = "TERM=xterm";

/// The OCI process of a command in a container with this specification.
///
/// # Errors
/// Says it if the command is empty or the specification has no process.
pub fn process(spec_json: &[u8], argv: &[String], terminal: bool, size: Option<(u16, u16)>) -> Result<Vec<u8>, String> {
    if argv.first().is_none_or(String::is_empty) {
        return Err("a command must be given".to_owned());
    }
    let unusable = |why: String| format!("the specification of the container is not usable: {why}");
    let mut spec: Value = serde_json::from_slice(spec_json).map_err(|e| unusable(e.to_string()))?;
    let Some(Value::Object(mut process)) = spec.get_mut("process").map(Value::take) else {
        return Err(unusable("it has no process".to_owned()));
    };
    process.remove("commandLine");
    process.remove("consoleSize");
    process.insert("args".to_owned(), json!(argv));
    process.insert("terminal".to_owned(), json!(terminal));
    if terminal {
        if let Some((rows, columns)) = size {
            process.insert("consoleSize".to_owned(), json!({ "height": rows, "width": columns }));
        }
        let env = process.entry("env").or_insert_with(|| json!([]));
        if let Value::Array(env) = env
            && !env.iter().any(|e| e.as_str().is_some_and(|e| e.starts_with("TERM=")))
        {
            env.push(json!(TERM));
        }
    }
    serde_json::to_vec(&process).map_err(|e| unusable(e.to_string()))
}

/// The exit code for a command that the runtime could not start, if the command itself is the reason. The runtime's
/// words are all there is (runc: `exec: "x": executable file not found in $PATH`, `exec /x: exec format error`; crun:
/// ``executable file `x` not found``, `open executable: Permission denied`).
#[must_use]
pub fn start_failure(words: &str) -> Option<i32> {
    let words = words.to_lowercase();
    let has = |any: &[&str]| any.iter().any(|w| words.contains(w));
    if !has(&["exec: \"", "executable", "exec format error"]) {
        return None;
    }
    if has(&[
        "permission denied",
        "operation not permitted",
        "exec format error",
        "is a directory",
        "not a directory",
    ]) {
        Some(NOT_EXECUTABLE)
    } else if has(&["not found", "no such file"]) {
        Some(NOT_FOUND)
    } else {
        None
    }
}

/// Why no command can be run in a container with this specification, if the runtime's words are of that: runc enters the user
/// namespace first, and may then not enter a network namespace that is not that one's (opencontainers/runc#4390).
#[must_use]
pub fn no_entry(words: &str, spec_json: &[u8]) -> Option<&'static str> {
    let spec: Value = serde_json::from_slice(spec_json).ok()?;
    let mut namespaces = spec.pointer("/linux/namespaces")?.as_array()?.iter();
    let joined = |n: &Value| n["type"] == "network" && n.get("path").is_some();
    let is_mapped = namespaces.clone().any(|n| n["type"] == "user");
    (words.contains("setns") && is_mapped && namespaces.any(joined))
        // Short: the agent shows less than a hundred bytes.
        .then_some("this runc cannot enter userns with a group network")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_user_namespace_in_a_group_network_is_named_where_it_keeps_commands_out() {
        const WORDS: &str = "error executing setns process: exit status 1";
        let spec = |namespaces: Value| {
            json!({ "linux": { "namespaces": namespaces } })
                .to_string()
                .into_bytes()
        };
        let both = spec(json!([{ "type": "user" }, { "type": "network", "path": "/n" }]));
        assert!(no_entry(WORDS, &both).unwrap().contains("userns"));
        assert_eq!(no_entry("exec: \"x\": not found", &both), None);
        for other in [
            json!([{ "type": "user" }, { "type": "network" }]),
            json!([{ "type": "network", "path": "/n" }]),
        ] {
            assert_eq!(no_entry(WORDS, &spec(other)), None);
        }
    }

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    fn container() -> Vec<u8> {
        let spec = json!({ "ociVersion": "1.0.2", "process": {
            "args": ["/init", "serve"], "cwd": "/srv", "env": ["PATH=/bin", "A=b"], "terminal": false,
            "user": { "uid": 7, "gid": 8, "additionalGids": [9] },
            "capabilities": { "bounding": ["CAP_CHOWN"] }, "noNewPrivileges": true,
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 5, "soft": 4 }], "apparmorProfile": "p", "selinuxLabel": "l",
        }});
        serde_json::to_vec(&spec).unwrap()
    }

    fn of(argv_: &[&str], terminal: bool, size: Option<(u16, u16)>) -> Value {
        serde_json::from_slice(&process(&container(), &argv(argv_), terminal, size).unwrap()).unwrap()
    }

    #[test]
    fn a_command_has_all_that_the_task_has_but_its_arguments() {
        let made = of(&["ls", "-l"], false, Some((9, 9)));
        let spec: Value = serde_json::from_slice(&container()).unwrap();
        let mut expected = spec["process"].clone();
        expected["args"] = json!(["ls", "-l"]);
        assert_eq!(made, expected);
    }

    #[test]
    fn a_terminal_has_a_size_and_a_name() {
        let made = of(&["sh"], true, Some((50, 40)));
        assert_eq!(made["consoleSize"], json!({ "height": 50, "width": 40 }));
        assert_eq!(made["env"], json!(["PATH=/bin", "A=b", "TERM=xterm"]));
        assert_eq!(made["terminal"], json!(true));
        assert_eq!(of(&["sh"], true, None).get("consoleSize"), None);
    }

    #[test]
    fn no_command_and_no_process_are_refused() {
        for none in [&[][..], &[""][..]] {
            let error = process(&container(), &argv(none), false, None).unwrap_err();
            assert!(error.contains("command"), "{error}");
        }
        assert!(process(b"{}", &argv(&["a"]), false, None).is_err());
    }

    #[test]
    fn a_program_that_cannot_be_run_has_the_code_of_a_shell() {
        for (words, code) in [
            (
                r#"OCI runtime exec failed: exec failed: unable to start container process: exec: "no": executable file not found in $PATH: unknown"#,
                Some(127),
            ),
            (
                r#"exec: "/no": stat /no: no such file or directory: unknown"#,
                Some(127),
            ),
            (
                "executable file `no` not found in $PATH: No such file or directory",
                Some(127),
            ),
            (r#"exec: "/etc/passwd": permission denied: unknown"#, Some(126)),
            ("exec /x: exec format error", Some(126)),
            ("open executable: Operation not permitted", Some(126)),
            (r#"exec: "/": is a directory"#, Some(126)),
            (
                "chdir to cwd (\"/x\") set in config.json failed: no such file or directory",
                None,
            ),
            ("cannot exec in a paused container", None),
        ] {
            assert_eq!(start_failure(words), code, "{words}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(spec in proptest::collection::vec(any::<u8>(), 0..200), words in ".{0,80}") {
            process(&spec, std::slice::from_ref(&words), true, None).ok();
            prop_assert!(start_failure(&words).is_none_or(|code| code > 125));
        }
    }
}
