//! Pauses and the choice of relays, in virtual time.

use super::*;
use crate::testing::Dice;

fn relays(attempts: &[Attempt]) -> Vec<usize> {
    attempts.iter().map(|attempt| attempt.relay).collect()
}

fn due(plan: &mut Plan, now: Instant) -> Vec<Attempt> {
    std::iter::from_fn(|| plan.poll_connect(now)).collect()
}

#[test]
fn two_relays_are_tried_at_once_and_the_others_wait() {
    let now = Instant::now();
    let mut plan = Plan::new(now, 4);
    assert_eq!(relays(&due(&mut plan, now)), [0, 1]);
    plan.handle_registered(now, 0);
    plan.handle_registered(now, 1);
    assert_eq!((plan.poll_connect(now + Duration::from_secs(9999)), plan.poll_timeout()), (None, None));
}

#[test]
fn pauses_double_up_to_a_minute_and_differ_between_clients() {
    let mut firsts = Vec::new();
    for seed in 0..40 {
        let (mut now, mut random) = (Instant::now(), Dice::new(seed));
        let mut plan = Plan::new(now, 1);
        for failures in 0..12 {
            assert_eq!(relays(&due(&mut plan, now)), [0]);
            plan.handle_end(now, 0, End::Failed, &mut random);
            let pause = plan.poll_timeout().unwrap() - now;
            let whole = (PAUSE * (1 << failures)).min(PAUSE_MAX);
            assert!(pause > whole / 2 - Duration::from_millis(1) && pause <= whole, "{failures}: {pause:?} of {whole:?}");
            if failures == 0 {
                firsts.push(pause);
            }
            now += pause;
        }
    }
    firsts.sort();
    firsts.dedup();
    assert!(firsts.len() > 35, "{firsts:?}");
}

#[test]
fn a_registration_that_falls_over_at_once_does_not_end_the_row() {
    let (mut now, mut random) = (Instant::now(), Dice::new(1));
    let mut plan = Plan::new(now, 1);
    let mut pause_after = |lasted: Duration| {
        now = plan.poll_timeout().unwrap();
        assert_eq!(relays(&due(&mut plan, now)), [0]);
        plan.handle_registered(now, 0);
        now += lasted;
        plan.handle_end(now, 0, End::Failed, &mut random);
        plan.poll_timeout().unwrap() - now
    };
    let short: Vec<Duration> = (0..10).map(|_| pause_after(Duration::from_secs(1))).collect();
    assert!(short[9] >= PAUSE_MAX / 2, "{short:?}");
    assert!(pause_after(SETTLED) <= PAUSE);
}

#[test]
fn the_end_of_one_relay_leaves_the_other_alone() {
    let (start, mut random) = (Instant::now(), Dice::new(2));
    let mut plan = Plan::new(start, 2);
    due(&mut plan, start);
    plan.handle_registered(start, 0);
    plan.handle_registered(start, 1);
    let mut now = start;
    for _ in 0..200 {
        now += Duration::from_secs(1);
        match plan.phase(1) {
            Phase::Registered { .. } => plan.handle_end(now, 1, End::Failed, &mut random),
            _ => due(&mut plan, now).iter().for_each(|attempt| plan.handle_registered(now, attempt.relay)),
        }
        assert_eq!(plan.phase(0), Phase::Registered { since: start });
    }
}

#[test]
fn a_relay_that_fails_again_and_again_gives_way_and_comes_back_in_turn() {
    let (mut now, mut random) = (Instant::now(), Dice::new(3));
    let mut plan = Plan::new(now, 3);
    due(&mut plan, now);
    plan.handle_registered(now, 0);
    let mut tried = Vec::new();
    plan.handle_end(now, 1, End::Failed, &mut random);
    while tried.len() < 12 {
        now = plan.poll_timeout().unwrap().max(now);
        let attempts = due(&mut plan, now);
        assert_eq!(attempts.len(), 1);
        tried.push(attempts[0].relay);
        plan.handle_end(now, attempts[0].relay, End::Failed, &mut random);
    }
    // Relay 1 and 2 take turns once each has failed three times; relay 0 holds.
    assert_eq!(tried[..5], [1, 1, 2, 2, 2], "{tried:?}");
    assert!(tried[5..].contains(&1) && !tried.contains(&0), "{tried:?}");
}

#[test]
fn what_only_people_can_change_is_asked_once_a_minute() {
    let (mut now, mut random) = (Instant::now(), Dice::new(4));
    let mut plan = Plan::new(now, 1);
    for _ in 0..5 {
        due(&mut plan, now);
        plan.handle_end(now, 0, End::Refused, &mut random);
        let pause = plan.poll_timeout().unwrap() - now;
        assert!(pause >= PAUSE_MAX / 2 && pause <= PAUSE_MAX, "{pause:?}");
        now += pause;
    }
}

