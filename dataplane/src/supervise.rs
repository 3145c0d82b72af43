//! The main thread while packets flow: it serves the channel's socket, ticks once a second, and waits for a signal or a worker's failure.
//!
//! unsafe here: poll.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use adit_channel::service::{Manager, NotifyState};
use adit_channel::{Devices, Listener, Notice, PlaneInfo, Region};
use anyhow::{Context, Result, bail};

use crate::devices::{Device, Expected};
use crate::io::Failure;
use crate::log;
use crate::running::Running;
use crate::tap::steering::Program;

/// How long to wait before a control plane that could not be let in is tried again.
const LISTENER_PAUSE: Duration = Duration::from_millis(100);
/// How often every worker is made to look at its clock.
const TICK: Duration = Duration::from_secs(1);

/// Takes devices that the control plane has opened: judges them, gives them to the workers, and says so in the shared memory.
pub struct Intake {
    pub expected: Expected,
    /// Chooses the queue of a frame, of several.
    pub steering: Option<Program>,
    pub region: Region,
    pub info: PlaneInfo,
}

impl Intake {
    /// # Errors
    /// They are not what they should be, or a worker does not take its own; for people.
    fn take(&mut self, running: &Running, devices: &Devices, fds: Vec<OwnedFd>) -> Result<(), String> {
        let list = self.expected.judge(devices, fds)?;
        if let (Some(program), Some(Device::Queue(Some(first)))) = (&self.steering, list.first())
            && let Err(error) = program.attach(first.fd.as_fd())
        {
            log::info(format_args!("the driver of the interface chooses the queues by itself, it takes no program: {error}"));
        }
        running.give(list)?;
        match devices {
            Devices::Queues { .. } => log::info(format_args!("the interface {} was handed over anew", self.info.tap)),
            Devices::Sockets { listen } => {
                log::info(format_args!("listening at {listen}, by sockets that were handed over"));
                self.info.listen = *listen;
                let argument = self.info.arguments.iter_mut().find(|(flag, _)| flag == "--listen");
                argument.into_iter().for_each(|(_, value)| *value = listen.to_string());
                self.region.describe(&self.info).map_err(|error| format!("the shared memory: {error}"))?;
            }
        }
        Ok(())
    }
}

/// The listener for control planes. What fails there concerns who waits outside, never the packets.
struct ControlListener {
    listener: Listener,
    failing: bool,
    /// The socket's file was gone, and could not be looked for or made again.
    homeless: bool,
}

impl ControlListener {
    /// Once a second: the socket is there again soon after somebody has removed it. What fails is tried again.
    fn keep_socket(&mut self) {
        match self.listener.keep_socket() {
            Ok(again) => {
                if std::mem::take(&mut self.homeless) || again {
                    log::info("the socket for the control plane was removed, and is there again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.homeless, true) {
                    log::warn(format_args!("the socket for the control plane cannot be kept: {error}; it is tried again"));
                }
            }
        }
    }

    /// Lets control planes in; true when the one that is attached wants the data plane to end.
    fn serve(&mut self) -> bool {
        match self.listener.serve() {
            Ok(notices) => {
                if std::mem::take(&mut self.failing) {
                    log::info("control planes can attach again");
                }
                notices.iter().for_each(tell);
                return notices.iter().any(|notice| matches!(notice, Notice::End { .. }));
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    log::warn(format_args!("no control plane can attach: {error}; it is tried again"));
                }
                // Who waits keeps the socket readable.
                thread::sleep(LISTENER_PAUSE);
            }
        }
        false
    }

    /// Takes what the control plane has handed over, if it has, and answers.
    fn take_devices(&mut self, running: &Running, intake: &mut Intake) {
        let Some((devices, fds)) = self.listener.take_devices() else { return };
        let taken = intake.take(running, &devices, fds);
        if let Err(why) = &taken {
            log::warn(format_args!("what the control plane handed over is not taken: {why}"));
        }
        self.listener.answer(taken.as_ref().copied().map_err(String::as_str));
    }

    /// How the data plane does, in one line.
    fn status(&self) -> String {
        match self.listener.master_pid() {
            Some(pid) => format!("forwarding; the control plane is process {pid}"),
            None => "forwarding with what it has; waiting for a control plane".to_owned(),
        }
    }
}

/// Who came and went at the socket.
fn tell(notice: &Notice) {
    match notice {
        Notice::Denied { .. } => log::warn(notice),
        notice => log::info(notice),
    }
}

/// Serves until a signal or the control plane ends it.
///
/// # Errors
/// A worker has failed.
pub fn supervise(
    mut running: Running,
    listener: Listener,
    mut intake: Intake,
    signals: &OwnedFd,
    mut manager: Manager,
) -> Result<ExitCode> {
    let mut control_listener = ControlListener { listener, failing: false, homeless: false };
    manager.tell(&[NotifyState::Ready]);
    manager.status("waiting for a control plane");
    let mut tick_at = Instant::now() + TICK;
    loop {
        let mut fds = vec![watch(signals.as_raw_fd()), watch(running.alarm().as_raw_fd())];
        fds.extend(control_listener.listener.poll_fds().iter().map(|fd| watch(fd.as_raw_fd())));
        let until_tick = tick_at.saturating_duration_since(Instant::now()).as_millis() as libc::c_int + 1;
        // SAFETY: the array has the length given.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, until_tick) };
        if ready < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return Err(io::Error::last_os_error()).context("cannot wait for the control plane");
        }
        if Instant::now() >= tick_at {
            // A worker that stands still is what a watchdog is for.
            if running.have_moved() {
                manager.alive();
            }
            running.tick();
            running.close_old();
            tick_at = Instant::now() + TICK;
            control_listener.keep_socket();
        }
        if fds[0].revents != 0 {
            manager.tell(&[NotifyState::Stopping]);
            running.stop();
            return Ok(ExitCode::SUCCESS);
        }
        if let Some((worker, failure)) = running.next_failure() {
            let cause = explain(worker, &failure);
            running.stop();
            bail!(cause);
        }
        if fds[2..].iter().any(|fd| fd.revents != 0) {
            if control_listener.serve() {
                manager.tell(&[NotifyState::Stopping]);
                running.stop();
                return Ok(ExitCode::SUCCESS);
            }
            control_listener.take_devices(&running, &mut intake);
            manager.status(&control_listener.status());
        }
    }
}

pub(crate) fn explain(worker: usize, failure: &Failure) -> String {
    format!("worker {worker} failed at {:?}: {}", failure.at, failure.error)
}

fn watch(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}
