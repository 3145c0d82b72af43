//! What was found for the flows of late, so that a packet of one of them costs no look-up, also where flows alternate.

use adit_proto::packet::{Packet, Port, Side};

/// Places; a power of two. Flows that fall into one place take it from each other, and then cost a look-up as any new one.
const PLACES: usize = 128;

/// Answers by packet. All are forgotten at once when anything changes that they follow from.
pub struct Recent<A> {
    places: Box<[Option<Known<A>>]>,
    /// Answers of an earlier one do not count.
    generation: u64,
}

struct Known<A> {
    packet: Packet,
    generation: u64,
    answer: A,
}

impl<A: Copy> Recent<A> {
    pub fn new() -> Recent<A> {
        Recent { places: (0..PLACES).map(|_| None).collect(), generation: 0 }
    }

    #[inline]
    pub fn get(&self, packet: &Packet) -> Option<A> {
        let known = self.places[place(packet)].as_ref()?;
        (known.generation == self.generation && known.packet == *packet).then_some(known.answer)
    }

    #[inline]
    pub fn keep(&mut self, packet: &Packet, answer: A) {
        self.places[place(packet)] = Some(Known { packet: *packet, generation: self.generation, answer });
    }

    pub fn forget(&mut self) {
        self.generation += 1;
    }
}

/// Where a packet has its place. Whoever makes flows that share one gains nothing but the price of a look-up.
#[inline]
fn place(packet: &Packet) -> usize {
    let (source, destination) = (word(&packet.source), word(&packet.destination));
    // Both ways of a flow need not meet; neighbouring addresses and ports must not (Fibonacci hashing).
    let mixed = (source.rotate_left(29) ^ destination).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - PLACES.trailing_zeros())) as usize
}

#[inline]
fn word(side: &Side) -> u64 {
    let port = if let Port::Number(port) = side.port { u64::from(port) } else { 0 };
    side.address as u64 ^ (side.address >> 64) as u64 ^ port << 40
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(source: u16, destination: u128) -> Packet {
        let side = |address, port| Side { address, port: Port::Number(port) };
        Packet { v6: false, protocol: Some(17), source: side(0x0a00_0001, source), destination: side(destination, 53) }
    }

    #[test]
    fn an_answer_is_of_its_packet_and_of_now() {
        let mut recent = Recent::new();
        for port in 0..1000 {
            recent.keep(&packet(port, 0x0a01_0001), port);
        }
        let known: Vec<u16> = (0..1000)
            .filter_map(|port| recent.get(&packet(port, 0x0a01_0001)).map(|answer| (port, answer)))
            .map(|(port, answer)| {
                assert_eq!(port, answer);
                port
            })
            .collect();
        assert!(known.len() > PLACES / 2 && known.len() <= PLACES, "{}", known.len());
        assert_eq!(recent.get(&Packet { protocol: Some(6), ..packet(999, 0x0a01_0001) }), None);
        recent.forget();
        assert!((0..1000).all(|port| recent.get(&packet(port, 0x0a01_0001)).is_none()));
    }

    #[test]
    fn neighbours_have_places_of_their_own() {
        let places = |packets: Vec<Packet>| packets.iter().map(place).collect::<std::collections::BTreeSet<_>>().len();
        assert!(places((0..64).map(|port| packet(4000 + port, 1)).collect()) > 32);
        assert!(places((0..64).map(|host| packet(4000, 0x0a01_0000 + host)).collect()) > 32);
        assert!(places((0..64).map(|net| packet(4000, 0x0a01_0001 + (net << 8))).collect()) > 32);
    }
}
