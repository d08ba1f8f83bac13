//! The agent's own log. On a terminal it is for people; under systemd each line carries its priority, so that the journal
//! keeps everything and the machine's console, a slow line, shows only notices and worse.

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// Target of what an operator at the console shall see though nothing is wrong. Not a level: tracing has none for it.
pub(crate) const NOTICE: &str = "notice";

/// Starts logging to standard error.
pub(crate) fn start() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TINDERBOX_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A reader of our log that goes away (journald restarts) must not end us: reporting it would go to the same
        // pipe, and fail by panic.
        .log_internal_errors(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.with_ansi(false).event_format(Prefixed(plain())).init();
    } else {
        log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).with_target(false).init();
    }
}

/// The journal has time and level itself.
fn plain() -> tracing_subscriber::fmt::format::Format<tracing_subscriber::fmt::format::Full, ()> {
    tracing_subscriber::fmt::format().with_target(false).with_level(false).without_time()
}

/// Writes a line's priority before it, as sd-daemon(3) has it.
struct Prefixed<F>(F);

impl<S, N, F> FormatEvent<S, N> for Prefixed<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let metadata = event.metadata();
        write!(writer, "<{}>", priority(*metadata.level(), metadata.target()))?;
        self.0.format_event(context, writer, event)
    }
}

/// The syslog priority of an event.
fn priority(level: Level, target: &str) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO if target == NOTICE => 5,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_journal_gets_a_priority_and_the_words() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .event_format(Prefixed(plain()))
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: NOTICE, "serving");
            tracing::info!(sandbox = 1, "printed");
            tracing::warn!("odd");
            tracing::error!("bad");
        });
        let written = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(written, "<5>serving\n<6>printed sandbox=1\n<4>odd\n<3>bad\n");
    }
}
