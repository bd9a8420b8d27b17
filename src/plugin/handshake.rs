//! go-plugin's handshake: what the host's environment asks for, and the one line on standard output that answers it.
//!
//! Pure: the environment comes in as a function, the line goes out as text. Rules from go-plugin `server.go`.

use std::path::PathBuf;

/// Variable and value by which Nomad says that it started us (Nomad `plugins/base/plugin.go`).
const COOKIE_KEY: &str = "NOMAD_PLUGIN_MAGIC_COOKIE";
const COOKIE_VALUE: &str = "e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255";

/// go-plugin's own protocol; the first field of the line.
const CORE_PROTOCOL: u32 = 1;

/// The one application protocol that Nomad has ever used for drivers. If the host offers only others, go-plugin's
/// rule is to answer what we know and let the host complain.
const APP_PROTOCOL: u32 = 2;

/// What the host asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Where the socket goes.
    pub socket_dir: PathBuf,
    /// Group that the socket is given to, name or number.
    pub socket_group: Option<String>,
    /// True if the host named the directory: then there is no other place to fall back to.
    pub socket_dir_is_given: bool,
    /// True if the host knows the seventh field; older hosts would glue it to the sixth.
    pub multiplex_asked: bool,
    /// Whether the host offered the protocol that we speak (for a log line; we serve either way).
    pub protocol_offered: bool,
}

/// Why we do not serve. The text is for standard error; the exit status is 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Started by a person, or by something that is not Nomad.
    #[error(
        "This binary is a plugin. It is started by the Nomad agent and is not meant to be run directly.\n\
         Put it in the agent's plugin_dir and add to the agent's configuration:\n\n    \
         plugin \"containerd-driver\" {{\n      config {{ }}\n    }}\n\n\
         See `containerd-driver --help` for what it does on the command line."
    )]
    NotFromNomad,
    /// The host wants mutual TLS. Nomad never does.
    #[error(
        "PLUGIN_CLIENT_CERT is set: the host asks for AutoMTLS, which this plugin does not support (Nomad does not use it)"
    )]
    AutoMtls,
    /// The socket's path would break the handshake line.
    #[error("{variable}: {value:?}: the path may not contain '|' or a line break and must be absolute")]
    SocketDir {
        /// Which variable.
        variable: &'static str,
        /// Its value.
        value: String,
    },
}

impl Launch {
    /// Reads what the host asks for.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn from_env(var: &dyn Fn(&str) -> Option<String>) -> Result<Self, Refused> {
        if var(COOKIE_KEY).as_deref() != Some(COOKIE_VALUE) {
            return Err(Refused::NotFromNomad);
        }
        let set = |name: &str| var(name).filter(|v| !v.is_empty());
        if set("PLUGIN_CLIENT_CERT").is_some() {
            return Err(Refused::AutoMtls);
        }
        let given = set("PLUGIN_UNIX_SOCKET_DIR");
        let socket_dir = match &given {
            Some(dir) => usable("PLUGIN_UNIX_SOCKET_DIR", dir)?,
            // An unusable TMPDIR is no reason to fail: go-plugin hosts never look at it.
            None => set("TMPDIR")
                .and_then(|dir| usable("TMPDIR", &dir).ok())
                .unwrap_or_else(|| "/tmp".into()),
        };
        Ok(Self {
            socket_dir,
            socket_group: set("PLUGIN_UNIX_SOCKET_GROUP"),
            socket_dir_is_given: given.is_some(),
            multiplex_asked: set("PLUGIN_MULTIPLEX_GRPC").is_some(),
            protocol_offered: set("PLUGIN_PROTOCOL_VERSIONS").is_none_or(|list| offers(&list, APP_PROTOCOL)),
        })
    }

    /// True if the environment says that Nomad started us (then even a refusal is a plugin's refusal).
    #[must_use]
    pub fn is_plugin(var: &dyn Fn(&str) -> Option<String>) -> bool {
        var(COOKIE_KEY).as_deref() == Some(COOKIE_VALUE)
    }

    /// The line, with its line break. The empty sixth field is the certificate. The seventh says that we do not
    /// multiplex the broker: go-plugin's client then uses plain connections, or refuses if it insisted.
    #[must_use]
    pub fn line(&self, socket: &str) -> String {
        let seventh = if self.multiplex_asked { "|false" } else { "" };
        format!("{CORE_PROTOCOL}|{APP_PROTOCOL}|unix|{socket}|grpc|{seventh}\n")
    }
}

