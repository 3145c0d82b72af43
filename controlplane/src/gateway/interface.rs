//! The interface in the kernel, kept as the configuration says: set up at the start, and put right whenever somebody has changed it.
//! What is not there yet, a bridge for example, is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::look::Look;
use crate::config::Config;
use crate::ike::Ike;
use crate::netlink::{Netlink, NetlinkError, News};
use crate::reconcile::interface::{self, Installed, Step, Wanted};
use crate::trouble::{Trouble, repeated};

/// Several changes come at once: so long after the first one the interface is looked at, and no more often than the second.
const SETTLE: Duration = Duration::from_millis(50);
const NO_MORE_OFTEN: Duration = Duration::from_millis(250);
/// Looks until nothing is left to do: the kernel takes away routes with an address, and addresses with another one.
const PASSES: usize = 4;
/// What was put right is told again after so long, if it is the same again, with how often it was so in between.
const REPORTED_FOR: Duration = Duration::from_secs(60);
/// Lines that are remembered.
const REPORTED_MAX: usize = 64;

/// What is known of the interface between two looks.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// What configurations before this one have put there.
    installed: Installed,
    /// What cannot be done now, in words: said once, and tried again.
    complaints: BTreeSet<String>,
    waits_for_bridge: bool,
    /// Routes may be others now since a path carries another size: no fault of anybody.
    paths_changed: bool,
    /// What was put right, by the line that says it.
    reported: BTreeMap<String, Trouble>,
    look: Look,
}

/// What the interface should be like, and who is to hear of it.
pub(super) struct Should<'a> {
    pub config: &'a Config,
    /// The interface of the data plane, if it has one: something else may have its name.
    pub index: Option<u32>,
    /// Knows the sizes that the routes have.
    pub ike: Option<&'a Ike>,
    pub news: &'a News,
}

/// What came of bringing the interface to where it should be.
#[derive(Debug, Default)]
struct Outcome {
    done: Vec<Step>,
    failed: Vec<(Step, NetlinkError)>,
    missing_bridge: Option<String>,
}

impl Upkeep {
    /// When the interface is to be looked at, if the kernel had news of it.
    pub(super) fn due(&self) -> Option<Instant> {
        self.look.due()
    }

    /// There is none to be looked at: the next news are waited for.
    pub(super) fn postpone(&mut self) {
        self.look.done();
    }

    /// The kernel has news.
    pub(super) fn news(&mut self) {
        self.look.news(SETTLE, NO_MORE_OFTEN);
    }

    /// A path carries packets of another size: routes follow.
    pub(super) fn paths_changed(&mut self) {
        self.paths_changed = true;
        self.news();
    }

    /// What an earlier configuration may have put there goes, where this one does not want it.
    pub(super) fn replaces(&mut self, earlier: Installed) {
        self.installed.addresses.extend(earlier.addresses);
        self.installed.routes.extend(earlier.routes);
        self.installed.in_bridge |= earlier.in_bridge;
    }

    /// There is something to be said. Where that is news, how often it came since it was said last; what was said a short while ago
    /// is none.
    fn came(&mut self, line: &str, now: Instant) -> Option<u64> {
        let is_new = !self.reported.contains_key(line);
        if is_new && self.reported.len() >= REPORTED_MAX {
            self.reported.retain(|_, known| !known.is_news(now));
        }
        if is_new && self.reported.len() >= REPORTED_MAX {
            return None;
        }
        self.reported.entry(line.to_owned()).or_insert_with(|| Trouble::reported_again_after(REPORTED_FOR)).came(now)
    }

    /// Says what cannot be done, each thing once, and when all is well again.
    fn complain(&mut self, interface: &str, outcome: &Outcome) {
        let bridge = outcome.missing_bridge.iter().map(|bridge| {
            format!(
                "there is no bridge {bridge} for the interface {interface}: it is waited for. Is it misspelt? {}",
                interface::BRIDGE_REMEDY
            )
        });
        let failed =
            outcome.failed.iter().map(|(_, error)| format!("configuring the interface {interface}: {error}. It is tried again"));
        let complaints: BTreeSet<String> = bridge.chain(failed).collect();
        complaints.difference(&self.complaints).for_each(|line| tracing::warn!("{line}"));
        if complaints.is_empty() && !self.complaints.is_empty() {
            tracing::info!("the interface {interface} is complete");
        }
        self.waits_for_bridge = outcome.missing_bridge.is_some();
        self.complaints = complaints;
    }

    /// Sets the interface up. Where that fails at a restart, the gateway is better off without a part of it than down: then
    /// [`Upkeep::tend`] tries again.
    ///
    /// # Errors
    /// At the first start, the first request that the kernel refused; but a route of another interface may go by itself.
    pub(super) async fn set_up(&mut self, should: &Should<'_>, is_restart: bool) -> anyhow::Result<()> {
        let name = &should.config.interface.name;
        let outcome = self.bring(should).await;
        let mut outcome = outcome.with_context(|| format!("configuring the interface {name}"))?;
        let fatal = outcome.failed.iter().position(|(_, error)| !error.is_foreign_route());
        if let Some(fatal) = fatal.filter(|_| !is_restart) {
            let (_, error) = outcome.failed.swap_remove(fatal);
            return Err(error).with_context(|| format!("configuring the interface {name}"));
        }
        self.complain(name, &outcome);
        Ok(())
    }

