//! The README and the book: every link leads somewhere, every page is listed.
#![cfg(feature = "cli")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use pulldown_cmark::{Event, LinkType, Options, Parser, Tag, TagEnd};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown files that strangers read, relative to the project's folder.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = std::fs::read_dir(root())
        .expect("the project")
        .map(|entry| PathBuf::from(entry.expect("an entry").file_name()))
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .collect();
    let mut folders = vec![PathBuf::from("docs/src"), PathBuf::from("models")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).expect("a folder") {
            let path = folder.join(entry.expect("an entry").file_name());
            if root().join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

/// What a page links to, and the anchors of its headings.
#[derive(Default)]
struct Page {
    links: Vec<String>,
    anchors: BTreeSet<String>,
}

impl Page {
    fn read(path: &Path) -> Self {
        let mut text = std::fs::read_to_string(root().join(path)).expect("a page");
        // mdBook's way to show a file of the project as a page.
        if let Some(file) = text.trim().strip_prefix("{{#include ") {
            let file = resolved(path, file.trim_end_matches("}}"));
            text = std::fs::read_to_string(root().join(file)).expect("a file that is included");
        }
        let mut page = Self::default();
        let mut heading: Option<String> = None;
        for event in Parser::new_ext(&text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Link { link_type, dest_url, .. })
                    if link_type != LinkType::Autolink =>
                {
                    page.links.push(dest_url.into_string());
                }
                Event::Start(Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.into_string());
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let base = anchor(&heading.take().unwrap_or_default());
                    let numbered = (1..).map(|n| format!("{base}-{n}"));
                    let free = std::iter::once(base.clone())
                        .chain(numbered)
                        .find(|anchor| !page.anchors.contains(anchor));
                    page.anchors.extend(free);
                }
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                _ => {}
            }
        }
        page
    }
}

/// The name by which a heading is linked to.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter_map(|c| match c {
        c if c.is_alphanumeric() || matches!(c, '-' | '_') => Some(c),
        c if c.is_whitespace() => Some('-'),
        _ => None,
    });
    kept.collect::<String>().to_lowercase()
}

/// Where a relative link leads, from the project's folder.
fn resolved(page: &Path, target: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in page.parent().unwrap_or(Path::new("")).join(target).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}

#[test]
fn every_link_leads_somewhere() {
    let pages: BTreeMap<PathBuf, Page> =
        pages().into_iter().map(|path| (path.clone(), Page::read(&path))).collect();
    let mut broken = Vec::new();
    for (path, page) in &pages {
        for link in &page.links {
            if ["https://", "http://", "mailto:"].iter().any(|start| link.starts_with(start)) {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { resolved(path, file) };
            let is_there = root().join(&target).exists();
            let has_anchor = anchor.is_empty()
                || pages.get(&target).is_none_or(|page| page.anchors.contains(anchor));
            if !is_there || !has_anchor {
                broken.push(format!("{}: {link}", path.display()));
            }
            // A page of the book can only link to what the book holds.
            if path.starts_with("docs/src") && !target.starts_with("docs/src") {
                broken.push(format!("{}: {link} leads out of the book", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn every_page_is_in_the_summary() {
    let summary = Page::read(Path::new("docs/src/SUMMARY.md"));
    let listed: BTreeSet<PathBuf> =
        summary.links.iter().map(|link| Path::new("docs/src").join(link)).collect();
    let there: BTreeSet<PathBuf> = pages()
        .into_iter()
        .filter(|page| page.starts_with("docs/src") && !page.ends_with("SUMMARY.md"))
        .collect();
    assert_eq!(listed, there);
}

#[test]
fn the_readme_is_one_screen_and_a_little() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("it is there");
    assert!(readme.len() <= 12 * 1024, "{} bytes", readme.len());
    assert!(readme.lines().count() <= 200, "{} lines", readme.lines().count());
}

/// The numbers with a decimal point in a text, and whole ones of three digits or more.
fn figures(text: &str) -> BTreeSet<String> {
    let is_of_a_number = |c: char| c.is_ascii_digit() || c == '.' || c == ',';
    text.split(|c| !is_of_a_number(c))
        .map(|number| number.trim_matches(['.', ',']).to_owned())
        .filter(|number| {
            let n_digit = number.chars().filter(char::is_ascii_digit).count();
            n_digit > 0 && (number.contains('.') || n_digit > 2)
        })
        .collect()
}

/// Of a page, what stands under a heading.
fn under<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page.split_once(heading).expect("the heading");
    rest.split("\n## ").next().unwrap_or(rest)
}

#[test]
fn every_figure_of_the_readme_has_its_row() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("a page");
    let (readme, results) = (read("README.md"), read("docs/src/results.md"));
    let known = figures(&results);
    let claimed = figures(under(&readme, "\n## Results\n"));
    assert!(claimed.len() > 10, "{claimed:?}");
    let missing: Vec<_> = claimed.difference(&known).collect();
    assert!(missing.is_empty(), "docs/src/results.md has no {missing:?}");
    assert!(results.contains("figures/session.svg"), "the times in the picture have no row");
    let page = read("docs/src/reference/architectures.md");
    let rows = page.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let rows: Vec<&str> = rows
        .take_while(|line| line.starts_with("| "))
        .filter(|line| !line.contains("| refused |"))
        .filter_map(|line| line.trim_start_matches("| ").split(' ').next())
        .collect();
    let n_form = rows.len();
    let n_architecture = rows.into_iter().collect::<BTreeSet<_>>().len();
    let said = format!("[{n_architecture} architectures]");
    assert!(
        readme.contains(&said) && readme.contains(&n_form.to_string()),
        "{said}, {n_form} forms"
    );
}

#[test]
fn every_result_says_by_what_command_where_when_and_from_which_commit() {
    let page = std::fs::read_to_string(root().join("docs/src/results.md")).expect("a page");
    let rows: Vec<Vec<&str>> = page
        .lines()
        .skip_while(|line| !line.starts_with("| figures "))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert!(rows.len() > 10);
    for row in &rows {
        let [_, command, machine, date, commit] = row[..] else { panic!("{row:?}") };
        if command.starts_with("not ours") {
            continue;
        }
        assert!(command.contains('`') || command.contains("the commands of"), "{row:?}");
        assert!(!machine.is_empty(), "{row:?}");
        let is_date = date.len() == 10 && date.split('-').all(|part| part.parse::<u32>().is_ok());
        assert!(is_date, "{row:?}");
        let is_hash = |hash: &str| hash.len() == 7 && hash.chars().all(|c| c.is_ascii_hexdigit());
        assert!(commit.split(", ").all(is_hash), "{row:?}");
    }
    // Every section is one of the rows, or a part of one.
    let linked: BTreeSet<String> = Page::read(Path::new("docs/src/results.md"))
        .links
        .into_iter()
        .filter_map(|link| link.strip_prefix('#').map(str::to_owned))
        .collect();
    let sections = page.lines().filter_map(|line| line.strip_prefix("## ")).map(anchor);
    let unlisted: Vec<_> = sections.filter(|section| !linked.contains(section)).collect();
    assert!(unlisted.is_empty(), "the table of results lacks {unlisted:?}");
}
