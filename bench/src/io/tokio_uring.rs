//! tokio-uring: one task per slot, each receiving and sending in turn.

use std::io;
use std::net::UdpSocket;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::UdpSocket as Socket;

use super::{SLOT_LEN, SLOTS};

pub fn relay(from: UdpSocket, to: UdpSocket, stop: &Arc<AtomicBool>) -> io::Result<()> {
    tokio_uring::start(async {
        let (from, to) = (Rc::new(Socket::from_std(from)), Rc::new(Socket::from_std(to)));
        let tasks: Vec<_> = (0..SLOTS).map(|_| tokio_uring::spawn(carry(from.clone(), to.clone(), stop.clone()))).collect();
        for task in tasks {
            task.await.map_err(io::Error::other)??;
        }
        Ok(())
    })
}

async fn carry(from: Rc<Socket>, to: Rc<Socket>, stop: Arc<AtomicBool>) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(SLOT_LEN);
    while !stop.load(Ordering::Relaxed) {
        buffer = step(&from, &to, buffer).await?;
    }
    Ok(())
}

/// One datagram from one socket to the other; returns the buffer for the next.
async fn step(from: &Socket, to: &Socket, buffer: Vec<u8>) -> io::Result<Vec<u8>> {
    let (received, buffer) = from.recv_from(buffer).await;
    let (length, _) = received?;
    // Refused (nobody there, no room): a lost datagram.
    let (_, part) = to.send(buffer.slice(..length)).await;
    Ok(part.into_inner())
}
