//! What people want of a running gateway: by signals, and through the API.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch as channel};

use crate::limits::REQUESTS_MAX;
use crate::request::Request;

/// What was asked for and is not done yet.
pub(super) struct Requests {
    pub stop: channel::Receiver<bool>,
    /// To stop because the API wants it.
    stop_now: channel::Sender<bool>,
    /// What the API wants.
    pub from_api: mpsc::Receiver<Request>,
    /// Signals that ask for the configuration to be read again.
    pub hangups: Signal,
}

impl Requests {
    /// Catches the signals; requests come by the sender.
    ///
    /// # Errors
    /// The system does not let signals be caught.
    pub(super) fn open() -> anyhow::Result<(Requests, mpsc::Sender<Request>)> {
        let (sender, from_api) = mpsc::channel(REQUESTS_MAX);
        let (stop_now, stop) = channel::channel(false);
        stop_signals(stop_now.clone())?;
        Ok((Requests { stop, stop_now, from_api, hangups: reload_signals()? }, sender))
    }

    /// Stops as a signal would.
    pub(super) fn stop(&self) {
        self.stop_now.send_replace(true);
    }
}

/// Completes when told to stop.
pub(super) async fn stopped(stop: &mut channel::Receiver<bool>) {
    // The sender lives as long as the receiver; if it were gone, stopping would be right too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Signals that ask for the configuration to be read again. Others that would end a process by default end nothing here.
fn reload_signals() -> anyhow::Result<Signal> {
    // Once there is a handler, the default is gone for good; nobody has to listen.
    for (kind, name) in
        [(SignalKind::user_defined1(), "SIGUSR1"), (SignalKind::user_defined2(), "SIGUSR2"), (SignalKind::alarm(), "SIGALRM")]
    {
        drop(signal(kind).with_context(|| format!("catching {name}"))?);
    }
    signal(SignalKind::hangup()).context("catching SIGHUP")
}

fn stop_signals(sender: channel::Sender<bool>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("catching SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("catching SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sender.send_replace(true);
    });
    Ok(())
}
