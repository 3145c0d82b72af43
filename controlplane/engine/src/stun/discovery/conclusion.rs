//! What the answers and the silences of a search come to: its report.

use std::net::SocketAddr;
use std::time::Instant;

use super::facts::{Filtering, Gap, Mapping, Report, Udp};
use super::probe::{Answer, Ask, Probe};
use super::verdict::{self, Sample};
use super::{Discovery, FIRST, Hairpin};

/// Silence is believed where it would be chance less often than this.
const CHANCE: f64 = 0.01;
/// Plain questions, of five, that must have been answered meanwhile.
const CONTROLS_LEAST: usize = 2;

impl Discovery {
    pub(super) fn report(&self, now: Instant) -> Report {
        let mut gaps = Vec::new();
        let (questions, lost) = self.tally(now);
        let mapping = self.mapping(&mut gaps);
        let filtering = self.filtering((questions, lost), &mut gaps);
        let behind_nat = !matches!(mapping, Mapping::NoNat) && self.reference.is_some();
        gaps.sort_unstable();
        gaps.dedup();
        let mut public: Vec<SocketAddr> = Vec::new();
        for (_, mapped) in self.seen() {
            if !public.contains(&mapped) {
                public.push(mapped);
            }
        }
        Report {
            local: self.sockets[FIRST],
            public,
            servers: self.servers.clone(),
            udp: self.udp(),
            portal: self.tcp.portal.clone().filter(|_| !self.has_answer() && !self.tcp.passes),
            mapping,
            filtering,
            allocation: behind_nat.then(|| verdict::allocation(&self.samples())),
            hairpin: self.hairpin(mapping, filtering, (questions, lost)),
            gaps,
            questions,
            lost,
            took: now.saturating_duration_since(self.began),
        }
    }

    fn has_answer(&self) -> bool {
        self.probes.iter().any(|probe| probe.answer.is_some() || probe.refused)
    }

    fn udp(&self) -> Udp {
        match (self.has_answer(), self.tcp.passes) {
            (true, _) => Udp::Passes,
            (false, true) => Udp::Blocked,
            (false, false) => Udp::Silent,
        }
    }

    /// Who saw the first socket where, in the order of the questions; first the server that answered first.
    fn seen(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let of_first = self.probes.iter().filter(|probe| probe.socket == FIRST);
        let mut seen: Vec<_> = of_first.filter_map(|probe| probe.answer.map(|answer| (probe.to, answer.mapped))).collect();
        let reference = self.reference.map(|server| self.servers[server].server);
        seen.sort_by_key(|(server, _)| Some(*server) != reference);
        seen
    }

    fn find(&self, ask: Ask) -> Option<&Probe> {
        self.probes.iter().find(|probe| probe.ask == ask)
    }

    /// Whether the second address of the server with one has answered.
    fn other_answers(&self) -> bool {
        [Ask::MappedOther, Ask::MappedOtherBoth].into_iter().filter_map(|ask| self.find(ask)).any(|probe| probe.answer.is_some())
    }

    fn mapping(&self, gaps: &mut Vec<Gap>) -> Mapping {
        let (local, mut seen) = (self.sockets[FIRST], self.seen());
        // A server before the NAT sees us as we are, and says nothing of it.
        let is_inside = |(_, mapped): &(SocketAddr, SocketAddr)| *mapped == local;
        if seen.iter().any(is_inside) && !seen.iter().all(is_inside) {
            gaps.push(Gap::ServerInside);
            seen.retain(|one| !is_inside(one));
        }
        let mapping = verdict::mapping(local, &seen);
        if mapping == Mapping::Unknown && self.has_answer() {
            gaps.push(match (self.reference, self.changing) {
                (None, _) => Gap::Refused,
                (_, Some(_)) => Gap::OtherAddressSilent,
                (_, None) if self.useless_other => Gap::OtherAddressUseless,
                (_, None) => Gap::OneAddress,
            });
        }
        mapping
    }

