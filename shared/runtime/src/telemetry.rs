//! Logs: readable on a terminal, JSON elsewhere, and never on standard output.
//!
//! The law kept here: a part that others rely on does not die quietly. A shard that has panicked leaves its
//! transactions without an owner, and a log writer leaves everybody waiting; a process without one of them
//! looks alive and is not. Their panics are logged and end the process, and the next start recovers from
//! the log, as from any crash.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::str::FromStr;
use std::sync::Once;

use tracing::{Dispatch, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

/// The variable with a filter that goes over the configured level, as in `info,handfast_journal=debug`.
pub const LOG_VARIABLE: &str = "HANDFAST_LOG";

/// The exit code after a panic that ends the process; the one that a panic of `main` has.
const PANICKED: i32 = 101;

/// What a log line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Pretty when standard error is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One line for people, with the time and colours.
    Pretty,
    /// One JSON object per line, for programs.
    Json,
}

impl LogFormat {
    /// The words for it in a configuration.
    pub const WORDS: &[&str] = &["auto", "pretty", "json"];
}

impl FromStr for LogFormat {
    type Err = TelemetryError;

    fn from_str(text: &str) -> Result<Self, TelemetryError> {
        match text {
            "auto" => Ok(Self::Auto),
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err(TelemetryError::UnknownFormat { text: text.to_owned() }),
        }
    }
}

/// Why logs are not set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// No such format.
    #[error("log format {text:?} is not one of {}", LogFormat::WORDS.join(", "))]
    UnknownFormat {
        /// What was asked for.
        text: String,
    },
    /// A filter that cannot be read.
    #[error(
        "log filter {filter:?} (from {origin}): {reason}; one looks like info or info,handfast_journal=debug"
    )]
    Filter {
        /// The filter, as it was written.
        filter: String,
        /// Where it was written.
        origin: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The process logs already.
    #[error(
        "this process has a log already: set it up once, in main; an embedded server uses the application's"
    )]
    AlreadyInstalled,
}

/// Sets up the process's log on standard error, and [`end_on_panic`]. `level` is a level or a filter; a
/// filter in [`LOG_VARIABLE`] goes over it.
///
/// For programs; a library that is embedded logs to what its application has set up.
///
/// # Errors
/// When the filter cannot be read, or the process logs already.
pub fn init(format: LogFormat, level: &str) -> Result<(), TelemetryError> {
    let variable = std::env::var_os(LOG_VARIABLE).map(|value| value.to_string_lossy().into_owned());
    let filter = filter(level, variable.as_deref())?;
    let terminal = std::io::stderr().is_terminal();
    // https://no-color.org
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Pretty => false,
        LogFormat::Json => true,
    };
    let log = log(json, colours, filter, std::io::stderr);
    log.try_init().map_err(|_| TelemetryError::AlreadyInstalled)?;
    end_on_panic();
    Ok(())
}

fn filter(level: &str, variable: Option<&str>) -> Result<EnvFilter, TelemetryError> {
    let (filter, origin) = match variable.filter(|filter| !filter.is_empty()) {
        Some(filter) => (filter, LOG_VARIABLE),
        None => (level, "the configured level"),
    };
    EnvFilter::builder().parse(filter).map_err(|error| TelemetryError::Filter {
        filter: filter.to_owned(),
        origin,
        reason: error.to_string(),
    })
}

fn log<W>(json: bool, colours: bool, filter: EnvFilter, writer: W) -> Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let subscriber: Box<dyn Subscriber + Send + Sync> = if json {
        Box::new(
            log.json().flatten_event(true).with_current_span(true).with_span_list(false).finish(),
        )
    } else {
        Box::new(log.compact().with_ansi(colours).finish())
    };
    Dispatch::new(subscriber)
}

/// Logs every panic, and ends the process with 101 when the thread is one that others rely on: a shard
/// (`shard-…`), any other that turns a shard or acts for one just then, or the log writer (`log-writer`).
/// [`init`] does it; an application that embeds a server may.
///
/// A panic elsewhere ends no more than its task, as usual; what waited for the task is told.
pub fn end_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if tracing::event_enabled!(tracing::Level::ERROR) {
                log_panic(panic);
            } else {
                before(panic);
            }
            if is_relied_on(std::thread::current().name()) {
                std::process::exit(PANICKED);
            }
        }));
    });
}

