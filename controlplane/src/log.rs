//! Where messages go and how they are written: for people; for journald, which keeps time and level itself; or as JSON for programs.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use adit_channel::service::is_journal;
use anyhow::{Context, bail};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The environment variable that says how they are written, to us and to a data plane that is a service of its own.
pub const FORMAT: &str = "ADIT_LOG_FORMAT";

/// Set once messages are written for programs, journald among them.
static FOR_PROGRAMS: OnceLock<()> = OnceLock::new();

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Journal,
    Json,
}

impl Format {
    /// `asked`: what ADIT_LOG_FORMAT says. Without it, `journal` says whether journald reads.
    fn choose(asked: Option<&str>, journal: bool) -> anyhow::Result<Format> {
        match asked {
            None | Some("") => Ok(if journal { Format::Journal } else { Format::Text }),
            Some("text") => Ok(Format::Text),
            Some("journal") => Ok(Format::Journal),
            Some("json") => Ok(Format::Json),
            Some(other) => bail!("the environment variable {FORMAT} is `{other}`: it can be text, journal or json"),
        }
    }
}

/// Begins to write messages to standard error, as ADIT_LOG (which) and ADIT_LOG_FORMAT (how) say.
///
/// # Errors
/// One of them says nothing that is known.
pub fn init() -> anyhow::Result<()> {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).with_env_var("ADIT_LOG").from_env();
    let filter =
        filter.context("the environment variable ADIT_LOG is no filter; examples: info, debug, adit_controlplane=debug")?;
    let asked = std::env::var_os(FORMAT);
    let format = Format::choose(asked.as_ref().map(|asked| asked.to_string_lossy()).as_deref(), is_journal(io::stderr()))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        // Our messages are no reason to end when nobody reads them any more.
        .log_internal_errors(false);
    match format {
        Format::Text => lines.init(),
        Format::Journal => lines.event_format(Journal).init(),
        Format::Json => lines.json().flatten_event(true).init(),
    }
    if format != Format::Text {
        let _ = FOR_PROGRAMS.set(());
    }
    Ok(())
}

/// Says why the process ends: in the format of all other messages where these are for programs, else as it is, like the answer to any
/// command.
pub fn last_words(text: &str) {
    if FOR_PROGRAMS.get().is_some() {
        tracing::error!("{text}");
    } else {
        // Nothing better can be done when standard error is closed.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// A line for journald: its priority (sd-daemon(3)), then the message.
struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let priority = priority(*event.metadata().level());
        let mut message = String::new();
        context.format_fields(Writer::new(&mut message), event)?;
        // Each line is a message of its own there.
        message.lines().try_for_each(|line| writeln!(out, "<{priority}>{line}"))
    }
}

const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Kept;

        fn make_writer(&'a self) -> Kept {
            self.clone()
        }
    }

    #[test]
    fn every_line_for_journald_has_its_priority() {
        let kept = Kept::default();
        let lines = tracing_subscriber::fmt().with_writer(kept.clone()).with_ansi(false).event_format(Journal).finish();
        tracing::subscriber::with_default(lines, || {
            tracing::warn!(peer = "b", "failed: no answer");
            tracing::error!("two\nlines");
            tracing::info!("up");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "<4>failed: no answer peer=\"b\"\n<3>two\n<3>lines\n<6>up\n");
    }

    #[test]
    fn the_format_is_the_one_asked_for_or_that_of_who_reads() {
        assert_eq!(Format::choose(None, true).unwrap(), Format::Journal);
        assert_eq!(Format::choose(None, false).unwrap(), Format::Text);
        assert_eq!(Format::choose(Some("json"), true).unwrap(), Format::Json);
        assert!(Format::choose(Some("xml"), false).unwrap_err().to_string().contains("text, journal or json"));
    }
}
