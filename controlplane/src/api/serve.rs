//! Serves HTTP over TCP, where strangers may come: so many connections at once and from one address, so long for a request.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::limits::{CONNECTIONS_MAX, CONNECTIONS_OF_ADDRESS_MAX};
use crate::trouble::{Trouble, repeated};

/// How long the header of a request may take, and the silence between two requests.
const HEADER_WITHIN: Duration = Duration::from_secs(5);
/// After this a connection ends with the request that it is at, so that nobody keeps a place for ever.
const CONNECTION_MAX: Duration = Duration::from_secs(300);
/// What goes on for longer than this is told again.
const REPORTED_AGAIN: Duration = Duration::from_secs(3600);
/// How long we wait when the kernel gives no connection (no descriptors left).
const PAUSE: Duration = Duration::from_millis(200);

/// Answers everybody who connects, until it is dropped.
pub async fn serve(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let guests = Guests::default();
    let mut connections = JoinSet::new();
    let mut trouble = Trouble::reported_again_after(REPORTED_AGAIN);
    while let Ok(place) = places.clone().acquire_owned().await {
        let (stream, guest) = match listener.accept().await {
            Ok((stream, from)) => {
                if trouble.is_over() {
                    tracing::info!("HTTP connections are accepted again");
                }
                match guests.admit(from.ip()) {
                    Some(guest) => (stream, guest),
                    None => continue,
                }
            }
            Err(error) => {
                if let Some(times) = trouble.came(Instant::now()) {
                    let again = repeated(times);
                    tracing::warn!(%error, "no HTTP connection could be accepted, and it is tried again{again}");
                }
                sleep(PAUSE).await;
                continue;
            }
        };
        let router = router.clone();
        connections.spawn(async move {
            answer(stream, router).await;
            drop((place, guest));
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Who is connected, by address.
#[derive(Clone, Default)]
struct Guests(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection; gone when dropped.
struct Guest {
    guests: Guests,
    address: IpAddr,
}

impl Guests {
    /// `None` when there are enough from this address.
    fn admit(&self, address: IpAddr) -> Option<Guest> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= CONNECTIONS_OF_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(Guest { guests: self.clone(), address })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut counts = self.guests.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = counts.get_mut(&self.address).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if left == 0 {
            counts.remove(&self.address);
        }
    }
}

async fn answer(stream: TcpStream, router: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_WITHIN);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    // An error is the client's: it went away, or did not speak HTTP, which hyper has answered.
    if timeout(CONNECTION_MAX, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(HEADER_WITHIN, connection).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_takes_no_more_than_its_share_and_gives_it_back() {
        let guests = Guests::default();
        let (greedy, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let held: Vec<_> = (0..CONNECTIONS_OF_ADDRESS_MAX).map(|_| guests.admit(greedy).unwrap()).collect();
        assert!(guests.admit(greedy).is_none());
        assert!(guests.admit(other).is_some());
        drop(held);
        assert!(guests.admit(greedy).is_some());
        assert!(guests.0.lock().unwrap().is_empty());
    }
}
