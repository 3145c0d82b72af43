//! What each event has cost, held against the table, and all that there is to say at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use comfy_table::Table;

use crate::events::{Cost, EVENTS, Event, Span};
use crate::foes::Deed;
use crate::line::Pings;
use crate::watch::Life;

/// What was lost a little before or after something was seen to be away or back: a ping on its way, and the time that it takes to look.
const MARGIN: Duration = Duration::from_millis(300);

#[derive(Default)]
pub struct Report {
    costs: BTreeMap<&'static str, Total>,
    pings: u64,
    /// Lost while a worker had no core and its queues overflowed.
    shed: u64,
    books: Vec<String>,
    foes: Vec<String>,
    processes: Vec<String>,
}

#[derive(Default)]
struct Total {
    times: u64,
    lost: u64,
    worst: u64,
    longest: Duration,
}

impl Report {
    /// Adds what was lost in the step of an event. An error where it is more than it may be.
    pub fn event(&mut self, event: &Event, spans: &[Span], pings: &Pings) -> Result<()> {
        let probes = &pings.probes;
        let within = |at: &Instant| spans.iter().any(|span| *at + MARGIN >= span.from && *at <= span.until + MARGIN);
        let mut strays: Vec<Instant> = probes.lost_at.iter().filter(|at| !within(at)).copied().collect();
        if let Cost::Few { pings } = event.cost
            && strays.len() as u64 <= pings
        {
            strays.clear();
        }
        let lost = probes.lost - strays.len() as u64;
        let away = spans.iter().map(|span| span.until - span.from).max().unwrap_or_default();
        println!(
            "{:<36} {lost:>5} of {:>5} pings, away {away:?}; lost beside it {}, shed {} and {}, starved {:?}",
            event.name,
            probes.sent,
            strays.len(),
            pings.shed,
            pings.backlog,
            pings.starved
        );
        if let Cost::While { what, at_most } = event.cost {
            ensure!(away <= at_most, "{}: {what} was away for {away:?}, more than {at_most:?}", event.name);
        } else {
            ensure!(spans.is_empty(), "{} must not say that something was away", event.name);
        }
        let total = self.costs.entry(event.name).or_default();
        total.times += 1;
        total.lost += lost;
        total.worst = total.worst.max(lost);
        total.longest = total.longest.max(away);
        self.none_lost(event.name, pings, &strays, spans.first().map(|span| span.from))
    }

    /// Adds pings of which none may be lost but for want of a core.
    pub fn quiet(&mut self, name: &str, pings: &Pings) -> Result<()> {
        self.none_lost(name, pings, &pings.probes.lost_at, None)
    }

    fn none_lost(&mut self, name: &str, pings: &Pings, lost: &[Instant], since: Option<Instant>) -> Result<()> {
        self.pings += pings.probes.sent;
        let since = since.or(lost.first().copied());
        let at = |lost: &Instant| since.map(|since| format!("{:+.3}", signed(*lost, since)));
        ensure!(
            lost.len() as u64 <= pings.for_want_of_a_core(),
            "{name}: {} of {} pings were lost and nothing was away, at these seconds: {:?}; queues in front of workers dropped {}, the \
             kernel between namespaces {}, and for {:?} a worker wanted a core",
            lost.len(),
            pings.probes.sent,
            lost.iter().filter_map(at).collect::<Vec<_>>(),
            pings.shed,
            pings.backlog,
            pings.starved
        );
        self.shed += lost.len() as u64;
        Ok(())
    }

    /// What was sent and came, in one direction.
    pub fn booked(&mut self, line: String) {
        self.books.push(line);
    }

    /// What the foes have done; each of them must have done something.
    pub fn foes(&mut self, deeds: &[Deed]) -> Result<()> {
        for deed in deeds {
            ensure!(deed.count >= deed.least, "{}: only {} in all", deed.name, deed.count);
            self.foes.push(format!("{:<56} {:>9}", deed.name, deed.count));
        }
        Ok(())
    }

    /// What became of the processes.
    pub fn processes(&mut self, lives: Vec<Life>) -> Result<()> {
        self.processes = lives.iter().map(Life::to_string).collect();
        lives.iter().try_for_each(Life::has_not_grown)
    }
}

/// Seconds from one moment to another one.
fn signed(at: Instant, since: Instant) -> f64 {
    at.saturating_duration_since(since).as_secs_f64() - since.saturating_duration_since(at).as_secs_f64()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.set_header(["event", "times", "pings lost", "worst", "away at most", "may cost", "because"]);
        for event in EVENTS {
            let none = Total::default();
            let total = self.costs.get(event.name).unwrap_or(&none);
            let may = match event.cost {
                Cost::Nothing => "nothing".to_owned(),
                Cost::Few { pings } => format!("{pings} pings"),
                Cost::While { what, at_most } => format!("while away: {what}, {} s at most", at_most.as_secs()),
            };
            let away = format!("{:.3} s", total.longest.as_secs_f64());
            table.add_row([
                event.name,
                &total.times.to_string(),
                &total.lost.to_string(),
                &total.worst.to_string(),
                &away,
                &may,
                event.why,
            ]);
        }
        writeln!(f, "{table}\n{} pings; {} were lost for want of a core\n", self.pings, self.shed)?;
        for (title, lines) in [("foes", &self.foes), ("sent and received", &self.books), ("processes", &self.processes)] {
            writeln!(f, "{title}:")?;
            lines.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        Ok(())
    }
}
