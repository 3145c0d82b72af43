//! One question to one address, asked again until it is answered. Each time under another id, so that an answer tells which of them it
//! answers: how long it took, and which were lost.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::super::codec::Transaction;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// The first socket: where does this server see us?
    Mapped {
        server: usize,
    },
    /// The same of the server's second address, at its first port, and at its second one (RFC 5780 §4.3).
    MappedOther,
    MappedOtherBoth,
    /// A socket that had sent nothing before.
    Fresh,
    /// The socket of the filter, as whose answer nothing is changed.
    FilterPlain,
    /// The same beside each question of the two below, whose answer nothing keeps out: whether the server answers at all meanwhile.
    Control,
    /// To be answered from the second address and port, and from the second port (RFC 5780 §4.4).
    ChangeBoth,
    ChangePort,
    /// To where another socket of ours is seen.
    Hairpin,
}

impl Ask {
    /// Whether no answer may be what is found out.
    pub(super) const fn may_be_silent(self) -> bool {
        matches!(self, Ask::ChangeBoth | Ask::ChangePort | Ask::Hairpin)
    }

    /// When it is sent, in milliseconds from the first time on. Where an answer is expected, by the usual time-out (RFC 8489 §6.2.1);
    /// where silence is one, it takes several to be believed.
    const fn schedule(self) -> &'static [u64] {
        if self.may_be_silent() || matches!(self, Ask::Control) { &[0, 120, 240, 360, 480] } else { &[0, 500, 1000] }
    }
}

/// What came back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub mapped: SocketAddr,
    /// Which of the times it was asked, from 0.
    pub nth: usize,
    pub rtt: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    id: Transaction,
    at: Instant,
    answered: bool,
}

/// One question.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub ask: Ask,
    pub socket: usize,
    pub to: SocketAddr,
    begun: Instant,
    sent: Vec<Sent>,
    pub answer: Option<Answer>,
    /// The server does not do what was asked.
    pub refused: bool,
}

impl Probe {
    pub fn new(now: Instant, ask: Ask, socket: usize, to: SocketAddr) -> Probe {
        Probe { ask, socket, to, begun: now, sent: Vec::new(), answer: None, refused: false }
    }

    /// When it is to be sent again; `None`: not any more.
    pub fn due(&self) -> Option<Instant> {
        // A control is asked to the end.
        if (self.answer.is_some() && self.ask != Ask::Control) || self.refused {
            return None;
        }
        self.ask.schedule().get(self.sent.len()).map(|after| self.begun + Duration::from_millis(*after))
    }

    pub fn sent(&mut self, now: Instant, id: Transaction) {
        self.sent.push(Sent { id, at: now, answered: false });
    }

    /// Which time it was that this id was sent.
    pub fn place_of(&self, id: Transaction) -> Option<usize> {
        self.sent.iter().position(|one| one.id == id)
    }

    /// The answer to one of the times. The first that comes counts.
    pub fn answered(&mut self, now: Instant, nth: usize, mapped: SocketAddr) {
        let sent = &mut self.sent[nth];
        sent.answered = true;
        let rtt = now.saturating_duration_since(sent.at);
        self.answer.get_or_insert(Answer { mapped, nth, rtt });
    }

    /// When nothing is to be expected of it any more; `None`: it is to be sent yet.
    pub fn over_at(&self, patience: Duration) -> Option<Instant> {
        let last = self.sent.last().map_or(self.begun, |sent| sent.at);
        match ((self.answer.is_some() && self.ask != Ask::Control) || self.refused, self.due()) {
            (true, _) => Some(self.begun),
            (false, Some(_)) => None,
            (false, None) => Some(last + patience),
        }
    }

    /// How often it was answered.
    pub fn answered_times(&self) -> usize {
        self.sent.iter().filter(|one| one.answered).count()
    }

    /// How often it was sent.
    pub fn times(&self) -> usize {
        self.sent.len()
    }

    /// How often it was sent so long ago that an answer would be here, and how often of that none came.
    pub fn tally(&self, now: Instant, patience: Duration) -> (u32, u32) {
        let judged = self.sent.iter().filter(|one| one.answered || one.at + patience <= now);
        judged.fold((0, 0), |(asked, lost), one| (asked + 1, lost + u32::from(!one.answered)))
    }
}
