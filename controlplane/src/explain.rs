//! `adit explain` for people: what happened, where both ends differ, what to change.

use std::fmt::Write;

use crate::api::types::Explanation;

/// The whole text.
pub fn report(told: &Explanation) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, told);
    out
}

fn write(out: &mut String, told: &Explanation) -> std::fmt::Result {
    writeln!(out, "{}: {} for {} s", told.peer, told.state, told.since_s)?;
    if let Some(cause) = &told.cause {
        writeln!(out, "cause:   {cause}")?;
    }
    if let Some(hint) = &told.hint {
        writeln!(out, "hint:    {hint} (nothing proves who said so)")?;
    }
    if let Some(remedy) = &told.remedy {
        writeln!(out, "remedy:  {remedy}")?;
    }
    if told.differences.is_empty() && told.cause.is_none() && told.strangers.is_empty() {
        writeln!(out, "nothing is wrong: no negotiation has failed")?;
    }
    for difference in &told.differences {
        writeln!(out, "\n{} differ:", difference.what)?;
        writeln!(out, "  here:  {}", difference.ours)?;
        writeln!(out, "  there: {}", difference.theirs)?;
    }
    let chosen = told.offers.iter().filter_map(|offers| Some((&offers.what, offers.chosen.as_ref()?)));
    for (index, (what, chosen)) in chosen.enumerate() {
        let gap = if index == 0 { "\n" } else { "" };
        writeln!(out, "{gap}agreed on {what}: {chosen}")?;
    }
    for stranger in &told.strangers {
        writeln!(out, "\n{} wanted to connect and was refused: {}", stranger.from, stranger.why)?;
        writeln!(out, "  here:  {}", stranger.ours.join(", "))?;
        writeln!(out, "  there: {}", stranger.theirs.join(", "))?;
    }
    Ok(())
}
