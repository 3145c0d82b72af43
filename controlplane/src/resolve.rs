//! Where the endpoints of peers are now: names are looked up, and again every five minutes and when a peer does not answer; interfaces of
//! link-local addresses have the index that they have now, also that of `listen`. Nothing here waits: each name has a task of its own,
//! and what is not known yet is told when it is.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::config::endpoint::{Endpoint, Host, reaches};
use crate::config::{Config, Peer};
use crate::limits::{ADDRESSES_OF_NAME_MAX, LOOKUPS_MAX, SLOW_LOOKUPS_MAX};

/// How often a name is looked up that stands for an address.
const AGAIN_EVERY: Duration = Duration::from_secs(300);
/// The same for one that does not, at first and at most; each time twice as long.
const MISSING_AGAIN: Duration = Duration::from_secs(1);
const MISSING_AGAIN_MAX: Duration = Duration::from_secs(60);
/// No name is looked up more often, whoever asks.
const REST: Duration = Duration::from_secs(2);
/// A look-up that takes longer was slow.
const SLOW: Duration = Duration::from_secs(1);

/// What the names stand for, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known(BTreeMap<String, Vec<IpAddr>>);

impl Known {
    /// The addresses at which a peer is to be looked for now, in the order of the configuration, each once, as far as the port of the
    /// gateway reaches them.
    pub fn addresses(&self, listen: SocketAddr, peer: &Peer) -> Vec<SocketAddr> {
        let mut list: Vec<SocketAddr> = Vec::new();
        for address in peer.endpoints.iter().flat_map(|endpoint| self.of(endpoint)) {
            if reaches(listen, address.ip()) && !list.contains(&address) {
                list.push(address);
            }
        }
        list
    }

    fn of(&self, endpoint: &Endpoint) -> Vec<SocketAddr> {
        match &endpoint.host {
            Host::Address(ip) => vec![SocketAddr::new(*ip, endpoint.port)],
            Host::LinkLocal(ip, interface) => {
                index_of(interface).map(|index| SocketAddrV6::new(*ip, endpoint.port, 0, index).into()).into_iter().collect()
            }
            Host::Name(name) => self.0.get(name).into_iter().flatten().map(|ip| SocketAddr::new(*ip, endpoint.port)).collect(),
        }
    }
}

/// Whether the peer has an endpoint whose address may not be known yet.
pub fn awaits(peer: &Peer) -> bool {
    peer.endpoints.iter().any(|endpoint| endpoint.address().is_none())
}

/// What `listen` is now: a link-local address has the index that its interface has. `None` while there is no such interface.
pub fn listen_now(config: &Config) -> Option<SocketAddr> {
    match (config.listen, &config.listen_interface) {
        (SocketAddr::V6(listen), Some(interface)) => {
            let index = index_of(interface)?;
            Some(SocketAddrV6::new(*listen.ip(), listen.port(), 0, index).into())
        }
        (listen, _) => Some(listen),
    }
}

/// The index of an interface of this machine. None, while there is no such interface.
pub fn index_of(interface: &str) -> Option<u32> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    name_to_index(&socket, interface).ok()
}

/// Looks up the names of a configuration as long as it lives.
pub struct Resolver {
    known: Known,
    tasks: BTreeMap<String, Task>,
    turns: Arc<Turns>,
    tell: mpsc::UnboundedSender<Answer>,
    answers: mpsc::UnboundedReceiver<Answer>,
}

/// Who may look up now.
struct Turns {
    all: Semaphore,
    slow: Semaphore,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns { all: Semaphore::new(LOOKUPS_MAX), slow: Semaphore::new(SLOW_LOOKUPS_MAX) }
    }
}

impl Turns {
    /// Waits for a turn, which lasts as long as what comes back.
    async fn take(&self, is_slow: bool) -> Option<(Option<SemaphorePermit<'_>>, SemaphorePermit<'_>)> {
        let slow = if is_slow { Some(self.slow.acquire().await.ok()?) } else { None };
        Some((slow, self.all.acquire().await.ok()?))
    }
}

struct Task {
    handle: AbortHandle,
    again: Arc<Notify>,
    /// Why there is no address, once that was said.
    complaint: Option<String>,
}

struct Answer {
    name: String,
    found: io::Result<Vec<IpAddr>>,
}

