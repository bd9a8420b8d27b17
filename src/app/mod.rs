//! The composition root: the only file that knows every room. Reads the environment, chooses the front door, ends the
//! process.

mod allocator;
mod doctor;
mod engine;

use crate::cli;
use crate::host::{limits, pipe_keeper};
use crate::plugin::hclog::{self, Mode, Sink};
use crate::plugin::{Launch, Plugin};
use crate::spec::settings::Settings;
use crate::telemetry::{Options, Telemetry};
use engine::{Ended, Engine};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Exit code of the last rung of the ladder: an actor could not be kept alive (`EX_SOFTWARE` of sysexits).
const EXIT_SOFTWARE: u8 = 70;

/// Exit code of `run` when the driver failed and not the task, as `docker run` has it.
const EXIT_DRIVER: u8 = 125;

/// Exit code of `audit` when nothing can be said.
const EXIT_BLIND: u8 = 2;

/// How long the end of the process waits for log lines, spans and metrics to leave.
const GOODBYE: Duration = Duration::from_millis(500);

/// How long a thread of the blocking pool waits for more work. Work wakes whichever has waited longest, so what comes every second
/// keeps as many of the threads that a burst has left as there are seconds in this.
const SPARE: Duration = Duration::from_secs(2);

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Runs the process to its end.
#[must_use]
pub fn main() -> ExitCode {
    if Launch::is_plugin(&env) {
        allocator::settle(&env);
        leave(plugin());
    }
    match cli::parse(std::env::args_os().skip(1)) {
        Ok(cli::Command::Run(run)) => leave(foreground(*run)),
        Ok(cli::Command::Audit(command)) => leave(audit(command)),
        Ok(cli::Command::Doctor(command)) => doctor::run(&command),
        Ok(cli::Command::Config { json }) => print(&cli::config::render(json), false, 0),
        Ok(cli::Command::Version) => print(&cli::version(), false, 0),
        Ok(cli::Command::PipeKeeper) => match pipe_keeper::serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => print(&format!("{e}\n"), true, 1),
        },
        Err(printed) => print(&printed.text, printed.to_stderr, printed.code),
    }
}

/// Ends the process. Returning from `main` would wait for blocking work of the I/O runtime, which on a dead network disk
/// never ends, and the host's patience is two seconds.
fn leave(code: u8) -> ! {
    std::process::exit(i32::from(code))
}

/// Writes without the panic of `println!` on a closed pipe; a text that nobody could be shown is a failure.
fn print(text: &str, to_stderr: bool, code: u8) -> ExitCode {
    use std::io::Write as _;
    let written = if to_stderr {
        std::io::stderr().write_all(text.as_bytes())
    } else {
        std::io::stdout().write_all(text.as_bytes())
    };
    ExitCode::from(if written.is_ok() { code } else { 1 })
}

/// What both front doors stand on.
struct Base {
    io: Arc<tokio::runtime::Runtime>,
    telemetry: Arc<Telemetry>,
    sink: Sink,
}

fn base(mode: Mode) -> Result<Base, String> {
    let sink = Sink::stderr().map_err(|e| format!("standard error: {e}"))?;
    std::panic::set_hook(hclog::panic_hook(mode, sink.clone()));
    let io = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(engine::io_threads())
        .thread_name("io")
        .thread_keep_alive(SPARE)
        .enable_all()
        .build()
        .map_err(|e| format!("I/O runtime: {e}"))?;
    let layer = hclog::layer(mode, env(hclog::FILTER_VARIABLE).as_deref(), sink.clone());
    let telemetry = Telemetry::install(layer, io.handle().clone(), &Options::read(env)).map_err(|e| e.to_string())?;
    Ok(Base {
        io: Arc::new(io),
        telemetry: Arc::new(telemetry),
        sink,
    })
}

impl Base {
    fn goodbye(&self) {
        self.telemetry.shutdown(GOODBYE);
        self.sink.flush(GOODBYE);
    }
}

/// Writes to standard error without the panic of `eprintln!` on a closed pipe.
fn say(text: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "{text}").ok();
}

/// Serves Nomad.
fn plugin() -> u8 {
    let launch = match Launch::from_env(&env) {
        Ok(launch) => launch,
        Err(refused) => {
            say(&refused.to_string());
            return 1;
        }
    };
    let base = match base(Mode::Plugin) {
        Ok(base) => base,
        Err(e) => {
            say(&e);
            return 1;
        }
    };
    limits::raise_open_files();
    let telemetry = Arc::clone(&base.telemetry);
    let on_settings = move |settings: &Settings| {
        if let Some(endpoint) = &settings.otlp_endpoint
            && let Err(e) = telemetry.enable(endpoint)
        {
            tracing::error!(error = %e, "option otlp_endpoint: spans or metrics are not exported");
        }
    };
    let code = Engine::run(&base.io, on_settings, env, |engine| async move {
        let plugin = Plugin::new(engine.doors());
        let serve = plugin.run(launch, engine.terminated());
        tokio::select! {
            // On the I/O runtime, so that the thread of the actors' system has nothing to do.
            served = serve => match served {
                Ok(()) => 0,
                Err(e) => {
                    say(&e.to_string());
                    1
                }
            },
            reason = engine.last_resort() => {
                tracing::error!(reason, "the driver ends itself; Nomad relaunches it and recovers every task");
                EXIT_SOFTWARE
            }
        }
    });
    base.goodbye();
    leave(finish(code))
}

/// Runs one task in the foreground.
fn foreground(run: cli::RunCommand) -> u8 {
    let base = match base(Mode::Terminal) {
        Ok(base) => base,
        Err(e) => {
            say(&e);
            return EXIT_DRIVER;
        }
    };
    let settings = run.settings(Settings::default());
    let code = Engine::run(
        &base.io,
        |_: &Settings| {},
        env,
        |engine| async move {
            engine.doors().settings.apply(settings);
            let logs = engine.log_door();
            tokio::select! {
                code = cli::run(run, engine.doors(), logs) => code,
                reason = engine.last_resort() => {
                    say(&format!("containerd-driver: {reason}"));
                    EXIT_DRIVER
                }
            }
        },
    );
    base.goodbye();
    leave(finish(code))
}

/// Looks at what tasks have left behind.
fn audit(command: cli::AuditCommand) -> u8 {
    let base = match base(Mode::Terminal) {
        Ok(base) => base,
        Err(e) => {
            say(&e);
            return EXIT_BLIND;
        }
    };
    let settings = command.settings(Settings::default());
    let code = Engine::run(
        &base.io,
        |_: &Settings| {},
        env,
        |engine| async move {
            engine.doors().settings.apply(settings);
            let door = engine.audit_door();
            let said = tokio::select! {
                said = cli::audit::audit(&command, &*door) => said,
                reason = engine.last_resort() => {
                    say(&format!("containerd-driver: {reason}"));
                    return EXIT_BLIND;
                }
            };
            if let Some(complaint) = &said.complaint {
                say(complaint);
            }
            if print(&said.text, false, said.code) == ExitCode::from(said.code) {
                said.code
            } else {
                EXIT_BLIND
            }
        },
    );
    base.goodbye();
    match code {
        Ok(code) => code,
        Err(e) => {
            say(&format!("containerd-driver: {e}"));
            EXIT_BLIND
        }
    }
}

fn finish(ended: Result<u8, Ended>) -> u8 {
    match ended {
        Ok(code) => code,
        Err(e) => {
            say(&format!("containerd-driver: {e}"));
            1
        }
    }
}