#[test]
fn a_relay_that_has_no_room_is_given_time() {
    let (now, mut random) = (Instant::now(), Dice::new(9));
    let mut plan = Plan::new(now, 1);
    due(&mut plan, now);
    plan.handle_end(now, 0, End::Busy, &mut random);
    let pause = plan.poll_timeout().unwrap() - now;
    assert!(pause >= BUSY / 2 && pause <= BUSY, "{pause:?}");
}

#[test]
fn two_holders_of_one_key_meet_ever_more_rarely() {
    let (start, mut randoms) = (Instant::now(), [Dice::new(5), Dice::new(6)]);
    let mut plans = [Plan::new(start, 1), Plan::new(start, 1)];
    let (mut connects, mut holder) = (0, None);
    for second in 0..3600 {
        let now = start + Duration::from_secs(second);
        for client in 0..2 {
            if plans[client].poll_connect(now).is_some() {
                connects += 1;
                plans[client].handle_registered(now, 0);
                if let Some(other) = holder.replace(client).filter(|other| *other != client) {
                    plans[other].handle_end(now, 0, End::Replaced(Duration::from_secs(60)), &mut randoms[other]);
                    let pause = plans[other].poll_timeout().unwrap() - now;
                    assert!(pause >= Duration::from_secs(60) && pause <= REPLACED_MAX + PAUSE, "{pause:?}");
                }
            }
        }
        assert!(second != 300 || connects <= 10, "{connects} in five minutes");
    }
    assert!(connects <= 30, "{connects} in an hour");
}

#[test]
fn a_relay_that_stops_is_asked_again_when_it_said_and_patiently() {
    let (start, mut random) = (Instant::now(), Dice::new(7));
    let mut plan = Plan::new(start, 1);
    due(&mut plan, start);
    plan.handle_registered(start, 0);
    let times = (Duration::from_secs(3), Duration::from_secs(20));
    let mut now = start + Duration::from_secs(100);
    let back = now + times.0;
    assert_eq!(plan.handle_drain(now, 0, times, Vec::new()), back);
    now += Duration::from_secs(1);
    plan.handle_end(now, 0, End::Failed, &mut random);
    assert_eq!(plan.poll_timeout(), Some(back));
    let mut tries = 0;
    now = back;
    while now < back + times.1 - PAUSE {
        assert_eq!(due(&mut plan, now).len(), 1);
        plan.handle_end(now, 0, End::Failed, &mut random);
        assert!(plan.poll_timeout().unwrap() - now <= PAUSE);
        (now, tries) = (plan.poll_timeout().unwrap(), tries + 1);
    }
    assert!(tries >= 38, "{tries}");
    // The patience has an end, and what a relay may ask for as well.
    now = back + times.1;
    for _ in 0..9 {
        due(&mut plan, now);
        plan.handle_end(now, 0, End::Failed, &mut random);
        now = plan.poll_timeout().unwrap();
    }
    due(&mut plan, now);
    plan.handle_end(now, 0, End::Failed, &mut random);
    assert!(plan.poll_timeout().unwrap() - now >= PAUSE_MAX / 2);
    assert_eq!(plan.handle_drain(now, 0, (Duration::MAX, Duration::MAX), Vec::new()), now + DRAIN_MAX);
}

#[test]
fn a_relay_that_stops_and_names_others_is_left_at_once() {
    let (now, mut random) = (Instant::now(), Dice::new(8));
    let mut plan = Plan::new(now, 1);
    due(&mut plan, now);
    plan.handle_registered(now, 0);
    let name = |number: usize| HostPort::new(&format!("r{number}.example:443")).unwrap();
    let to: Vec<HostPort> = (0..4).map(name).collect();
    assert_eq!(plan.handle_drain(now, 0, (Duration::from_secs(9), Duration::from_secs(60)), to), now);
    let mut asked = Vec::new();
    for _ in 0..5 {
        plan.handle_end(now, 0, End::Failed, &mut random);
        let at = plan.poll_timeout().unwrap();
        asked.extend(due(&mut plan, at).into_iter().map(|attempt| attempt.elsewhere));
    }
    assert_eq!(asked, [Some(name(0)), Some(name(1)), Some(name(2)), Some(name(3)), None]);
    // With a spare the place is not left empty.
    let mut plan = Plan::new(now, 3);
    due(&mut plan, now);
    (0..2).for_each(|relay| plan.handle_registered(now, relay));
    plan.handle_drain(now, 1, (Duration::from_secs(9), Duration::from_secs(60)), Vec::new());
    plan.handle_end(now, 1, End::Failed, &mut random);
    assert_eq!(relays(&due(&mut plan, now)), [2]);
}
