//! The responder says how long an authentication holds (AUTH_LIFETIME, RFC 4478), and the initiator obeys: a new IKE SA beside the old
//! one, and no packet is lost.

use std::time::Duration;

use adit_bench::lab::{Lab, SOON, wait_until};
use anyhow::{Context, Result, ensure};

use crate::Pings;
use crate::ike_tunnel::{options, spis};

#[test]
fn auth_lifetime_is_obeyed_without_a_lost_ping() -> Result<()> {
    // The initiator itself would never do it.
    let lab = Lab::start(&options(&["role: initiator", "role: responder, reauth_s: 9"]))?;
    let pings = Pings::start(&lab, lab.a(), lab.b().inner(), Duration::from_millis(1))?;
    let before = spis(lab.a())?;
    wait_until("another IKE SA takes the place", SOON, || {
        let now = spis(lab.a())?;
        Ok(now.0 != before.0 && now.1 != before.1 && now.0 == spis(lab.b())?.0)
    })
    .with_context(|| lab.logs())?;
    pings.none_lost(&lab, 100)?;
    ensure!(lab.a().log().contains("takes the place of"), "{}", lab.logs());
    let ends = ["is gone: the peer", "reconnecting", "did not authenticate anew"];
    ensure!(!ends.iter().any(|end| lab.logs().contains(end)), "{}", lab.logs());
    Ok(())
}
