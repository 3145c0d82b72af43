//! The loop of one core: wait → commands → outbound → from other workers → from streams → inbound → wait, which submits the TAP's writes.
//!
//! A worker owns all it touches on a packet: its TAP queue, its socket, its pool, its SAs, its copy of the forwarding table.
//! It sleeps only when both directions were empty, the control plane wants nothing and no other worker has given it anything.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use adit_channel::{EventFd, Turns};
use adit_proto::control::{Event, Place};
use adit_proto::stats::{Count, Gauge};

use crate::control;
use crate::devices::{Device, Mailbox};
use crate::environment::Environment;
use crate::forward::HERE;
use crate::handover::MacUpdate;
use crate::handover::batch::Direction;
use crate::inbound::Inbound;
use crate::io::{Descriptors, Failure, Io, Slot, Wait};
use crate::limits::{LEAVING_NS, MAC_UPDATES_PER_TURN, TAKEOVERS_PER_TURN};
use crate::outbound::Outbound;
use crate::roam::Roam;
use crate::state::State;
use crate::tap;
use crate::udp::UdpSocket;

/// One worker, to be run on its own pinned thread.
pub struct Worker {
    env: Environment,
    state: State,
    inbound: Inbound,
    outbound: Outbound,
    /// `None`: it stays where it is.
    roam: Option<Roam>,
    mailbox: Arc<Mailbox>,
    leaving: Option<Leaving>,
}

/// The socket of before, for packets that are on their way to it.
struct Leaving {
    udp: Box<UdpSocket>,
    until_ns: u64,
    /// There may be something in it.
    more: bool,
}

impl Worker {
    pub fn new(env: Environment, state: State) -> Worker {
        let (inbound, outbound) = (Inbound::new(&env), Outbound::new(&env));
        Worker { env, state, inbound, outbound, roam: None, mailbox: Arc::default(), leaving: None }
    }

    /// Lets it leave its core while it has little to do.
    pub fn let_roam(&mut self, roam: Option<Roam>) {
        self.roam = roam;
    }

    pub fn descriptors(&self) -> Descriptors {
        self.env.descriptors()
    }

    /// Through which other devices come to it.
    pub fn mailbox(&self) -> Arc<Mailbox> {
        self.mailbox.clone()
    }

    /// How many turns it has made.
    pub fn turns(&self) -> Turns {
        self.env.port.turns()
    }

    /// What wakes it.
    pub fn waker(&self) -> Arc<EventFd> {
        self.env.port.waker()
    }

    /// Forwards until `stop` is set. An error means that a descriptor is gone; it has been reported as an event.
    pub fn run(&mut self, mut io: impl Io, stop: &AtomicBool) -> Result<(), Failure> {
        self.state.tables.prepare();
        let result = self.forward(&mut io, stop);
        if let Err(failure) = &result {
            let errno = failure.error.raw_os_error().unwrap_or(0);
            self.env.port.emit(&Event::WorkerFailed { errno, at: failure.at });
        }
        result
    }

    fn forward(&mut self, io: &mut impl Io, stop: &AtomicBool) -> Result<(), Failure> {
        let (mut tap_more, mut udp_more, mut commands_more, mut trains_more) = (true, true, true, true);
        while !stop.load(Ordering::Relaxed) {
            let leaves_more = self.leaving.as_ref().is_some_and(|leaving| leaving.more);
            let has_more = tap_more || udp_more || commands_more || trains_more || leaves_more;
            let busy = has_more || !self.env.handover.may_sleep(self.env.id);
            let wait = if busy { Wait::Look } else { Wait::Sleep(self.outbound.done().and(self.inbound.done())) };
            if !busy {
                self.count_busy(self.state.turn_ns, self.state.now_ns());
            }
            let ready = io.wait(wait, &mut self.env.port)?;
            self.env.handover.awake(self.env.id);
            self.env.port.count(Count::Turns, 1);
            self.env.port.count(Count::Sleeps, u64::from(!busy));
            tap_more |= ready.tap;
            udp_more |= ready.udp;
            if ready.wake {
                self.env.port.acknowledge();
                (tap_more, udp_more) = self.take_devices(io, (tap_more, udp_more))?;
            }
            let turn_ns = self.state.turn_ns;
            self.state.keep_time(&mut self.env);
            if busy {
                self.count_busy(turn_ns, self.state.turn_ns);
            }
            if let Some(roam) = &mut self.roam {
                roam.look(self.state.turn_ns);
            }
            commands_more = control::apply(&mut self.state, &mut self.env);

            if tap_more {
                tap_more = match self.outbound.turn(&mut self.state, &mut self.env) {
                    Err(error) if tap::is_gone(&error) => self.lose_interface(io)?,
                    turned => turned.map_err(Failure::at(Place::TapRead))?,
                };
            }
            if io.idle() {
                self.inbound.clear();
            }
            self.take_over(io)?;
            trains_more = self.inbound.take_trains(&mut self.state, &mut self.env, io)?;
            if udp_more {
                udp_more = self.inbound.turn(&mut self.state, &mut self.env, io)?;
            }
            if self.leaving.is_some() {
                self.hear_leaving(ready.leaving, io)?;
            }
        }
        Ok(())
    }

