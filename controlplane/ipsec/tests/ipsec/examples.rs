//! The examples do what they say.

use crate::support::*;

#[expect(dead_code, reason = "its main() is for cargo")]
#[path = "../../examples/ipsec_client.rs"]
mod ipsec_client;
#[expect(dead_code, reason = "its main() is for cargo")]
#[path = "../../examples/ipsec_server.rs"]
mod ipsec_server;

#[expect(dead_code, reason = "its main() is for cargo")]
#[path = "../../examples/ipsec_throughput.rs"]
mod ipsec_throughput;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_throughput_is_measured() {
    let figures = soon("figures", ipsec_throughput::run(1420, std::time::Duration::from_millis(500))).await.unwrap();
    println!("{figures:?}");
    assert!(figures.received > 500 && figures.received <= figures.sent, "{figures:?}");
}

#[tokio::test]
async fn the_client_pings_through_the_server() {
    let server = ipsec_server::bind(any(), "a key for the examples").await.unwrap();
    let address = server.local_addr();
    let task = tokio::spawn(async move { ipsec_server::serve(&server).await });
    let ping = |psk| ipsec_client::run(address, psk, CLIENT_ADDRESS, SERVER_ADDRESS);
    assert_eq!(soon("the pings", ping("a key for the examples")).await.unwrap(), 10);
    assert_eq!(soon("the refusal", ping("quite another key")).await.unwrap_err().code(), "authentication_failed");
    // It serves on.
    assert_eq!(soon("the pings", ping("a key for the examples")).await.unwrap(), 10);
    assert!(!task.is_finished());
    task.abort();
}
