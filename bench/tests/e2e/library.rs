//! Programs with the library on machines with several addresses, and with one that becomes another one. No daemon and no TAP.
//!
//! ```text
//!   Client on host a: 192.0.2.1, 2001:db8::1 ══ cable ══ host b: Server on [::]:4500, with 192.0.2.2, .3, 2001:db8::2, ::3; sends packets back
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use adit_bench::netns::{Netns, Veth};
use adit_ipsec::{Client, Peer, Retransmission, Server};
use anyhow::{Context, Result, ensure};
use tokio::sync::oneshot;

const PORT: u16 = 4500;
const PATIENCE: Duration = Duration::from_secs(30);

fn peer(local: &str, remote: &str) -> adit_ipsec::PeerBuilder {
    Peer::builder().local_id(local).remote_id(remote).psk("a key for the two programs").dpd(Duration::ZERO)
}

/// From 10.0.0.1 to 10.0.0.2, a UDP header without data.
fn packet(number: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 3, 232, 7, 208, 0, 8];
    packet.extend(number.to_be_bytes());
    packet
}

/// Runs `client` on host a while the server runs on host b; it is given a way to ask where the server sees the client.
fn between(
    prepare: impl FnOnce(&Netns, &Netns) -> Result<()>,
    client: impl AsyncFnOnce(&Netns, &dyn Fn() -> Result<Option<SocketAddr>>) -> Result<()> + Send,
) -> Result<()> {
    let (a, b) = (Netns::new("library-a")?, Netns::new("library-b")?);
    let _cable = Veth::between(&a, "cable", &b, "cable", 1500)?;
    for (host, addresses) in [(&a, &["192.0.2.1/24", "2001:db8::1/64"][..]), (&b, &["192.0.2.2/24", "2001:db8::2/64"])] {
        addresses.iter().try_for_each(|address| host.address("cable", address))?;
    }
    ["192.0.2.3/24", "2001:db8::3/64"].iter().try_for_each(|address| b.address("cable", address))?;
    prepare(&a, &b)?;
    let (ready, started) = mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let (asks, questions) = mpsc::channel::<mpsc::Sender<Option<SocketAddr>>>();
    std::thread::scope(|scope| {
        let on_b = b.clone();
        let server = scope.spawn(move || on_b.enter(move || runtime()?.block_on(serve(ready, stopped, questions))));
        let seen = move || {
            let (reply, answer) = mpsc::channel();
            asks.send(reply)?;
            Ok(answer.recv_timeout(PATIENCE)?)
        };
        let on_a = a.clone();
        let tested = started
            .recv_timeout(PATIENCE)
            .context("the server does not start")
            .and_then(|()| a.enter(move || runtime()?.block_on(client(&on_a, &seen))));
        let _ = stop.send(());
        server.join().expect("no panic in the server").and(tested)
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Sends packets back to whoever is connected.
async fn serve(
    ready: mpsc::Sender<()>,
    mut stopped: oneshot::Receiver<()>,
    questions: mpsc::Receiver<mpsc::Sender<Option<SocketAddr>>>,
) -> Result<()> {
    let server = Server::bind(SocketAddr::new([0u16; 8].into(), PORT), [peer("server", "client").build()?]).await?;
    ready.send(())?;
    let mut session = None::<adit_ipsec::Session>;
    loop {
        while let Ok(reply) = questions.try_recv() {
            let _ = reply.send(session.as_ref().and_then(adit_ipsec::Session::remote_addr));
        }
        let echo = async {
            match &session {
                Some(session) => session.recv_packet().await,
                None => std::future::pending().await,
            }
        };
        let received = tokio::select! {
            _ = &mut stopped => return Ok(()),
            accepted = server.accept() => { session = Some(accepted?); continue }
            received = echo => received,
            () = tokio::time::sleep(Duration::from_millis(10)) => continue,
        };
        match (received, &session) {
            (Ok(packet), Some(session)) => session.send_packet(&packet).await?,
            _ => session = None,
        }
    }
}

async fn connect(to: IpAddr) -> Result<Client> {
    let retransmission = Retransmission { first: Duration::from_millis(300), max: Duration::from_secs(1), tries: 6 };
    let options = adit_ipsec::Options { retransmission, ..adit_ipsec::Options::default() };
    Ok(Client::connect_with(SocketAddr::new(to, PORT), peer("client", "server").build()?, options).await?)
}

/// Sends packets until one comes back, and waits for the others; how many did not.
async fn echoes(client: &Client) -> Result<u16> {
    let until = Instant::now() + PATIENCE;
    let mut sent = 0;
    loop {
        ensure!(Instant::now() < until, "no packet comes back");
        client.send_packet(&packet(sent)).await?;
        sent += 1;
        if let Ok(received) = tokio::time::timeout(Duration::from_millis(20), client.recv_packet()).await {
            received?;
            break;
        }
    }
    let mut came = 1;
    while came < sent {
        let Ok(received) = tokio::time::timeout_at(until.into(), client.recv_packet()).await else { break };
        received?;
        came += 1;
    }
    Ok(sent - came)
}

/// Host a drops what comes from the address that the kernel of host b would choose, as a NAT on the way would.
#[test]
fn a_program_answers_from_the_address_that_was_hit() -> Result<()> {
    let strict = |a: &Netns, _: &Netns| {
        for (family, preferred) in [("-4", "192.0.2.2"), ("-6", "2001:db8::2")] {
            for rule in ["add pref 100 lookup local", &format!("add pref 10 from {preferred} blackhole"), "del pref 0"] {
                a.run(&format!("ip {family} rule {rule}"))?;
            }
        }
        Ok(())
    };
    between(strict, async |_, _| {
        for to in ["192.0.2.3", "2001:db8::3"] {
            let client = connect(to.parse()?).await.with_context(|| format!("to {to}"))?;
            ensure!(echoes(&client).await? == 0, "lost packets to {to}");
            client.rekey().await?;
            client.rekey_ike().await?;
            ensure!(echoes(&client).await? == 0, "lost packets to {to} with new keys");
            client.shutdown().await;
        }
        Ok(())
    })
}

#[test]
fn a_program_whose_address_becomes_another_one_goes_on_and_says_so() -> Result<()> {
    between(
        |_, _| Ok(()),
        async |a, seen| {
            for (to, old, new) in
                [("192.0.2.3", "192.0.2.1/24", "192.0.2.9/24"), ("2001:db8::3", "2001:db8::1/64", "2001:db8::9/64")]
            {
                let client = connect(to.parse()?).await.with_context(|| format!("to {to}"))?;
                let address =
                    |cidr: &str| -> Result<Option<IpAddr>> { Ok(Some(cidr.split('/').next().unwrap_or_default().parse()?)) };
                ensure!(echoes(&client).await? == 0 && seen()?.map(|from| from.ip()) == address(old)?, "seen at {:?}", seen()?);
                a.run(&format!("ip address del {old} dev cable"))?;
                a.address("cable", new)?;
                // Nothing is sent by the program: the server learns it from IKE.
                let until = Instant::now() + PATIENCE;
                while seen()?.map(|from| from.ip()) != address(new)? {
                    ensure!(Instant::now() < until, "the server has the client at {:?}", seen()?);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                ensure!(echoes(&client).await? == 0, "lost packets from {new}");
                ensure!(client.stats().rekeys == 0, "it was not connected anew: {:?}", client.stats());
                client.rekey().await?;
                client.shutdown().await;
            }
            Ok(())
        },
    )
}
