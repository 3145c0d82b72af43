//! The word that somebody meant: for messages about a word that is not known.

use crate::limits::WORD_LEN_MAX;

/// The name out of `known` that `wrong` was probably meant to be: at most a third of its letters (and at least one) differ.
pub fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    // Nobody means a word by a text of that length; and the table below would have as many rows.
    if wrong.len() > WORD_LEN_MAX {
        return None;
    }
    let wrong = wrong.to_lowercase().replace('-', "_");
    let limit = (wrong.chars().count() / 3).max(1);
    known.iter().map(|name| (edits(&wrong, name), *name)).filter(|(distance, _)| *distance <= limit).min().map(|(_, name)| name)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut table = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            table[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = table[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = replaced.min(table[i - 1][j] + 1).min(table[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(table[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    table[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_slips_of_the_pen_and_nothing_else() {
        let known = ["listen", "interface", "underlay_mtu", "peers"];
        assert_eq!(nearest("lisetn", &known), Some("listen"));
        assert_eq!(nearest("underlay-mtu", &known), Some("underlay_mtu"));
        assert_eq!(nearest("Peers", &known), Some("peers"));
        assert_eq!(nearest("peer", &known), Some("peers"));
        assert_eq!(nearest("colour", &known), None);
    }
}