    /// Sets up the interface that takes the place of one that was deleted at some time.
    pub(super) async fn came_again(&mut self, should: &Should<'_>, deleted: Instant) {
        if let Err(error) = self.set_up(should, true).await {
            // It is tended from now on.
            tracing::debug!("{error:#}");
        }
        let line =
            format!("the interface {} was deleted: it was made anew, and no tunnel begins anew", should.config.interface.name);
        if let Some(times) = self.came(&line, Instant::now()) {
            tracing::warn!("{line} ({} ms){}", deleted.elapsed().as_millis(), repeated(times));
        }
    }

    /// Brings the interface to where a reload wants it. What cannot be done comes back, and is tried again.
    pub(super) async fn reload(&mut self, should: &Should<'_>) -> Vec<String> {
        let name = &should.config.interface.name;
        match self.bring(should).await {
            Ok(outcome) => {
                self.complain(name, &outcome);
                self.complaints.iter().cloned().collect()
            }
            Err(error) => vec![format!("configuring the interface {name}: {error:#}")],
        }
    }

    /// Looks at the interface and puts right what others have changed. False when it is not there under its name, as far as anybody
    /// can say.
    pub(super) async fn tend(&mut self, should: &Should<'_>) -> bool {
        self.look.done();
        let waited = self.waits_for_bridge;
        let follows = std::mem::take(&mut self.paths_changed);
        let Ok(outcome) = self.bring(should).await else { return false };
        let name = &should.config.interface.name;
        // A bridge that was waited for and came is no fault.
        let expected = |step: &Step| waited && matches!(step, Step::Join(..)) || follows && matches!(step, Step::SetRoute(..));
        let is_fault = |step: &&Step| !expected(step);
        let faults: Vec<Step> = outcome.done.iter().filter(is_fault).cloned().collect();
        if !faults.is_empty() {
            let line = format!("the interface {name} was not as configured and was put right: {}", interface::summary(&faults));
            match self.came(&line, Instant::now()) {
                Some(times) => tracing::warn!("{line}{}", repeated(times)),
                None => tracing::debug!("{line}"),
            }
        }
        self.complain(name, &outcome);
        true
    }

    /// Does everything that can be done.
    ///
    /// # Errors
    /// The data plane has none now, or the kernel does not talk to us.
    async fn bring(&mut self, should: &Should<'_>) -> anyhow::Result<Outcome> {
        let wanted = Wanted::of(should.config, |place| should.ike.and_then(|ike| ike.inner_mtu(place)));
        let index = should.index.context("the data plane has none now: somebody has deleted it")?;
        let netlink = Netlink::open().context("opening a netlink socket")?;
        let mut outcome = Outcome::default();
        for _ in 0..PASSES {
            let actual = netlink.look((&wanted.name, index), wanted.bridge.as_deref()).await?;
            should.news.about(index);
            let plan = interface::plan(&wanted, &actual, &self.installed);
            outcome.missing_bridge = plan.missing_bridge;
            let mut steps = plan.steps;
            steps.retain(|step| !outcome.failed.iter().any(|(failed, _)| failed == step));
            if steps.is_empty() {
                break;
            }
            for step in steps {
                match netlink.apply(index, &step).await {
                    Ok(()) => outcome.done.push(step),
                    Err(error) => outcome.failed.push((step, error)),
                }
            }
        }
        self.look.done();
        if outcome.failed.is_empty() {
            // Nothing of ours is left there that is not wanted; what somebody adds from now on is theirs.
            self.installed = Installed::default();
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_line_is_said_once_a_minute_with_how_often_it_came() {
        let (mut upkeep, start) = (Upkeep::default(), Instant::now());
        let reported: Vec<(u64, u64)> =
            (0..150).filter_map(|s| Some((s, upkeep.came("it was down", start + Duration::from_secs(s))?))).collect();
        assert_eq!(reported, [(0, 0), (60, 59), (120, 59)]);
        assert_eq!(upkeep.came("its MTU was not 1500", start), Some(0), "another line");
        assert_eq!(upkeep.came("it was down", start + Duration::from_secs(10_000)), Some(29), "nothing is forgotten");
    }

    #[test]
    fn the_lines_that_are_remembered_are_bounded() {
        let (mut upkeep, start) = (Upkeep::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let mut lines = |s| (0..1000).filter(|n| upkeep.came(&format!("{s} {n}"), at(s)).is_some()).count();
        assert_eq!((lines(0), lines(59)), (REPORTED_MAX, 0), "above, all is quiet");
        assert_eq!(lines(60), REPORTED_MAX, "those of a minute ago leave their places");
        assert_eq!(upkeep.reported.len(), REPORTED_MAX);
    }
}