fn is_relied_on(thread: Option<&str>) -> bool {
    let named = thread.is_some_and(|name| name.starts_with("shard-") || name == "log-writer");
    named || crate::shard::turns_here()
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let ends = is_relied_on(thread.name());
    let thread = thread.name().unwrap_or("unnamed");
    let payload = panic.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("a panic without a message");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    // Captured only when RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(thread, place, backtrace, process_ends = ends, "panic: {message}");
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Output};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(json: bool, filter: EnvFilter, say: impl FnOnce()) -> String {
        let written = Written::default();
        let writer = written.clone();
        tracing::dispatcher::with_default(&log(json, false, filter, move || writer.clone()), say);
        let bytes = written.0.lock().expect("not poisoned").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn lines_are_for_people_or_for_programs() {
        let say = || tracing::info!(port = 7420, "listening");
        let info = || filter("info", None).expect("a filter");
        let pretty = logged(false, info(), say);
        assert!(pretty.contains("INFO") && pretty.ends_with("listening port=7420\n"), "{pretty}");
        let (day, _) = pretty.split_once('T').expect("begins with the time");
        assert_eq!(day.split('-').count(), 3, "{pretty}");
        let json = logged(true, info(), say);
        for part in [
            "{\"timestamp\":\"",
            "\"level\":\"INFO\"",
            "\"message\":\"listening\"",
            "\"port\":7420",
        ] {
            assert!(json.contains(part), "{part}: {json}");
        }
        assert_eq!(json.lines().count(), 1);
    }

    #[test]
    fn the_variable_goes_over_the_level() {
        let check = |level: &str, variable: Option<&str>, expected: &[&str]| {
            let log = logged(true, filter(level, variable).expect("a filter"), || {
                tracing::debug!("debug");
                tracing::info!("info");
                tracing::warn!("warn");
            });
            let said = |word: &&str| log.contains(&format!("\"message\":\"{word}\""));
            let found: Vec<_> = ["debug", "info", "warn"].into_iter().filter(said).collect();
            assert_eq!(found, expected, "{level} {variable:?}");
        };
        check("info", None, &["info", "warn"]);
        check("info", Some(""), &["info", "warn"]);
        check("info", Some("warn"), &["warn"]);
        check("warn", Some("off,handfast_runtime=debug"), &["debug", "info", "warn"]);
    }

    #[test]
    fn a_bad_filter_is_an_error_that_names_its_place() {
        let message = filter("info", Some("handfast=loudly")).expect_err("bad").to_string();
        assert!(
            message.contains("handfast=loudly") && message.contains("HANDFAST_LOG"),
            "{message}"
        );
        let message = filter("a=b=c", None).expect_err("bad").to_string();
        assert!(message.contains("a=b=c") && message.contains("configured level"), "{message}");
    }

    #[test]
    fn formats_have_words() {
        let formats =
            LogFormat::WORDS.iter().map(|word| word.parse::<LogFormat>().expect("a format"));
        assert_eq!(
            formats.collect::<Vec<_>>(),
            [LogFormat::Auto, LogFormat::Pretty, LogFormat::Json]
        );
        let message = "xml".parse::<LogFormat>().expect_err("no format").to_string();
        assert!(message.contains("\"xml\"") && message.contains("auto, pretty, json"), "{message}");
    }

    const SURVIVED: i32 = 7;

    /// The process that the next tests look at; does nothing as a test of its own.
    #[test]
    fn panicking() {
        let Ok(thread) = std::env::var("HANDFAST_TEST_PANIC") else { return };
        init(LogFormat::Auto, "info").expect("the only log of this process");
        assert!(matches!(init(LogFormat::Auto, "info"), Err(TelemetryError::AlreadyInstalled)));
        let thread = std::thread::Builder::new().name(thread);
        let by = std::env::var("HANDFAST_TEST_PANIC_BY").ok();
        let panicking = move || match by {
            Some(by) => panic!("wanted by {by}"),
            None => panic!("wanted by the test"),
        };
        let joined = thread.spawn(panicking).expect("a thread").join();
        assert!(joined.is_err());
        std::process::exit(SURVIVED);
    }

    fn panic_on(thread: &str, environment: &[(&str, &str)]) -> Output {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .args(["--exact", "telemetry::tests::panicking", "--nocapture"])
            .env("HANDFAST_TEST_PANIC", thread);
        command.env_remove(LOG_VARIABLE).env_remove("RUST_BACKTRACE");
        command.envs(environment.iter().copied());
        command.output().expect("started")
    }

    #[test]
    fn a_panic_where_others_rely_on_the_thread_ends_the_process() {
        for (thread, code) in [
            ("shard-0", PANICKED),
            ("log-writer", PANICKED),
            ("tokio-runtime-worker", SURVIVED),
            ("log-writers-friend", SURVIVED),
        ] {
            let output = panic_on(thread, &[]);
            assert_eq!(output.status.code(), Some(code), "{thread}: {output:?}");
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            for part in [
                "\"message\":\"panic: wanted by the test\"",
                &format!("\"thread\":\"{thread}\""),
                "telemetry.rs:",
            ] {
                assert!(log.contains(part), "{thread}: {part}: {log}");
            }
        }
    }

    #[test]
    fn a_formatted_message_is_logged_too() {
        let output = panic_on("shard-0", &[("HANDFAST_TEST_PANIC_BY", "a helper")]);
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(log.contains("\"message\":\"panic: wanted by a helper\""), "{log}");
    }

    #[test]
    fn a_log_that_is_off_does_not_hide_a_panic() {
        let output = panic_on("shard-0", &[(LOG_VARIABLE, "off")]);
        assert_eq!(output.status.code(), Some(PANICKED), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("wanted by the test"),
            "{output:?}"
        );
    }
}
