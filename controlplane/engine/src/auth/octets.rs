//! What AUTH covers (RFC 7296 §2.15), with what IKE_INTERMEDIATE adds to it (RFC 9242 §3.3.2).
//!
//! ```text
//! InitiatorSignedOctets = IKE_SA_INIT request  | Nr | prf(SK_pi, IDi body) | IntAuth
//! ResponderSignedOctets = IKE_SA_INIT response | Ni | prf(SK_pr, IDr body) | IntAuth
//! IntAuth = IntAuth_i | IntAuth_r | message id of the first IKE_AUTH        (nothing without IKE_INTERMEDIATE)
//! IntAuth_i = prf(SK_pi, IntAuth_i before | request of IKE_INTERMEDIATE)
//! ```

use adit_proto::ike::Identification;

use crate::crypto::{IkeKeys, Secret, Sender};

/// The chains over the messages of IKE_INTERMEDIATE.
#[derive(Clone, Debug, Default)]
pub struct IntAuth {
    chains: Option<Chains>,
}

#[derive(Clone, Debug)]
struct Chains {
    initiator: Secret,
    responder: Secret,
}

impl IntAuth {
    /// Adds an exchange that is complete. `keys` are those that protected it, from before a key exchange in it changed them.
    /// Request and response are IntAuth_A with IntAuth_P behind it, as `adit_proto::ike::encrypted` makes the first.
    pub fn add(&mut self, keys: &IkeKeys, request: &[u8], response: &[u8]) {
        let (before_i, before_r) = match &self.chains {
            Some(Chains { initiator, responder }) => (initiator.expose(), responder.expose()),
            None => (&[][..], &[][..]),
        };
        let initiator = keys.prf().compute(keys.sk_pi(), &[before_i, request]);
        let responder = keys.prf().compute(keys.sk_pr(), &[before_r, response]);
        self.chains = Some(Chains { initiator, responder });
    }

    /// What goes to the end of the signed octets of both ends.
    pub fn octets(&self, ike_auth_message_id: u32) -> Vec<u8> {
        match &self.chains {
            Some(Chains { initiator, responder }) => {
                [initiator.expose(), responder.expose(), &ike_auth_message_id.to_be_bytes()].concat()
            }
            None => Vec::new(),
        }
    }
}

/// The octets that `sender` signs, or has signed.
///
/// `message` is the sender's IKE_SA_INIT message, the last one if it was sent several times, without the non-ESP marker;
/// `nonce` is the other end's; `identification` is the sender's ID payload.
pub fn signed_octets(
    keys: &IkeKeys,
    sender: Sender,
    message: &[u8],
    nonce: &[u8],
    identification: &Identification,
    int_auth: &[u8],
) -> Vec<u8> {
    let sk_p = match sender {
        Sender::Initiator => keys.sk_pi(),
        Sender::Responder => keys.sk_pr(),
    };
    let maced_id = keys.prf().compute(sk_p, &[&identification.body()]);
    [message, nonce, maced_id.expose(), int_auth].concat()
}

#[cfg(test)]
mod tests {
    use adit_proto::ike::{IdType, IkeSpi};
    use adit_proto::suite::Suite;

    use super::*;
    use crate::crypto::{Exchanged, Prf};

    fn keys(shared: &[u8]) -> IkeKeys {
        let exchanged = Exchanged { nonce_i: b"ni", nonce_r: b"nr", spi_i: IkeSpi(1), spi_r: IkeSpi(2) };
        IkeKeys::initial(Prf::HmacSha256, Suite::Aes128Gcm, &Secret::copy_of(shared), exchanged)
    }

    #[test]
    fn both_ends_octets_are_put_together_in_the_order_of_the_rfc() {
        let keys = keys(b"shared");
        let id = Identification { id_type: IdType::FQDN, data: b"gw.example.org".to_vec() };
        for (sender, key) in [(Sender::Initiator, keys.sk_pi()), (Sender::Responder, keys.sk_pr())] {
            let octets = signed_octets(&keys, sender, b"message", b"nonce", &id, b"int auth");
            let maced = Prf::HmacSha256.compute(key, &[b"\x02\0\0\0gw.example.org"]);
            assert_eq!(octets, [b"messagenonce", maced.expose(), b"int auth"].concat());
        }
    }

    #[test]
    fn each_link_of_int_auth_has_the_keys_of_its_own_exchange() {
        let (first, second) = (keys(b"classic"), keys(b"post-quantum"));
        let mut int_auth = IntAuth::default();
        assert_eq!(int_auth.octets(1), b"");
        int_auth.add(&first, b"request 1", b"response 1");
        int_auth.add(&second, b"request 2", b"response 2");
        let prf = |key: &[u8], parts: &[&[u8]]| Prf::HmacSha256.compute(key, parts);
        let (i1, r1) = (prf(first.sk_pi(), &[b"request 1"]), prf(first.sk_pr(), &[b"response 1"]));
        let i2 = prf(second.sk_pi(), &[i1.expose(), b"request 2"]);
        let r2 = prf(second.sk_pr(), &[r1.expose(), b"response 2"]);
        assert_eq!(int_auth.octets(3), [i2.expose(), r2.expose(), &[0, 0, 0, 3]].concat());
    }
}
