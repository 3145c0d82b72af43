//! Who has a place, what waits for whom, and what is dropped.
use super::*;
use crate::testing::start;

fn client(n: u32) -> SocketAddr {
    SocketAddr::from(([10, (n >> 8) as u8, n as u8, 1], 7))
}

fn sleeper() -> AbortHandle {
    tokio::spawn(std::future::pending::<()>()).abort_handle()
}

/// So many tasks have their turn.
async fn turns(tasks: usize) {
    for _ in 0..tasks {
        tokio::task::yield_now().await;
    }
}

fn count(streams: &Streams, what: &str) -> u64 {
    streams.named().find(|(name, _)| *name == what).expect("a counter").1
}

#[test]
fn answers_go_before_payload_and_old_payload_goes_nowhere() {
    let mut waiting = Waiting::default();
    let (payload, indication, answer) = (vec![0x40, 1, 0, 0], vec![0, 0x17, 0, 0], vec![1, 3, 0, 0]);
    let later = start() + SOJOURN / 2;
    for (at, bytes) in [(start(), &payload), (later, &indication), (later, &answer)] {
        assert_eq!(waiting.push(at, bytes.clone()), Dropped::default());
    }
    assert_eq!(waiting.pop(start() + SOJOURN), (Some(answer), Dropped::default()));
    assert_eq!(waiting.pop(start() + SOJOURN), (Some(indication), Dropped { late: 1, ..Dropped::default() }));
    assert_eq!(waiting.pop(start() + SOJOURN), (None, Dropped::default()));
    assert_eq!((waiting.answer_bytes, waiting.payload_bytes), (0, 0));
}

#[test]
fn what_waits_is_bounded_with_what_it_takes_to_keep_it() {
    let mut waiting = Waiting::default();
    let full: u64 =
        (0..100_000).map(|n: u32| waiting.push(start(), [&[0x40, 0, 0, 4][..], &n.to_be_bytes()].concat()).full).sum();
    assert!(waiting.payload_bytes <= STREAM_QUEUE_BYTES_MAX && waiting.payload.len() < STREAM_QUEUE_BYTES_MAX / COST);
    // The oldest have gone.
    let first = waiting.pop(start()).0.expect("payload");
    assert_eq!(first[4..], (full as u32).to_be_bytes());
    // Answers have room of their own, and where they have none the newest is lost: its client asks again.
    let lost: u64 = (0..2000).map(|_| waiting.push(start(), vec![1; 100]).answers).sum();
    assert_eq!(lost, 2000 - (STREAM_ANSWER_BYTES_MAX / (100 + COST)) as u64);
}

#[tokio::test]
async fn who_waits_for_something_is_given_it() {
    let (streams, mut inlet) = (Streams::default(), None);
    assert!(streams.admit(client(1), |_, given| {
        inlet = Some(given);
        sleeper()
    }));
    let mut inlet = inlet.expect("an inlet");
    let (next, ()) = tokio::join!(inlet.next(), async {
        tokio::task::yield_now().await;
        streams.send(0, vec![1, 1, 0, 0]);
        streams.send(9, vec![1, 1, 0, 0]);
    });
    assert_eq!(next, [1, 1, 0, 0]);
}

#[tokio::test]
async fn a_network_has_its_share_of_connections() {
    let streams = Streams::default();
    let at = |text: &str| text.parse().expect("an address");
    for n in 0..STREAMS_OF_NETWORK_MAX {
        assert!(streams.admit(at(&format!("192.0.2.{n}:7")), |_, _| sleeper()));
    }
    assert!(!streams.admit(at("192.0.2.200:7"), |_, _| sleeper()) && streams.admit(at("192.0.3.1:7"), |_, _| sleeper()));
    assert_eq!((count(&streams, "accepted"), count(&streams, "refused")), (STREAMS_OF_NETWORK_MAX as u64 + 1, 1));
    streams.remove(0);
    assert!(streams.admit(at("192.0.2.200:7"), |_, _| sleeper()));
}

#[tokio::test]
async fn a_stranger_makes_room_for_the_next_and_who_has_an_allocation_stays() {
    let (streams, mut tasks) = (Streams::default(), Vec::new());
    let mut admit = |n| {
        streams.admit(client(n), |_, _| {
            let task = sleeper();
            tasks.push(task.clone());
            task
        })
    };
    assert!(admit(0));
    streams.settle(0, true);
    assert!((1..=STREAM_STRANGERS_MAX as u32 + 1).all(&mut admit));
    assert_eq!((count(&streams, "pushed_out"), streams.open()), (1, STREAM_STRANGERS_MAX + 1));
    turns(STREAM_STRANGERS_MAX).await;
    assert_eq!([0, 1, 2].map(|n: usize| tasks[n].is_finished()), [false, true, false]);
    // Whose allocation has ended is a stranger again, and the oldest.
    streams.settle(0, false);
    let admitted = streams.admit(client(9999), |_, _| sleeper());
    turns(STREAM_STRANGERS_MAX).await;
    assert!(admitted && tasks[0].is_finished());
}

#[tokio::test]
async fn a_task_that_ends_while_it_begins_is_forgotten() {
    let streams = Streams::default();
    assert!(streams.admit(client(1), |number, _| {
        streams.remove(number);
        sleeper()
    }));
    assert_eq!(streams.open(), 0);
}

#[test]
fn handshakes_have_a_rate() {
    let streams = Streams::default();
    let begun = (0..1000).filter(|_| streams.may_shake_hands(start(), client(1))).count();
    let of_all = (0..1000).filter(|n| streams.may_shake_hands(start(), client(100 + n))).count();
    assert_eq!(begun, STREAM_HANDSHAKES_OF_NETWORK_PER_S as usize);
    assert_eq!(begun + of_all, STREAM_HANDSHAKES_PER_S as usize);
    assert_eq!(count(&streams, "handshakes"), 2000 - u64::from(STREAM_HANDSHAKES_PER_S));
    assert!(streams.may_shake_hands(start() + Duration::from_secs(1), client(1)));
}
