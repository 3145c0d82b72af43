//! The table of what is done to the gateways, one after the other, and what each may cost. To add an event: its line in `EVENTS`, and a
//! function that does it and says from when to when what the line names was away, by what the gateways or the kernel tell, not the pings.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use adit_bench::lab::{Gateway, PORT, TAP, WAN};
use anyhow::{Context, Result, ensure};

use crate::ground::{Ground, mtu, path, peer_name, second_address, spis, status, until};

/// After each event, so that what is lost late is seen as well, and a round takes about a minute: what is limited by the minute is then
/// held against each event once.
pub const SETTLE: Duration = Duration::from_secs(5);

/// Pings that an event may cost.
#[derive(Clone, Copy, Debug)]
pub enum Cost {
    /// Not one.
    Nothing,
    /// So many each time.
    Few { pings: u64 },
    /// Those that were sent while this was away, for no longer than that. A busy host makes it longer.
    While { what: &'static str, at_most: Duration },
}

/// From when to when something was away.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub from: Instant,
    pub until: Instant,
}

/// A line of the table.
pub struct Event {
    pub name: &'static str,
    pub cost: Cost,
    /// Why it is that much.
    pub why: &'static str,
    pub happens: fn(&mut Ground) -> Result<Vec<Span>>,
}

/// Until a gateway that begins with nothing has keys with the other one. A request that finds nobody is repeated after seconds.
const CONNECTED_WITHIN: Duration = Duration::from_secs(30);

pub const EVENTS: &[Event] = &[
    Event {
        name: "all keys are replaced by command",
        cost: Cost::Nothing,
        why: "the old SAs stay until the new ones are in use",
        happens: rekey,
    },
    Event {
        name: "adit is killed (SIGKILL)",
        cost: Cost::Nothing,
        why: "the data plane goes on by itself",
        happens: kill_control,
    },
    Event {
        name: "reload: an address, another peer",
        cost: Cost::Nothing,
        why: "only what has changed is touched",
        happens: reload,
    },
    Event {
        name: "the line takes 1400 bytes, then 1500",
        cost: Cost::Few { pings: 20 },
        why: "what is longer vanishes, and with it what left in the same train: links without hardware drop it whole",
        happens: narrow,
    },
    Event {
        name: "the data plane is killed (SIGKILL)",
        cost: Cost::While { what: "the data plane, until both ends have new keys", at_most: Duration::from_secs(15) },
        why: "nobody seals or opens meanwhile",
        happens: kill_data_plane,
    },
    Event {
        name: "another address, and back",
        cost: Cost::While { what: "the address, until both ends send by the new one", at_most: Duration::from_secs(10) },
        why: "the far end believes another address once it is proven",
        happens: readdress,
    },
    Event {
        name: "somebody flushes the interface",
        cost: Cost::While { what: "the inner address", at_most: Duration::from_secs(5) },
        why: "without an address the kernel answers nothing",
        happens: flush,
    },
    Event {
        name: "somebody deletes the interface",
        cost: Cost::While { what: "the inner address", at_most: Duration::from_secs(5) },
        why: "it is made anew and handed to the data plane that runs",
        happens: delete,
    },
    Event {
        name: "both planes are stopped and started",
        cost: Cost::While { what: "the gateway, until both ends have new keys", at_most: CONNECTED_WITHIN },
        why: "a stop ends the connection at both ends",
        happens: restart,
    },
];

/// Does something that takes the keys away, and waits until both ends have others.
fn until_new_keys(ground: &mut Ground, act: impl FnOnce(&mut Ground) -> Result<()>) -> Result<Vec<Span>> {
    let keys = |ground: &Ground| -> Result<Vec<Vec<String>>> { ground.honest().iter().map(spis).collect() };
    let before = keys(ground)?;
    let from = Instant::now();
    act(ground)?;
    until("both ends have new keys", || {
        let now = keys(ground).unwrap_or_default();
        let are_new =
            |(now, before): (&Vec<String>, &Vec<String>)| !now.is_empty() && now.iter().all(|spi| !before.contains(spi));
        Ok(now.len() == 2 && now.iter().zip(&before).all(are_new))
    })?;
    Ok(vec![Span { from, until: Instant::now() }])
}

fn rekey(ground: &mut Ground) -> Result<Vec<Span>> {
    until_new_keys(ground, |ground| {
        let gateway = ground.victim();
        gateway.adit(&format!("rekey {}", peer_name(gateway)))?;
        gateway.adit(&format!("rekey --ike {}", peer_name(gateway))).map(drop)
    })?;
    Ok(Vec::new())
}

/// Waits until `adit` answers.
fn answers(gateway: &Gateway) -> Result<()> {
    until("the control plane answers", || Ok(status(gateway).is_ok()))
}