impl Default for Resolver {
    fn default() -> Resolver {
        // One answer of each name at a time: a task waits before it asks again.
        let (tell, answers) = mpsc::unbounded_channel();
        Resolver { known: Known::default(), tasks: BTreeMap::new(), turns: Arc::default(), tell, answers }
    }
}

impl Resolver {
    /// Looks up the names that this configuration has, and no others. Needs a tokio runtime.
    pub fn keep(&mut self, config: &Config) {
        let wanted: BTreeSet<&str> = config.peers.iter().flat_map(|peer| &peer.endpoints).filter_map(Endpoint::name).collect();
        self.tasks.retain(|name, task| {
            let stays = wanted.contains(name.as_str());
            if !stays {
                task.handle.abort();
            }
            stays
        });
        self.known.0.retain(|name, _| wanted.contains(name.as_str()));
        for name in wanted {
            if self.tasks.contains_key(name) {
                continue;
            }
            let again = Arc::new(Notify::new());
            let work = look_up(name.to_owned(), addresses, again.clone(), self.turns.clone(), self.tell.clone());
            let handle = tokio::spawn(work).abort_handle();
            self.tasks.insert(name.to_owned(), Task { handle, again, complaint: None });
        }
    }

    /// What is known now.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// A peer does not answer: its names may stand for others by now.
    pub fn again(&self, peer: &Peer) {
        for name in peer.endpoints.iter().filter_map(Endpoint::name) {
            if let Some(task) = self.tasks.get(name) {
                task.again.notify_one();
            }
        }
    }

    /// Waits until something else is known than before.
    pub async fn news(&mut self) {
        while let Some(answer) = self.answers.recv().await {
            if self.take(answer) {
                return;
            }
        }
    }

