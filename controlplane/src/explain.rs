//! `adit explain` for people: what happened, where both ends differ, what to change.

use std::fmt::Write;
use std::time::SystemTime;

use crate::api::types::{Explanation, Offers};

/// What is to be said of a state in which nothing has gone wrong.
fn waiting(state: &str) -> &'static str {
    match state {
        "connecting" => "no answer yet",
        "idle" => "it waits for the peer to connect, or for `adit connect`",
        _ => "nothing is wrong",
    }
}

/// The whole text.
pub fn report(told: &Explanation) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, told);
    out
}

fn write(out: &mut String, told: &Explanation) -> std::fmt::Result {
    writeln!(out, "{}: {} for {} s", told.peer, told.state, told.since_s)?;
    // Of a connection that is up it says why it was down before.
    let up = matches!(told.state.as_str(), "established" | "rekeying");
    match (&told.problem, &told.cause) {
        (Some(problem), _) => writeln!(out, "cause:   {problem}")?,
        (None, Some(cause)) if up => writeln!(out, "before:  {cause}")?,
        (None, Some(cause)) => writeln!(out, "cause:   {cause}")?,
        (None, None) => {}
    }
    if let Some(hint) = &told.hint {
        writeln!(out, "hint:    {hint} (nothing proves who said so)")?;
    }
    if let Some(remedy) = &told.remedy {
        writeln!(out, "remedy:  {remedy}")?;
    }
    let quiet = told.differences.is_empty() && told.problem.is_none() && told.strangers.is_empty();
    if quiet && (up || told.cause.is_none()) {
        writeln!(out, "{}", waiting(&told.state))?;
    }
    for difference in &told.differences {
        writeln!(out, "\nnot the same at both ends: {}", difference.what)?;
        writeln!(out, "  here:  {}", difference.ours)?;
        writeln!(out, "  there: {}", difference.theirs)?;
    }
    // What only one end knows is told as well: it is one half of the difference.
    let one_sided = |offers: &&Offers| offers.chosen.is_none() && offers.theirs.is_empty() != offers.ours.is_empty();
    for offers in told.offers.iter().filter(one_sided).filter(|_| told.problem.is_some() || told.hint.is_some()) {
        let (side, list) = if offers.theirs.is_empty() { ("here", &offers.ours) } else { ("there", &offers.theirs) };
        writeln!(out, "\n{} (the other end's are not known):", offers.what)?;
        writeln!(out, "  {:<7}{}", format!("{side}:"), list.join(", "))?;
    }
    let chosen = told.offers.iter().filter_map(|offers| Some((&offers.what, offers.chosen.as_ref()?)));
    for (index, (what, chosen)) in chosen.enumerate() {
        let gap = if index == 0 { "\n" } else { "" };
        writeln!(out, "{gap}agreed on {what}: {chosen}")?;
    }
    for stranger in &told.strangers {
        let ago =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs()).saturating_sub(stranger.at);
        let times = if stranger.times > 1 { format!(" {} times, last", stranger.times) } else { String::new() };
        writeln!(out, "\n{} wanted to connect{times} {ago} s ago and was refused: {}", stranger.from, stranger.why)?;
        for (side, list) in [("here: ", &stranger.ours), ("there:", &stranger.theirs)] {
            if !list.is_empty() {
                writeln!(out, "  {side} {}", list.join(", "))?;
            }
        }
    }
    Ok(())
}
