//! `adit explain` for people: what happened, where both ends differ, what to change.

use std::fmt::Write;
use std::time::SystemTime;

use crate::schema::{Explanation, NarrowedSelector, Offers};

/// Whether what a peer lacks is said by another line as well.
fn is_reported(explanation: &Explanation, lack: &str) -> bool {
    explanation.cause.as_deref() == Some(lack) || explanation.missing.iter().any(|one| lack.ends_with(&one.selector))
}

/// The whole text.
pub fn report(explanation: &Explanation) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, explanation);
    out
}

fn write(out: &mut String, explanation: &Explanation) -> std::fmt::Result {
    let since = explanation.since_s.map(|since| format!(" for {since} s")).unwrap_or_default();
    writeln!(out, "{}: {}{since}", explanation.peer, explanation.state)?;
    // Of a connection that is up it says why it was down before.
    let up = matches!(explanation.state.as_str(), "established" | "rekeying");
    match (&explanation.problem, &explanation.cause) {
        (Some(problem), _) => writeln!(out, "cause:   {problem}")?,
        (None, Some(cause)) if up => writeln!(out, "before:  {cause}")?,
        (None, Some(cause)) => writeln!(out, "cause:   {cause}")?,
        (None, None) => {}
    }
    if let Some(hint) = &explanation.hint {
        writeln!(out, "hint:    {hint} (nothing proves who said so)")?;
    }
    if let Some(remedy) = &explanation.remedy {
        writeln!(out, "remedy:  {remedy}")?;
    }
    ways(out, explanation)?;
    for missing in &explanation.missing {
        let why = missing.cause.as_deref().unwrap_or("nobody has asked for it yet");
        let again = missing.retry_in_s.map(|retry| format!("; again in {retry} s")).unwrap_or_default();
        writeln!(out, "no Child SA for {}: {why}{again}", missing.selector)?;
    }
    for narrowed in &explanation.narrowed {
        let NarrowedSelector { selector, carried, cause, retry_in_s } = narrowed;
        let why = cause.as_deref().map(|cause| format!(": for the rest {cause}")).unwrap_or_default();
        let again = retry_in_s.map(|retry| format!("; asked for again in {retry} s")).unwrap_or_default();
        writeln!(out, "note:    the peer carries only {} of {selector}{why}{again}", carried.join(", "))?;
    }
    // Why one is not connected is the cause.
    if up || (explanation.cause.is_none() && explanation.problem.is_none()) {
        for lack in explanation.lacks.iter().filter(|lack| !is_reported(explanation, lack)) {
            writeln!(out, "not up:  {lack}")?;
        }
    }
    let said = explanation.unauthenticated.is_empty() && explanation.missing.is_empty() && explanation.paths.is_empty();
    let said = said && explanation.drops.is_empty() && explanation.overlaps.is_empty() && explanation.narrowed.is_empty();
    let quiet = explanation.differences.is_empty() && explanation.problem.is_none() && said && explanation.lacks.is_empty();
    if quiet && up {
        writeln!(out, "nothing is wrong")?;
    }
    for difference in &explanation.differences {
        writeln!(out, "\nnot the same at both ends: {}", difference.what)?;
        writeln!(out, "  here:  {}", difference.ours)?;
        writeln!(out, "  there: {}", difference.theirs)?;
    }
    // What only one end knows is told as well: it is one half of the difference.
    let one_sided = |offers: &&Offers| offers.chosen.is_none() && offers.theirs.is_empty() != offers.ours.is_empty();
    for offers in
        explanation.offers.iter().filter(one_sided).filter(|_| explanation.problem.is_some() || explanation.hint.is_some())
    {
        let (side, list) = if offers.theirs.is_empty() { ("here", &offers.ours) } else { ("there", &offers.theirs) };
        writeln!(out, "\n{} (the other end's are not known):", offers.what)?;
        writeln!(out, "  {:<7}{}", format!("{side}:"), list.join(", "))?;
    }
    let chosen = explanation.offers.iter().filter_map(|offers| Some((&offers.what, offers.chosen.as_ref()?)));
    for (index, (what, chosen)) in chosen.enumerate() {
        let gap = if index == 0 { "\n" } else { "" };
        writeln!(out, "{gap}agreed on {what}: {chosen}")?;
    }
    unauthenticated(out, explanation)
}

/// By which way packets go, and what is wrong with the ways.
fn ways(out: &mut String, explanation: &Explanation) -> std::fmt::Result {
    for overlap in &explanation.overlaps {
        writeln!(out, "overlap: {overlap}")?;
    }
    if let Some(way) = &explanation.way {
        writeln!(out, "way:     {way}")?;
    }
    for path in &explanation.paths {
        writeln!(out, "path:    {path}")?;
    }
    for drops in &explanation.drops {
        writeln!(out, "dropped: {drops}")?;
    }
    Ok(())
}

/// Who wanted to connect and could not be told to be anybody.
fn unauthenticated(out: &mut String, explanation: &Explanation) -> std::fmt::Result {
    for initiator in &explanation.unauthenticated {
        let ago =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs()).saturating_sub(initiator.at);
        let times = if initiator.times > 1 { format!(" {} times, last", initiator.times) } else { String::new() };
        writeln!(out, "\n{} wanted to connect{times} {ago} s ago and was refused: {}", initiator.from, initiator.why)?;
        for (side, list) in [("here: ", &initiator.ours), ("there:", &initiator.theirs)] {
            if !list.is_empty() {
                writeln!(out, "  {side} {}", list.join(", "))?;
            }
        }
    }
    Ok(())
}