    /// Whether an answer changes anything. One without an address does not: the name server may be out of reach.
    fn take(&mut self, Answer { name, found }: Answer) -> bool {
        let Some(task) = self.tasks.get_mut(&name) else { return false };
        match found {
            Ok(addresses) => {
                let is_over = task.complaint.take().is_some();
                let before = self.known.0.insert(name.clone(), addresses.clone());
                let changed = before.as_ref() != Some(&addresses);
                if changed {
                    let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                    tracing::info!("{name} is {}", list.join(", "));
                } else if is_over {
                    tracing::info!("{name} can be looked up again");
                }
                changed
            }
            Err(error) => {
                let line = error.to_string();
                if task.complaint.as_ref() != Some(&line) {
                    let goes_on =
                        if self.known.0.contains_key(&name) { "What it stood for is used on" } else { "It is waited for" };
                    tracing::warn!("{name} cannot be looked up: {line}. {goes_on}, and it is looked up again by itself");
                }
                task.complaint = Some(line);
                false
            }
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.tasks.values().for_each(|task| task.handle.abort());
    }
}

/// When a name is looked up again.
struct Schedule {
    /// The wait after the next look-up without an answer.
    missing: Duration,
    /// It took long to be answered.
    is_slow: bool,
}

impl Default for Schedule {
    fn default() -> Schedule {
        Schedule { missing: MISSING_AGAIN, is_slow: false }
    }
}

impl Schedule {
    /// How long it rests after a look-up that has `found` an address or has not, and took so long.
    fn next(&mut self, found: bool, took: Duration) -> Duration {
        self.is_slow = took >= SLOW;
        if found {
            self.missing = MISSING_AGAIN;
            return AGAIN_EVERY;
        }
        let longer = (self.missing * 2).min(MISSING_AGAIN_MAX);
        std::mem::replace(&mut self.missing, longer)
    }
}

/// Looks a name up for ever.
async fn look_up<F: Future<Output = io::Result<Vec<IpAddr>>>>(
    name: String,
    addresses: impl Fn(String) -> F,
    again: Arc<Notify>,
    turns: Arc<Turns>,
    tell: mpsc::UnboundedSender<Answer>,
) {
    let mut schedule = Schedule::default();
    loop {
        let (found, took) = {
            let Some(_turn) = turns.take(schedule.is_slow).await else { return };
            let began = Instant::now();
            (addresses(name.clone()).await, began.elapsed())
        };
        let wait = schedule.next(found.is_ok(), took);
        if tell.send(Answer { name: name.clone(), found }).is_err() {
            return;
        }
        tokio::time::sleep(wait.min(REST)).await;
        tokio::select! {
            () = tokio::time::sleep(wait.saturating_sub(REST)) => {}
            () = again.notified() => {}
        }
    }
}

/// The addresses of a name, of both IP versions, in the order in which they are best tried (RFC 6724: the system's resolver sorts them).
async fn addresses(name: String) -> io::Result<Vec<IpAddr>> {
    let mut list: Vec<IpAddr> = Vec::new();
    for address in tokio::net::lookup_host((name.as_str(), 0)).await? {
        let ip = address.ip().to_canonical();
        if list.len() < ADDRESSES_OF_NAME_MAX && !list.contains(&ip) {
            list.push(ip);
        }
    }
    if list.is_empty() { Err(io::Error::other("it has no address")) } else { Ok(list) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;
    use crate::config::Machine;

    fn config(peers: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("psk");
        std::fs::write(&file, "a preshared key that is long enough").unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let yaml = format!("name: a\nlisten: \"[::]:4500\"\ninterface: {{ name: adit0 }}\npeers:\n{peers}");
        Config::from_yaml(&yaml, dir.path(), &Machine { cores: vec![0] }).unwrap_or_else(|problems| panic!("{problems:?}"))
    }

    #[tokio::test]
    async fn a_name_is_looked_up_and_others_are_not_any_more() {
        let with = config("  - { name: b, endpoint: [\"localhost:4501\", \"192.0.2.9:4500\"], ike: { psk_file: psk } }\n");
        let without = config("  - { name: b, endpoint: \"192.0.2.9:4500\", ike: { psk_file: psk } }\n");
        let mut resolver = Resolver::default();
        let listen = with.listen;
        assert_eq!(resolver.known().addresses(listen, &with.peers[0]), ["192.0.2.9:4500".parse().unwrap()]);
        resolver.keep(&with);
        tokio::time::timeout(Duration::from_secs(20), resolver.news()).await.expect("an answer");
        let found = resolver.known().addresses(listen, &with.peers[0]);
        assert!(found.len() >= 2 && found[0].ip().is_loopback() && found[0].port() == 4501, "{found:?}");
        let only_v4 = resolver.known().addresses("0.0.0.0:4500".parse().unwrap(), &with.peers[0]);
        assert!(only_v4.iter().all(SocketAddr::is_ipv4), "{only_v4:?}");
        resolver.keep(&without);
        assert!(resolver.tasks.is_empty() && *resolver.known() == Known::default());
    }

    #[test]
    fn a_name_is_looked_up_every_five_minutes_or_ever_more_rarely() {
        let (mut schedule, quick) = (Schedule::default(), Duration::from_millis(20));
        let mut next = |found| schedule.next(found, quick).as_secs();
        assert_eq!([next(true), next(true)], [300, 300]);
        let waits: Vec<u64> = (0..9).map(|_| next(false)).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!([next(true), next(false)], [300, 1]);
        assert!(!schedule.is_slow);
        schedule.next(false, Duration::from_secs(10));
        assert!(schedule.is_slow);
    }

    /// Looks names up of which those that are called silent are answered by nobody.
    fn ask(name: &str, turns: &Arc<Turns>, tell: &mpsc::UnboundedSender<Answer>) -> Arc<Notify> {
        let again = Arc::new(Notify::new());
        let answer = |name: String| async move {
            if name.starts_with("silent") {
                std::future::pending::<()>().await;
            }
            Ok(vec![IpAddr::from([192, 0, 2, 1])])
        };
        tokio::spawn(look_up(name.to_owned(), answer, again.clone(), turns.clone(), tell.clone()));
        again
    }

    #[tokio::test]
    async fn a_name_is_looked_up_when_that_is_asked_for_but_not_at_once_again() {
        let (turns, (tell, mut answers)) = (Arc::default(), mpsc::unbounded_channel());
        let (began, again) = (Instant::now(), ask("good", &turns, &tell));
        answers.recv().await.unwrap();
        again.notify_one();
        again.notify_one();
        let answer = tokio::time::timeout(Duration::from_secs(60), answers.recv()).await.expect("it is looked up").unwrap();
        assert!(answer.name == "good" && began.elapsed() >= REST, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_was_found_is_asked_for_again_after_five_minutes() {
        let (turns, (tell, mut answers)) = (Arc::default(), mpsc::unbounded_channel());
        let asked = AtomicU8::new(0);
        // Each time another address: what is told is what was found just then.
        let answer = move |_| {
            let number = asked.fetch_add(1, Ordering::Relaxed) + 1;
            async move { Ok(vec![IpAddr::from([192, 0, 2, number])]) }
        };
        tokio::spawn(look_up("good".to_owned(), answer, Arc::default(), turns, tell));
        let mut within = async |seconds| {
            let answer = tokio::time::timeout(Duration::from_secs(seconds), answers.recv()).await.ok()?;
            Some(answer.expect("it goes on for ever").found.expect("an address"))
        };
        for number in 1..=3 {
            assert_eq!(within(2).await, Some(vec![IpAddr::from([192, 0, 2, number])]));
            assert_eq!(within(299).await, None, "after look-up {number}");
        }
    }

    #[tokio::test]
    async fn names_that_nobody_answers_for_keep_no_other_waiting() {
        let (turns, (tell, mut answers)) = (Arc::default(), mpsc::unbounded_channel());
        (0..SLOW_LOOKUPS_MAX).for_each(|n| drop(ask(&format!("silent {n}"), &turns, &tell)));
        ask("another", &turns, &tell);
        let answer = tokio::time::timeout(Duration::from_secs(60), answers.recv()).await.expect("its turn").unwrap();
        assert_eq!(answer.name, "another");
        // Very many that were slow before leave turns to others, whoever comes first.
        let turns = Arc::new(Turns::default());
        let slow: Vec<_> = (0..1000)
            .map(|_| {
                let turns = turns.clone();
                tokio::spawn(async move {
                    let _turn = turns.take(true).await;
                    std::future::pending::<()>().await;
                })
            })
            .collect();
        while turns.slow.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(tokio::time::timeout(Duration::from_secs(60), turns.take(false)).await.is_ok_and(|turn| turn.is_some()));
        slow.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_name_server() {
        let silent = config("  - { name: b, endpoint: \"localhost:4501\", ike: { psk_file: psk } }\n");
        let mut resolver = Resolver::default();
        // As if as many were being looked up as can be at a time.
        let turns = resolver.turns.clone();
        let _all = turns.all.acquire_many(LOOKUPS_MAX as u32).await.unwrap();
        resolver.keep(&silent);
        resolver.again(&silent.peers[0]);
        assert_eq!(resolver.known().addresses(silent.listen, &silent.peers[0]), []);
        assert!(tokio::time::timeout(Duration::from_millis(100), resolver.news()).await.is_err(), "there is no answer");
        resolver.keep(&silent);
        assert_eq!(resolver.tasks.len(), 1);
    }

    #[test]
    fn what_was_known_goes_on_while_the_name_server_is_silent() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let mut resolver = Resolver::default();
        let again = Arc::new(Notify::new());
        let handle = runtime.spawn(std::future::pending::<()>()).abort_handle();
        resolver.tasks.insert("b".to_owned(), Task { handle, again, complaint: None });
        let answer = |found| Answer { name: "b".to_owned(), found };
        let one: IpAddr = [192, 0, 2, 1].into();
        assert!(resolver.take(answer(Ok(vec![one]))) && !resolver.take(answer(Ok(vec![one]))));
        assert!(!resolver.take(answer(Err(io::Error::other("silent")))));
        assert_eq!(resolver.known.0["b"], [one]);
        assert!(resolver.take(answer(Ok(vec![[192, 0, 2, 2].into()]))));
        assert!(!resolver.take(Answer { name: "gone".to_owned(), found: Ok(vec![one]) }));
    }

    #[test]
    fn a_neighbour_has_the_index_of_its_interface_once_there_is_one() {
        let config =
            config("  - { name: b, endpoint: [\"[fe80::1%lo]:4500\", \"[fe80::1%no-such0]:4500\"], ike: { psk_file: psk } }\n");
        let found = Known::default().addresses(config.listen, &config.peers[0]);
        let scopes: Vec<u32> = found.iter().map(|one| if let SocketAddr::V6(one) = one { one.scope_id() } else { 0 }).collect();
        assert_eq!(scopes, [index_of("lo").unwrap()]);
        assert!(awaits(&config.peers[0]));
    }
}