    /// RFC 5780 §4.4. That something came in is certain; that nothing did is believed if the server's second address answers otherwise,
    /// if it has answered plain questions in the same time, and if not so much is lost that it may be chance: a server that answers
    /// few questions of a second has none left for these.
    fn filtering(&self, lost: (u32, u32), gaps: &mut Vec<Gap>) -> Filtering {
        let is_outside = self.reference.is_some_and(|reference| !self.is_inside(reference));
        if is_outside && self.changing.is_some_and(|server| self.is_inside(server)) {
            gaps.push(Gap::ServerInside);
            return Filtering::Unknown;
        }
        let (Some(both), Some(port)) = (self.find(Ask::ChangeBoth), self.find(Ask::ChangePort)) else {
            if self.reference.is_some() {
                gaps.push(if self.useless_other { Gap::OtherAddressUseless } else { Gap::NoChange });
            }
            return Filtering::Unknown;
        };
        if both.answer.is_some() {
            return Filtering::EndpointIndependent;
        }
        let gap = if both.refused || (port.refused && port.answer.is_none()) {
            Some(Gap::NoChange)
        } else if !self.other_answers() {
            Some(Gap::OtherAddressSilent)
        } else {
            let silent = if port.answer.is_some() { both.times() } else { both.times().min(port.times()) };
            let controls = self.find(Ask::Control).map_or(0, Probe::answered_times);
            (controls < CONTROLS_LEAST || !is_believed(silent, lost)).then_some(Gap::Loss)
        };
        match (gap, port.answer) {
            (Some(gap), _) => {
                gaps.push(gap);
                Filtering::Unknown
            }
            (None, Some(_)) => Filtering::AddressDependent,
            (None, None) => Filtering::AddressAndPortDependent,
        }
    }

    /// Where the filter is known to have been in the way of the question, silence says nothing.
    fn hairpin(&self, mapping: Mapping, filtering: Filtering, lost: (u32, u32)) -> Option<bool> {
        let times = self.probes.iter().filter(|probe| probe.ask == Ask::Hairpin).map(Probe::times).min();
        // Another mapping for each destination: whom one socket has sent to is not who sends to it.
        let is_open = mapping == Mapping::EndpointIndependent || filtering == Filtering::EndpointIndependent;
        match self.hairpin {
            Hairpin::Seen => Some(true),
            Hairpin::Tried if is_open && is_believed(times.unwrap_or(0), lost) => Some(false),
            Hairpin::Tried | Hairpin::NotTried => None,
        }
    }

    /// Sockets that had sent nothing before, in the order in which they began, as one address saw them.
    fn samples(&self) -> Vec<Sample> {
        let reference = self.reference.map(|server| self.servers[server].server);
        let fresh = self.probes.iter().filter(|probe| matches!(probe.ask, Ask::Fresh | Ask::FilterPlain));
        let fresh = fresh.filter(|probe| Some(probe.to) == reference);
        let answers: Vec<_> = fresh.filter_map(|probe| probe.answer.map(|answer| (probe.socket, answer))).collect();
        // A NAT with several addresses has the ports of each.
        let address = answers.first().map(|(_, answer)| answer.mapped.ip());
        let of_address = answers.iter().filter(|(_, answer)| Some(answer.mapped.ip()) == address);
        let sample = |(socket, answer): &(usize, Answer)| Sample {
            local: self.sockets[*socket].port(),
            mapped: answer.mapped.port(),
            at_once: answer.nth == 0,
        };
        of_address.map(sample).collect()
    }

    /// Questions that should have been answered, and how many were not: those to addresses that have answered something.
    fn tally(&self, now: Instant) -> (u32, u32) {
        let answers = |to: SocketAddr| self.probes.iter().any(|probe| probe.to == to && probe.answer.is_some());
        let plain = self.probes.iter().filter(|probe| !probe.ask.may_be_silent() && answers(probe.to));
        let tallies = plain.map(|probe| probe.tally(now, self.patience()));
        tallies.fold((0, 0), |(asked, lost), (more, more_lost)| (asked + more, lost + more_lost))
    }
}

/// Whether so many questions without an answer say something, at the rate at which others got none. With few questions the rate is
/// taken for higher than it was.
fn is_believed(times: usize, (questions, lost): (u32, u32)) -> bool {
    let rate = f64::from(lost + 1) / f64::from(questions + 4);
    times > 0 && rate.powi(i32::try_from(times).unwrap_or(i32::MAX)) < CHANCE
}

#[cfg(test)]
mod tests {
    use super::is_believed;

    #[test]
    fn silence_is_believed_as_long_as_little_else_is_lost() {
        assert!(is_believed(5, (8, 0)));
        assert!(is_believed(5, (12, 4)));
        assert!(!is_believed(5, (14, 8)));
        assert!(!is_believed(1, (8, 0)));
        assert!(!is_believed(0, (100, 0)));
    }
}
