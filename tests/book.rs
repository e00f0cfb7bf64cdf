//! The README and the book: every link leads somewhere, every page is listed.
#![cfg(feature = "cli")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use pulldown_cmark::{Event, LinkType, Options, Parser, Tag, TagEnd};

/// Made by `make book`.
const GENERATED: [&str; 1] = ["docs/src/reference/commands.md"];

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
            let is_generated = GENERATED.iter().any(|made| target == Path::new(made));
            let is_there = is_generated || root().join(&target).exists();
            let has_anchor = anchor.is_empty()
                || is_generated
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
        .chain(GENERATED.map(PathBuf::from))
        .collect();
    assert_eq!(listed, there);
}

#[test]
fn the_readme_is_one_screen_and_a_little() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("it is there");
    assert!(readme.len() <= 12 * 1024, "{} bytes", readme.len());
    assert!(readme.lines().count() <= 200, "{} lines", readme.lines().count());
}
