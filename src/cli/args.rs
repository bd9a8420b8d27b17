//! The command line, as text becomes a [`Command`]. Nothing is looked up or done here.

use super::audit::AuditCommand;
use super::doctor::DoctorCommand;
use crate::spec::auth::Auth;
use crate::spec::go::parse_duration;
use crate::spec::identity::{TaskId, sanitize};
use crate::spec::options::{Entrypoint, TaskOptions};
use crate::spec::secret::Secret;
use crate::spec::settings::{AllowedModes, ImageGcSettings, ReaperSettings, Settings};
use crate::spec::task::{JobNames, Resources, TaskSpec};
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::time::Duration;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Run one task in the foreground.
    Run(Box<RunCommand>),
    /// List what tasks have left behind, and remove it if asked to.
    Audit(AuditCommand),
    /// Look what is wrong with this node.
    Doctor(DoctorCommand),
    /// Print every option with its default.
    Config {
        /// As JSON.
        json: bool,
    },
    /// Print the version.
    Version,
    /// Hold log pipes while the plugin is away.
    PipeKeeper,
}

/// Something to print and an exit code: help, or what is wrong with the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printed {
    /// Text with its last newline.
    pub text: String,
    /// Exit code: 0 for help, 1 without arguments, 2 for a mistake.
    pub code: u8,
    /// To standard error rather than standard output.
    pub to_stderr: bool,
}

#[derive(Parser)]
#[command(
    name = "containerd-driver",
    about = "A Nomad task driver for containerd",
    disable_version_flag = true
)]
struct Cli {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Subcommand)]
enum Sub {
    /// Run one task in the foreground, without Nomad
    Run(Box<RunCommand>),
    /// List containers, snapshots and all that belongs to them with their owners, and what nobody needs any more
    #[command(
        after_help = "Exit code: 0 nothing is left over, 1 something is, 2 containerd cannot be asked, 3 --fix has failed"
    )]
    Audit(AuditCommand),
    /// Look what is wrong with this node. Exit code 0: nothing; 1: tasks do not run; 3: only warnings
    Doctor(DoctorCommand),
    /// Show every option with its default
    Config {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the version
    Version,
    /// Hold log pipes; started by the plugin
    #[command(hide = true)]
    PipeKeeper,
}

/// `containerd-driver run`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RunCommand {
    /// Image, as for `docker pull`
    pub image: String,
    /// Arguments in place of the image's CMD
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub args: Vec<String>,
    /// Path of containerd's socket
    #[arg(long, value_name = "PATH")]
    pub address: Option<String>,
    /// containerd namespace
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// containerd runtime, e.g. io.containerd.runc.v2
    #[arg(long, value_name = "NAME")]
    pub runtime: Option<String>,
    /// containerd snapshotter
    #[arg(long, value_name = "NAME")]
    pub snapshotter: Option<String>,
    /// Environment of the task; may be given more than once
    #[arg(short, long, value_name = "K=V", value_parser = pair)]
    pub env: Vec<(String, String)>,
    /// User (and group) in place of the image's
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Working directory in the container
    #[arg(short, long, value_name = "PATH")]
    pub workdir: Option<String>,
    /// Program in place of the image's ENTRYPOINT and CMD
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Memory limit in MiB
    #[arg(short, long, value_name = "MIB", value_parser = clap::value_parser!(i64).range(4..))]
    pub memory: Option<i64>,
    /// Share the host's network
    #[arg(long)]
    pub host_network: bool,
    /// Name in place of one made of the image's
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Ask the registry even if the image is here
    #[arg(long)]
    pub pull: bool,
    /// Longest time that the pull may take, e.g. 5m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub pull_timeout: Option<Duration>,
    /// Directories with hosts.toml and certificates of registries, separated by ':', in place of containerd's and Docker's
    #[arg(long, value_name = "DIRS")]
    pub registry_config_dir: Option<String>,
    /// Who pulls: containerd (transfer), the driver itself (client), or whichever can (auto)
    #[arg(long, value_name = "METHOD", value_parser = ["auto", "transfer", "client"])]
    pub image_pull_method: Option<String>,
    /// User at the registry; the password is the first line of standard input
    #[arg(long, value_name = "NAME")]
    pub registry_user: Option<String>,
}

