//! Tests of the choice of algorithms.

use adit_proto::ike::{Attribute, AttributeType, AttributeValue};

use super::*;
use crate::crypto::KeyExchangeMethod::{EcpP384, MlKem768, X25519};

fn proposal(additional: &[&[Option<KeyExchangeMethod>]]) -> IkeProposal {
    IkeProposal {
        suites: vec![Suite::Aes256Gcm],
        prfs: vec![Prf::HmacSha384],
        key_exchanges: vec![X25519],
        additional: additional.iter().map(|methods| methods.to_vec()).collect(),
    }
}

fn texts(additional: &[&[Option<KeyExchangeMethod>]]) -> Vec<String> {
    offer(&ike_alternatives(&[proposal(additional)]), Vec::new()).iter().map(ToString::to_string).collect()
}

#[test]
fn optional_key_exchanges_are_left_out_of_a_second_offer() {
    let plain = "IKE:AES_GCM_16_256/PRF_HMAC_SHA2_384/CURVE_25519";
    assert_eq!(texts(&[]), [plain]);
    assert_eq!(texts(&[&[Some(MlKem768)]]), [format!("{plain}/ADDKE1_ML_KEM_768")]);
    let optional = format!("{plain}/ADDKE1_ML_KEM_768/ADDKE1_KE_NONE");
    assert_eq!(texts(&[&[Some(MlKem768), None]]), [optional.as_str(), plain]);
    assert_eq!(texts(&[&[Some(MlKem768), None], &[Some(EcpP384)]]), [format!("{optional}/ADDKE2_ECP_384")]);
}

#[test]
fn whoever_can_do_without_takes_either() {
    let optional = ike_alternatives(&[proposal(&[&[Some(MlKem768), None]])]);
    let chosen = |theirs: &[IkeProposal]| {
        let choice = choose(&optional, &offer(&ike_alternatives(theirs), Vec::new()), Some(X25519)).expect("common ground");
        let offered = ike_alternatives(theirs);
        let confirmed = confirm(&offered, &[choice.answer(ProtocolId::IKE, Vec::new())]).expect("what was offered");
        assert_eq!(confirmed.additional, choice.additional);
        choice.additional
    };
    assert_eq!(chosen(&[proposal(&[])]), []);
    assert_eq!(chosen(&[proposal(&[&[Some(MlKem768)]])]), [MlKem768]);
    assert_eq!(chosen(&[proposal(&[&[Some(MlKem768), None]])]), [MlKem768]);
    assert_eq!(chosen(&[proposal(&[&[Some(EcpP384), None]])]), []);
}

/// RFC 7296 §3.3.6: a transform with an attribute that we do not know is not chosen.
#[test]
fn an_attribute_that_nobody_knows_spoils_its_transform_alone() {
    let ours = ike_alternatives(&[proposal(&[])]);
    let mut theirs = offer(&ours, Vec::new());
    let attribute = Attribute { kind: AttributeType(13), value: AttributeValue::Short(7) };
    for place in 0..theirs[0].transforms.len() {
        let plain = theirs[0].transforms[place].clone();
        theirs[0].transforms[place].attributes.push(attribute.clone());
        assert!(choose(&ours, &theirs, Some(X25519)).is_err(), "{}", theirs[0]);
        theirs[0].transforms.push(plain.clone());
        let chosen = choose(&ours, &theirs, Some(X25519)).expect("one without it is offered, too");
        assert!(chosen.transforms.iter().all(|transform| !transform.attributes.contains(&attribute)));
        theirs[0].transforms.pop();
        theirs[0].transforms[place] = plain;
    }
}
