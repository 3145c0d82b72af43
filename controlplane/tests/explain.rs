//! What `adit explain` says of pairs of selectors that the peer does not carry, or carries in part.

use adit_controlplane::explain::report;
use adit_controlplane::schema::{Explanation, MissingSelector, NarrowedSelector};

fn established() -> Explanation {
    let none = serde_json::json!({
        "peer": "site-b", "state": "established", "since_s": 5, "differences": [], "offers": [], "unauthenticated": [],
    });
    serde_json::from_value(none).unwrap()
}

#[test]
fn what_a_peer_carries_of_a_narrowed_selector_is_a_note() {
    let quiet = report(&established());
    assert_eq!(quiet, "site-b: established for 5 s\nnothing is wrong\n");
    let narrowed = NarrowedSelector {
        selector: "0.0.0.0/0 <> 0.0.0.0/0".into(),
        carried: vec!["10.1.0.0/16 <> 10.2.0.0/16".into(), "10.1.0.0/16 <> 10.3.0.0/16".into()],
        cause: Some("the peer answered CREATE_CHILD_SA with TS_UNACCEPTABLE".into()),
        retry_in_s: Some(20),
    };
    let reported = report(&Explanation { narrowed: vec![narrowed], ..established() });
    let note = "note:    the peer carries only 10.1.0.0/16 <> 10.2.0.0/16, 10.1.0.0/16 <> 10.3.0.0/16 of 0.0.0.0/0 <> 0.0.0.0/0: for \
                the rest the peer answered CREATE_CHILD_SA with TS_UNACCEPTABLE; asked for again in 20 s\n";
    assert_eq!(reported, format!("site-b: established for 5 s\n{note}"));
}

#[test]
fn what_is_missing_is_said_once_and_why() {
    let selector = "10.1.0.0/24 <> 10.0.0.0/8".to_owned();
    let lacks = vec![format!("no Child SA carries {selector}")];
    let missing =
        vec![MissingSelector { selector, cause: Some("the peer grants a part of it and no more".into()), retry_in_s: None }];
    let reported = report(&Explanation { missing, lacks, ..established() });
    let line = "no Child SA for 10.1.0.0/24 <> 10.0.0.0/8: the peer grants a part of it and no more\n";
    assert_eq!(reported, format!("site-b: established for 5 s\n{line}"));
}
