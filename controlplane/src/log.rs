//! Where messages go and how they are written: for people; for journald, which keeps time and level itself; or as JSON for programs.
//!
//! Text that others have a hand in is a [`Shown`](adit_engine::shown::Shown) long before it comes here. [`Showing`] is the last
//! gate behind that, for whatever else a line is made of: names from files, errors of libraries, what the data plane says.

use std::fmt::{self, Debug, Write as _};
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use adit_channel::service::is_journal;
use adit_engine::shown::shows;
use anyhow::{Context, bail};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
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
        Format::Text => lines.fmt_fields(Fields).init(),
        Format::Journal => lines.fmt_fields(Fields).event_format(Journal).init(),
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
        let mut shown = String::new();
        // A text takes all that is written into it.
        let _ = Showing { out: &mut shown, indent: "", ends_line: false }.write_str(text);
        // Nothing better can be done when standard error is closed.
        let _ = writeln!(io::stderr(), "{shown}");
    }
}

/// Writes what shows as it is, everything else as `\u{a}`. A message may have several lines: those after the first are indented,
/// so that none looks like a message of its own.
struct Showing<'a, W> {
    out: &'a mut W,
    indent: &'static str,
    /// A line has ended, and it is not known yet whether another one follows.
    ends_line: bool,
}

impl<W: fmt::Write> fmt::Write for Showing<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if std::mem::take(&mut self.ends_line) {
                write!(self.out, "\n{}", self.indent)?;
            }
            match character {
                '\n' => self.ends_line = true,
                ' ' => self.out.write_char(' ')?,
                shown if shows(shown) => self.out.write_char(shown)?,
                other => write!(self.out, "{}", other.escape_unicode())?,
            }
        }
        Ok(())
    }
}

/// How messages and what is said beside them are written, but for programs.
struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, out: Writer<'w>, fields: R) -> fmt::Result {
        let mut said = Said { out, outcome: Ok(()), is_first: true };
        fields.record(&mut said);
        said.outcome
    }
}

struct Said<'w> {
    out: Writer<'w>,
    outcome: fmt::Result,
    is_first: bool,
}

impl Said<'_> {
    fn say(&mut self, name: &str, value: &dyn Debug) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.out.write_char(' ')?;
        }
        match name {
            "message" => {}
            name if self.out.has_ansi_escapes() => write!(self.out, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?,
            name => write!(self.out, "{name}=")?,
        }
        write!(Showing { out: &mut self.out, indent: "  ", ends_line: false }, "{value:?}")
    }
}

impl Visit for Said<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Where in its sources a library has written it.
        if self.outcome.is_ok() && !field.name().starts_with("log.") {
            self.outcome = self.say(field.name(), value);
        }
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

    use proptest::prelude::*;
    use tracing_subscriber::fmt::{MakeWriter, SubscriberBuilder, format};

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

    impl Kept {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    /// As [`init`] makes them.
    fn lines(kept: &Kept) -> SubscriberBuilder<Fields, format::Format, LevelFilter, Kept> {
        tracing_subscriber::fmt().with_writer(kept.clone()).with_ansi(false).with_target(false).fmt_fields(Fields)
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
        tracing::subscriber::with_default(lines(&kept).event_format(Journal).finish(), || {
            tracing::warn!(peer = "b", "failed: no answer");
            tracing::error!("two\nlines\n");
            tracing::info!("up");
        });
        assert_eq!(kept.text(), "<4>failed: no answer peer=\"b\"\n<3>two\n<3>  lines\n<6>up\n");
    }

    proptest! {
        /// Whatever a line is made of: no control character, nothing that hides or turns what is beside it, and no line that
        /// looks like a message of its own.
        #[test]
        fn nothing_in_a_message_is_obeyed_or_looks_like_another_one(
            text in concat!(
                "\\PC{0,9}([\\x00-\\x1f\\x7f-\\x9f\u{ad}\u{200b}\u{202e}\u{2028}\u{3164}\u{e0041}]",
                "|\\n<3>up|\\n2026 ERROR x){1,4}\\PC{0,9}",
            ),
            any: String,
        ) {
            for journal in [false, true] {
                for said in [&text, &any] {
                    let kept = Kept::default();
                    let one = || tracing::warn!(peer = %said, other = ?said, third = said.as_str(), "said {said} {}", said);
                    if journal {
                        tracing::subscriber::with_default(lines(&kept).event_format(Journal).finish(), one);
                    } else {
                        tracing::subscriber::with_default(lines(&kept).without_time().finish(), one);
                    }
                    let written = kept.text();
                    let begin = if journal { "<4>said" } else { " WARN said" };
                    let go_on = if journal { "<4>  " } else { "  " };
                    prop_assert!(written.starts_with(begin), "{written:?}");
                    for line in written.lines().skip(1) {
                        prop_assert!(line.starts_with(go_on), "{written:?}");
                    }
                    prop_assert!(written.chars().all(|one| shows(one) || " \n".contains(one)), "{written:?}");
                }
            }
        }
    }

    #[test]
    fn last_words_keep_their_lines() {
        let mut shown = String::new();
        Showing { out: &mut shown, indent: "", ends_line: false }.write_str("one\n  two\u{1b}[2J\n").unwrap();
        assert_eq!(shown, "one\n  two\\u{1b}[2J");
    }

    #[test]
    fn the_format_is_the_one_asked_for_or_that_of_who_reads() {
        assert_eq!(Format::choose(None, true).unwrap(), Format::Journal);
        assert_eq!(Format::choose(None, false).unwrap(), Format::Text);
        assert_eq!(Format::choose(Some("json"), true).unwrap(), Format::Json);
        assert!(Format::choose(Some("xml"), false).unwrap_err().to_string().contains("text, journal or json"));
    }
}
