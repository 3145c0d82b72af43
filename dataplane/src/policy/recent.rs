//! What was found for the flows of late, so that a packet of one of them costs no look-up, also where flows alternate.

use adit_proto::packet::{Packet, Port, Side};

/// Places; a power of two. Flows that fall into one place take it from each other, and then cost a look-up as any new one.
const PLACES: usize = 256;

/// Answers by packet. All are forgotten at once when anything changes that they follow from.
pub struct Recent<A> {
    places: Box<[Option<Known<A>>]>,
    /// Of the flow that came last to each place. One gets the place when it comes again, so that many flows that come once each
    /// cost little and drive nobody out.
    marks: Box<[u16]>,
    /// The last answer: packets of one flow come in runs.
    last: Option<(Packet, A)>,
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
        let places = (0..PLACES).map(|_| None).collect();
        Recent { places, marks: vec![0; PLACES].into_boxed_slice(), last: None, generation: 0 }
    }

    #[inline]
    pub fn get(&mut self, packet: &Packet) -> Option<A> {
        match &self.last {
            Some((last, answer)) if last == packet => Some(*answer),
            _ => self.find(packet),
        }
    }

    fn find(&mut self, packet: &Packet) -> Option<A> {
        let (place, mark) = place(packet);
        if self.marks[place] != mark {
            return None;
        }
        let known = self.places[place].as_ref()?;
        let answer = (known.generation == self.generation && known.packet == *packet).then_some(known.answer)?;
        self.last = Some((*packet, answer));
        Some(answer)
    }

    pub fn keep(&mut self, packet: &Packet, answer: A) {
        let (place, mark) = place(packet);
        if std::mem::replace(&mut self.marks[place], mark) == mark {
            self.places[place] = Some(Known { packet: *packet, generation: self.generation, answer });
        }
        self.last = Some((*packet, answer));
    }

    pub fn forget(&mut self) {
        self.generation += 1;
        self.last = None;
    }
}

/// Where a packet has its place, and its mark there. Whoever makes flows that share one gains nothing but the price of a look-up.
#[inline]
fn place(packet: &Packet) -> (usize, u16) {
    let (source, destination) = (word(&packet.source), word(&packet.destination));
    // Both ways of a flow need not meet; neighbouring addresses and ports must not (Fibonacci hashing).
    let mixed = (source.rotate_left(29) ^ destination).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> (64 - PLACES.trailing_zeros())) as usize, (mixed >> 32) as u16)
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
            for _ in 0..2 {
                recent.keep(&packet(port, 0x0a01_0001), port);
            }
            assert_eq!(recent.get(&packet(port, 0x0a01_0001)), Some(port));
            assert_eq!(recent.get(&Packet { protocol: Some(6), ..packet(port, 0x0a01_0001) }), None);
        }
        let known = (0..1000).filter(|port| match recent.get(&packet(*port, 0x0a01_0001)) {
            Some(answer) => answer == *port,
            None => false,
        });
        let known = known.count();
        assert!(known > PLACES / 2 && known <= PLACES, "{known}");
        recent.forget();
        assert!((0..1000).all(|port| recent.get(&packet(port, 0x0a01_0001)).is_none()));
    }

    #[test]
    fn who_comes_once_takes_nobodys_place() {
        let mut recent = Recent::new();
        let regular = packet(4000, 0x0a01_0001);
        let mut looked_up = 0;
        for stranger in 0..10_000 {
            if recent.get(&regular).is_none() {
                looked_up += 1;
                recent.keep(&regular, 1);
            }
            if recent.get(&packet(stranger, 0x0a02_0000)).is_none() {
                recent.keep(&packet(stranger, 0x0a02_0000), 2);
            }
        }
        // When one of them comes to its place, its next packet is looked up, and then once more.
        assert!(looked_up < 10_000 / PLACES * 3, "{looked_up}");
    }

    #[test]
    fn neighbours_have_places_of_their_own() {
        let places =
            |packets: Vec<Packet>| packets.iter().map(|packet| place(packet).0).collect::<std::collections::BTreeSet<_>>().len();
        assert!(places((0..64).map(|port| packet(4000 + port, 1)).collect()) > 32);
        assert!(places((0..64).map(|host| packet(4000, 0x0a01_0000 + host)).collect()) > 32);
        assert!(places((0..64).map(|net| packet(4000, 0x0a01_0001 + (net << 8))).collect()) > 32);
    }
}
