//! Whether questions that were scored were used in fitting, in words.

use crate::cli::show::table::{counted, percent, printable_line};
use crate::study::{Row, Seen, SeenPart};

/// How many of the questions that were scored were used in fitting, and what that means.
pub(in crate::cli) fn seen_text(seen: &Seen) -> String {
    let text = of_all(seen);
    match seen.parts.as_slice() {
        [] | [_] => text,
        parts => {
            let parts: Vec<String> = parts.iter().map(|part| of_part(part, seen)).collect();
            format!("{text}. By vector: {}", parts.join("; "))
        }
    }
}

fn of_all(seen: &Seen) -> String {
    let Seen { n_seen, n_unknown, n_question, .. } = *seen;
    let questions = counted(n_question, "question");
    if !seen.is_known() {
        let these = if n_question == 1 { "this question was" } else { "these questions were" };
        return format!(
            "Whether {these} used in fitting is not known: {}. If so, these results say how well the \
             vector fits what it has seen",
            why(seen)
        );
    }
    let used = match (n_seen, n_question) {
        (0, 1) => ", which was not used in fitting (compared by text)".to_owned(),
        (1, 1) => ", which was used in fitting".to_owned(),
        (0, _) if n_unknown == 0 => {
            ", none of which was used in fitting (compared by text)".to_owned()
        }
        (n, all) if n == all => ", all of which were used in fitting".to_owned(),
        (n, _) => {
            format!(", of which {n} {} used in fitting", if n == 1 { "was" } else { "were" })
        }
    };
    if n_seen == n_question {
        return format!(
            "{questions}{used}: these results say how well the vector fits them, and on other questions \
             it may gain less, or nothing, which `candor eval --cv 2` measures"
        );
    }
    let gains = match seen.rows_seen.is_empty() {
        _ if n_seen == 0 => String::new(),
        true => ", since the data has them more than once".to_owned(),
        false => format!(
            ": {} on {}, {} on the other {}",
            gain(&seen.rows_seen),
            if n_seen == 1 { "it" } else { "these" },
            gain(&seen.rows_unseen),
            n_question - n_seen
        ),
    };
    match n_unknown {
        0 => format!("{questions}{used}{gains}"),
        n => format!("{questions}{used}{gains}. Of {n} of them it is not known: {}", why(seen)),
    }
}

/// Why something is not known.
fn why(seen: &Seen) -> String {
    let unknown = || seen.parts.iter().filter(|part| part.n_unknown > 0);
    if unknown().any(|part| part.n_text.is_none()) {
        return "there is no record of everything that was fitted on".to_owned();
    }
    let n_text = unknown().filter_map(|part| part.n_text).sum();
    format!(
        "they are not, word for word, among the {} that were fitted on, but those are not questions in \
         the same form as these, and may state the same facts in other words",
        counted(n_text, "text")
    )
}

/// What is known of one of several vectors.
fn of_part(part: &SeenPart, seen: &Seen) -> String {
    let name = printable_line(&part.name);
    let SeenPart { n_seen, n_unknown, .. } = *part;
    let n = seen.n_question;
    match (n_seen, n_unknown) {
        (_, unknown) if unknown == n => format!("{name}: not known"),
        (0, 0) => format!("{name}: none used"),
        (seen, 0) if seen == n => format!("{name}: all used"),
        (seen, 0) => format!("{name}: {seen} used"),
        (seen, unknown) => format!("{name}: {seen} used, {unknown} not known"),
    }
}

fn gain(rows: &[Row]) -> String {
    let mc1 = |name: &str| {
        let row = rows.iter().find(|row| row.name == name);
        row.map_or_else(|| "–".to_owned(), |row| percent(row.mc.mc1))
    };
    match rows.iter().any(|row| row.name == "iti") {
        true => format!("MC1 {} → {}", mc1("base"), mc1("iti")),
        false => format!("MC1 {}", mc1("base")),
    }
}
