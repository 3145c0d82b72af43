//! News from the kernel: that links, addresses or routes have changed. What has changed does not matter, nor how often: who hears
//! it looks at how things are.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use crate::trouble::{Trouble, repeated};

/// How long to wait before the kernel is asked for its news again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);
/// That they have ended is told again after so long, where it comes again and again.
const REPORTED_AGAIN: Duration = Duration::from_secs(3600);

/// Who wants to hear what.
#[derive(Debug, Default)]
struct Heard {
    /// Links but that of the tunnel, addresses and routes: where our packets leave, and how long they may be, may have changed.
    underlay: Notify,
    /// Links, addresses, and routes through the interface of the tunnel.
    interface: Notify,
    /// The index of that interface; 0 while it is not known.
    index: AtomicU32,
}

/// Hears of every change of a link, an address or a route.
pub struct News {
    heard: Arc<Heard>,
    listener: JoinHandle<()>,
}

/// A socket that hears of them, and what keeps it going.
struct Source {
    messages: Pin<Box<dyn Stream<Item = NetlinkPayload<RouteNetlinkMessage>> + Send>>,
    /// Ends with it.
    _connection: JoinSet<()>,
    _handle: Handle,
}

impl Source {
    fn open() -> io::Result<Source> {
        use MulticastGroup::{Ipv4Ifaddr, Ipv4Route, Ipv4Rule, Ipv6Ifaddr, Ipv6Route, Ipv6Rule, Link};
        let groups = [Link, Ipv4Ifaddr, Ipv6Ifaddr, Ipv4Route, Ipv6Route, Ipv4Rule, Ipv6Rule];
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&groups)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        Ok(Source { messages: messages.map(|(message, _)| message.payload).boxed(), _connection: tasks, _handle: handle })
    }
}

impl News {
    /// Begins to listen; needs a tokio runtime. While the kernel says nothing, since it has no socket for it, there is news once a second:
    /// then who waits for it looks without having heard.
    pub fn open() -> News {
        let heard = Arc::new(Heard::default());
        let listener = tokio::spawn(listen(Source::open(), heard.clone(), Source::open, LISTEN_AGAIN));
        News { heard, listener }
    }

    /// The interface of the tunnel has this index now.
    pub fn about(&self, index: u32) {
        self.heard.index.store(index, Ordering::Relaxed);
    }

    /// Waits until a link, an address or a route of this machine has changed since this was last asked.
    pub async fn underlay(&self) {
        self.heard.underlay.notified().await;
    }

    /// Waits until something has changed that the interface of the tunnel may depend on.
    pub async fn interface(&self) {
        self.heard.interface.notified().await;
    }
}

impl Drop for News {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Heard {
    fn tell(&self, payload: &NetlinkPayload<RouteNetlinkMessage>) {
        use RouteNetlinkMessage::{DelLink, DelRoute, NewLink, NewRoute};
        let (underlay, interface) = match payload {
            NetlinkPayload::InnerMessage(NewLink(link) | DelLink(link)) => {
                (link.header.index != self.index.load(Ordering::Relaxed), true)
            }
            NetlinkPayload::InnerMessage(NewRoute(route) | DelRoute(route)) => {
                (true, through(route).is_none_or(|index| index == self.index.load(Ordering::Relaxed)))
            }
            // An address; or something was lost, which may have been anything.
            _ => (true, true),
        };
        if underlay {
            self.underlay.notify_one();
        }
        if interface {
            self.interface.notify_one();
        }
    }
}

/// The interface through which a route leads; `None` when it leads through several.
fn through(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// Listens for ever; `open` gives another source for one that has ended or was not to be had, `rest` later or after some tries.
async fn listen(mut source: io::Result<Source>, heard: Arc<Heard>, open: impl Fn() -> io::Result<Source>, rest: Duration) {
    let mut trouble = Trouble::reported_again_after(REPORTED_AGAIN);
    loop {
        let why = match source {
            Ok(mut source) => {
                if trouble.is_over() {
                    tracing::info!("the kernel's news of links, addresses and routes are heard again");
                }
                while let Some(payload) = source.messages.next().await {
                    heard.tell(&payload);
                }
                "have ended".to_owned()
            }
            Err(error) => format!("cannot be heard: {error}"),
        };
        if let Some(times) = trouble.came(Instant::now()) {
            let again = repeated(times);
            tracing::warn!(
                "the kernel's news of links, addresses and routes {why}. They are asked for anew, and until then it is looked once a \
                 second{again}"
            );
        }
        tokio::time::sleep(rest).await;
        source = open();
        // Something may have changed meanwhile.
        heard.underlay.notify_one();
        heard.interface.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    use futures::stream;
    use tracing::subscriber::DefaultGuard;

    use super::*;

    /// What is logged by the thread of a test.
    struct Log(tempfile::NamedTempFile);

    impl Log {
        fn new() -> Log {
            Log(tempfile::NamedTempFile::new().unwrap())
        }

        fn keep(&self) -> DefaultGuard {
            let file = self.0.reopen().unwrap();
            tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(file).with_ansi(false).finish())
        }

        fn text(&self) -> String {
            std::fs::read_to_string(self.0.path()).unwrap()
        }

        /// The lines that contain something.
        fn said(&self, what: &str) -> usize {
            self.text().lines().filter(|line| line.contains(what)).count()
        }
    }

    #[tokio::test]
    async fn that_news_end_again_and_again_is_told_once_and_so_is_its_end() {
        const TIMES: usize = 50;
        let log = Log::new();
        let _kept = log.keep();
        let (heard, opened) = (Arc::new(Heard::default()), AtomicUsize::new(0));
        let open = || -> io::Result<Source> {
            opened.fetch_add(1, Ordering::Relaxed);
            Ok(Source { messages: stream::empty().boxed(), ..Source::open()? })
        };
        let first = open();
        tokio::select! {
            () = listen(first, heard.clone(), open, Duration::ZERO) => {}
            () = async {
                while opened.load(Ordering::Relaxed) < TIMES {
                    heard.interface.notified().await;
                }
            } => {}
        }
        assert_eq!((log.said("have ended. They are asked for anew"), log.said("are heard again")), (1, 1), "{}", log.text());
    }

    #[tokio::test]
    async fn while_the_kernel_is_not_heard_it_is_looked_again_and_again() {
        const TIMES: usize = 20;
        let log = Log::new();
        let _kept = log.keep();
        let (heard, can_hear, hears) = (Arc::new(Heard::default()), AtomicBool::new(false), AtomicBool::new(false));
        let deaf = || Err(io::ErrorKind::OutOfMemory.into());
        let open = || {
            let source = if can_hear.load(Ordering::Relaxed) { Source::open() } else { deaf() };
            hears.store(source.is_ok(), Ordering::Relaxed);
            source
        };
        tokio::select! {
            () = listen(deaf(), heard.clone(), open, Duration::from_millis(1)) => {}
            () = async {
                for _ in 0..TIMES {
                    heard.underlay.notified().await;
                    heard.interface.notified().await;
                }
                assert_eq!((log.said("cannot be heard"), log.said("are heard again")), (1, 0), "{}", log.text());
                can_hear.store(true, Ordering::Relaxed);
                while !hears.load(Ordering::Relaxed) {
                    heard.interface.notified().await;
                }
            } => {}
        }
        assert_eq!((log.said("cannot be heard"), log.said("are heard again")), (1, 1), "{}", log.text());
    }
}