    /// Somebody has deleted the interface: what is for it is dropped until there is another one.
    #[cold]
    fn lose_interface(&mut self, io: &mut impl Io) -> Result<bool, Failure> {
        if self.env.tap.is_there() {
            io.replace(Slot::Tap, None, &mut self.env.port)?;
            self.mailbox.put_aside(Device::Queue(self.env.tap.replace(None)));
            self.env.port.gauge(Gauge::TapIndex, 0);
            // Where the ring is full, the control plane finds out by the gauge.
            self.env.port.emit(&Event::InterfaceGone);
        }
        Ok(false)
    }

    /// Uses what was put into the mailbox; there may be something to read from it at once.
    fn take_devices(&mut self, io: &mut impl Io, mut more: (bool, bool)) -> Result<(bool, bool), Failure> {
        while let Some(device) = self.mailbox.take() {
            match device {
                Device::Queue(queue) => {
                    io.replace(Slot::Tap, queue.as_ref().map(|queue| queue.fd.as_raw_fd()), &mut self.env.port)?;
                    self.mailbox.put_aside(Device::Queue(self.env.tap.replace(queue)));
                    more.0 = self.env.tap.is_there();
                    self.env.port.gauge(Gauge::TapIndex, self.env.tap.index().into());
                }
                Device::Socket(mut socket) => {
                    io.replace(Slot::Udp, Some(socket.raw_fd()), &mut self.env.port)?;
                    std::mem::swap(&mut *socket, &mut self.env.udp);
                    io.replace(Slot::Leaving, Some(socket.raw_fd()), &mut self.env.port)?;
                    let leaving = Leaving { udp: socket, until_ns: self.state.now_ns() + LEAVING_NS, more: true };
                    let before = self.leaving.replace(leaving);
                    before.into_iter().for_each(|before| self.mailbox.put_aside(Device::Socket(before.udp)));
                    more.1 = true;
                }
            }
            self.mailbox.taken();
        }
        Ok(more)
    }

    /// Takes what comes to the socket of before, and lets it go in the end.
    #[cold]
    fn hear_leaving(&mut self, is_ready: bool, io: &mut impl Io) -> Result<(), Failure> {
        let Some(leaving) = &mut self.leaving else { return Ok(()) };
        if self.state.turn_ns >= leaving.until_ns {
            io.replace(Slot::Leaving, None, &mut self.env.port)?;
            let gone = self.leaving.take();
            gone.into_iter().for_each(|gone| self.mailbox.put_aside(Device::Socket(gone.udp)));
        } else if is_ready || leaving.more {
            // What is answered at once is answered from there.
            std::mem::swap(&mut *leaving.udp, &mut self.env.udp);
            let turned = self.inbound.turn(&mut self.state, &mut self.env, io);
            std::mem::swap(&mut *leaving.udp, &mut self.env.udp);
            leaving.more = turned?;
        }
        Ok(())
    }

    /// It has worked all the time since the turn that began then, if there was one.
    fn count_busy(&mut self, turn_ns: u64, now_ns: u64) {
        if turn_ns > 0 {
            self.env.port.count(Count::BusyNs, now_ns.saturating_sub(turn_ns));
        }
    }

    /// What other workers gave to this one.
    fn take_over(&mut self, io: &mut impl Io) -> Result<(), Failure> {
        self.learn_from_others();
        let mut taken = 0;
        while taken < TAKEOVERS_PER_TURN && self.inbound.takes_over() && self.outbound.has_budget() {
            let Some(batch) = self.env.handover.take(self.env.id) else { break };
            taken += 1;
            match batch.direction {
                Direction::Outbound | Direction::Between => self.outbound.take_over(&batch, &mut self.state, &mut self.env),
                Direction::Inbound => self.inbound.take_over(&batch, &mut self.state, &mut self.env, io)?,
            }
            self.env.handover.give_back(batch);
        }
        if taken > 0 {
            self.outbound.flush(&mut self.state, &mut self.env);
            self.inbound.flush(&mut self.env, io)?;
        }
        Ok(())
    }

    fn learn_from_others(&mut self) {
        for _ in 0..MAC_UPDATES_PER_TURN {
            let Some(MacUpdate { mac, peer, tag }) = self.env.handover.take_mac_update(self.env.id) else { return };
            if peer == HERE || self.state.tables.has(peer, tag) {
                self.state.fdb.hear(mac, peer, self.state.now_s);
                self.env.port.gauge(Gauge::FdbEntries, self.state.fdb.len() as i64);
            }
        }
    }
}