fn usable(variable: &'static str, dir: &str) -> Result<PathBuf, Refused> {
    let path = PathBuf::from(dir);
    if dir.contains(['|', '\n', '\r']) || !path.is_absolute() {
        return Err(Refused::SocketDir {
            variable,
            value: dir.to_owned(),
        });
    }
    Ok(path)
}

fn offers(list: &str, version: u32) -> bool {
    list.split(',').any(|v| v.trim().parse() == Ok(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(vars: &[(&str, &str)]) -> Result<Launch, Refused> {
        let vars: Vec<(String, String)> = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Launch::from_env(&|name| vars.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
    }

    const COOKIE: (&str, &str) = (COOKIE_KEY, COOKIE_VALUE);

    #[test]
    fn without_the_cookie_it_explains_itself() {
        assert_eq!(launch(&[]), Err(Refused::NotFromNomad));
        assert_eq!(launch(&[(COOKIE_KEY, "wrong")]), Err(Refused::NotFromNomad));
        assert!(Refused::NotFromNomad.to_string().contains("This binary is a plugin"));
    }

    #[test]
    fn line_has_the_six_fields_that_old_hosts_split() {
        let l = launch(&[COOKIE, ("PLUGIN_PROTOCOL_VERSIONS", "2")]).unwrap();
        assert_eq!(l.line("/tmp/x.sock"), "1|2|unix|/tmp/x.sock|grpc|\n");
        assert_eq!(l.socket_dir, PathBuf::from("/tmp"));
        assert!(l.protocol_offered);
    }

    #[test]
    fn seventh_field_only_when_asked_for() {
        for asked in ["true", "1", "false"] {
            let l = launch(&[COOKIE, ("PLUGIN_MULTIPLEX_GRPC", asked)]).unwrap();
            assert_eq!(l.line("/s"), "1|2|unix|/s|grpc||false\n");
        }
        assert_eq!(
            launch(&[COOKIE, ("PLUGIN_MULTIPLEX_GRPC", "")]).unwrap().line("/s"),
            "1|2|unix|/s|grpc|\n"
        );
    }

    #[test]
    fn answers_two_whatever_is_offered() {
        for (list, offered) in [("2", true), ("1,2", true), ("1, 3", false), ("x", false), ("", true)] {
            let l = launch(&[COOKIE, ("PLUGIN_PROTOCOL_VERSIONS", list)]).unwrap();
            assert_eq!(l.protocol_offered, offered, "{list:?}");
            assert!(l.line("/s").starts_with("1|2|"));
        }
    }

    #[test]
    fn mutual_tls_is_refused_aloud() {
        assert_eq!(
            launch(&[COOKIE, ("PLUGIN_CLIENT_CERT", "-----BEGIN")]),
            Err(Refused::AutoMtls)
        );
        assert!(launch(&[COOKIE, ("PLUGIN_CLIENT_CERT", "")]).is_ok());
    }

    #[test]
    fn socket_directory_is_the_hosts_then_tmpdir() {
        let l = launch(&[COOKIE, ("PLUGIN_UNIX_SOCKET_DIR", "/run/p"), ("TMPDIR", "/var/tmp")]).unwrap();
        assert_eq!((l.socket_dir, l.socket_dir_is_given), (PathBuf::from("/run/p"), true));
        let l = launch(&[COOKIE, ("TMPDIR", "/var/tmp"), ("PLUGIN_UNIX_SOCKET_GROUP", "nomad")]).unwrap();
        assert_eq!(
            (l.socket_dir, l.socket_group.as_deref()),
            (PathBuf::from("/var/tmp"), Some("nomad"))
        );
        assert_eq!(
            launch(&[COOKIE, ("TMPDIR", "relative")]).unwrap().socket_dir,
            PathBuf::from("/tmp")
        );
        assert!(launch(&[COOKIE, ("PLUGIN_UNIX_SOCKET_DIR", "/a|b")]).is_err());
    }
}