/// Parses the arguments after the program's name.
///
/// # Errors
/// Help that was asked for, or what is wrong.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Printed> {
    let mut args = args.into_iter().peekable();
    if args.peek().is_none() {
        return Err(Printed {
            text: super::explanation(),
            code: 1,
            to_stderr: true,
        });
    }
    let named = std::iter::once(OsString::from("containerd-driver")).chain(args.map(|a| match a.to_str() {
        Some("--version" | "-V") => "version".into(),
        _ => a,
    }));
    match Cli::try_parse_from(named) {
        Ok(Cli { command: Sub::Run(run) }) => Ok(Command::Run(run)),
        Ok(Cli {
            command: Sub::Audit(audit),
        }) => Ok(Command::Audit(audit)),
        Ok(Cli {
            command: Sub::Config { json },
        }) => Ok(Command::Config { json }),
        Ok(Cli {
            command: Sub::Doctor(doctor),
        }) => Ok(Command::Doctor(doctor)),
        Ok(Cli { command: Sub::Version }) => Ok(Command::Version),
        Ok(Cli {
            command: Sub::PipeKeeper,
        }) => Ok(Command::PipeKeeper),
        Err(e) => Err(Printed {
            text: e.render().to_string(),
            code: u8::try_from(e.exit_code()).unwrap_or(2),
            to_stderr: e.use_stderr(),
        }),
    }
}

impl RunCommand {
    /// The settings that this command wants, where it says nothing those of `base`.
    #[must_use]
    pub fn settings(&self, base: Settings) -> Settings {
        let or = |given: &Option<String>, base: String| given.clone().unwrap_or(base);
        Settings {
            enabled: true,
            containerd_address: or(&self.address, base.containerd_address),
            containerd_namespace: or(&self.namespace, base.containerd_namespace),
            containerd_runtime: or(&self.runtime, base.containerd_runtime),
            snapshotter: or(&self.snapshotter, base.snapshotter),
            registry_config_dir: or(&self.registry_config_dir, base.registry_config_dir),
            image_pull_method: or(&self.image_pull_method, base.image_pull_method),
            // Whoever may start this program as root needs nobody's consent.
            allowed_modes: Some(AllowedModes {
                network: Some(vec!["host".to_owned()]),
                ..AllowedModes::default()
            }),
            // A command that ends with its task looks after nobody else's.
            reaper: Some(ReaperSettings {
                enabled: false,
                ..ReaperSettings::default()
            }),
            image_gc: Some(ImageGcSettings {
                enabled: false,
                ..ImageGcSettings::default()
            }),
            image_prefetch: Vec::new(),
            ..base
        }
    }

    /// The task, with a new id `run/<name>/<8 hex digits>`. The log paths are the caller's to add.
    #[must_use]
    pub fn task(&self, password: Option<Secret>) -> TaskSpec {
        let name = self
            .name
            .clone()
            .unwrap_or_else(|| sanitize(short_name(&self.image), 24));
        // A new `RandomState` has random keys: the hash of nothing is a random number.
        let unique = RandomState::new().hash_one(std::process::id()) & 0xffff_ffff;
        TaskSpec {
            id: TaskId::new(format!("run/{name}/{unique:08x}")),
            env: self.env.iter().cloned().collect(),
            user: self.user.clone().unwrap_or_default(),
            options: TaskOptions {
                image: self.image.clone(),
                image_pull_timeout: self.pull_timeout,
                force_pull: self.pull,
                auth: self.registry_user.as_ref().map(|u| Auth {
                    username: u.clone(),
                    password: password.unwrap_or_default(),
                    ..Auth::default()
                }),
                args: self.args.clone(),
                entrypoint: Entrypoint(self.entrypoint.iter().cloned().collect()),
                cwd: self.workdir.clone(),
                host_network: self.host_network,
                ..TaskOptions::default()
            },
            resources: Resources {
                memory_mb: self.memory.unwrap_or(0),
                ..Resources::default()
            },
            stdout_path: PathBuf::new(),
            stderr_path: PathBuf::new(),
            job: JobNames {
                job_name: "run".into(),
                ..JobNames::default()
            },
            name,
            ..TaskSpec::default()
        }
    }
}

/// `busybox` of `docker.io/library/busybox:1.36@sha256:…`.
fn short_name(image: &str) -> &str {
    let path = image.split('@').next().unwrap_or(image);
    let last = path.rsplit('/').next().unwrap_or(path);
    last.split(':').next().unwrap_or(last)
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !text.contains('\0') => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".into()),
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|d| !d.is_zero())
        .ok_or_else(|| "expected a time such as 90s or 5m".into())
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