fn kill_control(ground: &mut Ground) -> Result<Vec<Span>> {
    let plane = ground.victim().data_plane();
    let gateway = ground.victim_mut();
    gateway.kill_control()?;
    thread::sleep(Duration::from_millis(500));
    gateway.start_control()?;
    answers(gateway)?;
    ensure!(gateway.data_plane() == plane, "another data plane was started");
    Ok(Vec::new())
}

fn kill_data_plane(ground: &mut Ground) -> Result<Vec<Span>> {
    until_new_keys(ground, |ground| {
        let gateway = ground.victim();
        let dead = gateway.kill_data_plane()?;
        until("there is another data plane", || Ok(gateway.data_plane().is_some_and(|pid| pid != dead)))
    })
}

fn restart(ground: &mut Ground) -> Result<Vec<Span>> {
    until_new_keys(ground, |ground| {
        ground.victim_mut().stop()?;
        ground.victim_mut().start_control()
    })
}

/// The insider's place is taken away and given back, and an address comes and goes.
fn reload(ground: &mut Ground) -> Result<Vec<Span>> {
    const ADDRESS: &str = "10.99.0.1/32";
    let gateway = ground.victim();
    let whole = fs::read_to_string(&gateway.config)?;
    let other: String = whole.lines().filter(|line| !line.contains("name: site-c,")).map(|line| format!("{line}\n")).collect();
    let has = |wanted: bool| {
        until("the interface has the addresses of the file", || {
            Ok(gateway.netns.run(&format!("ip -o address show dev {TAP}"))?.contains(ADDRESS) == wanted)
        })
    };
    for (text, wanted) in [(other.replace("addresses: [", &format!("addresses: [{ADDRESS}, ")), true), (whole, false)] {
        fs::write(&gateway.config, text)?;
        gateway.adit("reload")?;
        has(wanted)?;
        thread::sleep(Duration::from_secs(1));
    }
    Ok(Vec::new())
}

fn narrow(ground: &mut Ground) -> Result<Vec<Span>> {
    const NARROW: u16 = 1400;
    let gateway = ground.victim();
    ground.router.set_mtu(gateway, NARROW)?;
    for gateway in ground.honest() {
        // Four bytes more may pass a line of Ethernet: the room of a VLAN tag.
        let fits = || Ok(mtu(gateway)?.is_some_and(|mtu| mtu <= u64::from(NARROW) + 4));
        until(&format!("{} sends no more than passes", gateway.name), fits)?;
    }
    ground.router.set_mtu(gateway, 1500)?;
    Ok(Vec::new())
}

fn readdress(ground: &mut Ground) -> Result<Vec<Span>> {
    let gateway = ground.victim();
    let (first, second) = (gateway.outer().to_string(), second_address(gateway));
    let mut spans = Vec::new();
    for (old, new) in [(&first, &second), (&second, &first)] {
        let from = Instant::now();
        gateway.netns.address(WAN, &format!("{new}/32"))?;
        gateway.netns.run(&format!("ip address del {old}/32 dev {WAN}"))?;
        let here = [format!("{new}:{PORT}"), format!("{}:{PORT}", ground.other().outer())];
        let there = [here[1].clone(), here[0].clone()];
        until("both ends send by the new address", || {
            Ok(path(gateway)?.as_ref() == Some(&here) && path(ground.other())?.as_ref() == Some(&there))
        })
        .with_context(|| format!("{here:?}: {:?}, {:?}", path(gateway), path(ground.other())))?;
        spans.push(Span { from, until: Instant::now() });
        thread::sleep(Duration::from_secs(1));
    }
    Ok(spans)
}

fn flush(ground: &mut Ground) -> Result<Vec<Span>> {
    without_address(ground, &format!("ip address flush dev {TAP}"))
}

fn delete(ground: &mut Ground) -> Result<Vec<Span>> {
    let plane = ground.victim().data_plane();
    let spans = without_address(ground, &format!("ip link del {TAP}"))?;
    ensure!(ground.victim().data_plane() == plane, "another data plane was started");
    Ok(spans)
}

/// Does what takes away the inner address, until it is back.
fn without_address(ground: &mut Ground, act: &str) -> Result<Vec<Span>> {
    let gateway = ground.victim();
    let (own, other) = (gateway.inner().to_string(), ground.other().inner());
    let from = Instant::now();
    gateway.netns.run(act)?;
    until("the inner address is back", || {
        let route = gateway.netns.run(&format!("ip route get {other} from {own}"));
        Ok(route.is_ok_and(|route| route.contains(TAP)))
    })?;
    Ok(vec![Span { from, until: Instant::now() }])
}
