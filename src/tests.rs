//! The order of the crate's top-level modules, the names of its types, and the documents that are written from its
//! code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Uses of one top-level module by another, with a file of each.
type Edges = BTreeMap<String, BTreeMap<String, PathBuf>>;

/// Checks that a document has the expected text between two marks, or writes it there if that is asked for.
/// `test` is the name of the caller's test, by which it is written again.
pub(crate) fn check_document(name: &str, [begin, end]: [&str; 2], expected: &str, test: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let document = fs::read_to_string(&file).unwrap();
    let (before, rest) = document.split_once(begin).expect("where the table begins");
    let (found, after) = rest.split_once(end).expect("where the table ends");
    if std::env::var_os("PODKEEPER_WRITE_DOCS").is_some() {
        fs::write(&file, [before, begin, expected, end, after].concat()).unwrap();
        return;
    }
    assert!(
        found == expected,
        "{name} is not what the code says; to write it again: PODKEEPER_WRITE_DOCS=1 cargo test --lib {test}"
    );
}

/// Checks a table of a document likewise; `header` is its first line, such as `| flag | default |`.
pub(crate) fn check_table(
    name: &str,
    marks: [&str; 2],
    header: &str,
    rows: impl IntoIterator<Item = String>,
    test: &str,
) {
    let columns = header.matches('|').count().saturating_sub(1);
    let rule = format!("|{}", "---|".repeat(columns));
    let lines = [header.to_owned(), rule].into_iter().chain(rows);
    let lines: Vec<String> = lines.collect();
    check_document(name, marks, &format!("\n{}\n\n", lines.join("\n")), test);
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn is_unit_test(file: &Path) -> bool {
    file.to_string_lossy().ends_with("tests.rs")
}

/// Returns the names that stand after `crate::` in a source, outside of comments and unit tests.
fn used(source: &str) -> BTreeSet<String> {
    let (code, _) = source
        .split_once("#[cfg(test)]\nmod tests {")
        .unwrap_or((source, ""));
    let lines = code.lines().filter(|l| !l.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    let mut names = BTreeSet::new();
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        assert!(!rest.starts_with('{'), "one `use crate::` for each module");
        let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_');
        names.extend(name.take(1).map(str::to_owned));
    }
    names
}

fn edges(src: &Path) -> Edges {
    let mut files = vec![];
    sources(src, &mut files);
    files.retain(|file| !is_unit_test(file));
    let top = |file: &Path| {
        let first = file.strip_prefix(src).unwrap().iter().next().unwrap();
        first.to_string_lossy().trim_end_matches(".rs").to_owned()
    };
    let modules: BTreeSet<String> = files.iter().map(|file| top(file)).collect();
    let mut edges = Edges::new();
    for file in files {
        let from = top(&file);
        for to in used(&fs::read_to_string(&file).unwrap()) {
            if to != from && modules.contains(&to) {
                let inside = file.strip_prefix(src).unwrap().to_owned();
                let uses = edges.entry(from.clone()).or_default();
                uses.entry(to).or_insert(inside);
            }
        }
    }
    edges
}

/// Returns a way along edges that ends where it began, as text, if there is one.
fn cycle(edges: &Edges) -> Option<String> {
    fn walk(at: &str, edges: &Edges, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        way.push(at.to_owned());
        if way[..way.len() - 1].iter().any(|before| before == at) {
            return true;
        }
        if !done.contains(at) {
            for to in edges.get(at).into_iter().flat_map(BTreeMap::keys) {
                if walk(to, edges, way, done) {
                    return true;
                }
            }
        }
        done.insert(at.to_owned());
        way.pop();
        false
    }
    let mut done = BTreeSet::new();
    let mut ways = edges.keys().filter_map(|start| {
        let mut way = vec![];
        walk(start, edges, &mut way, &mut done).then_some(way)
    });
    let way = ways.next()?;
    let begin = way.iter().position(|name| Some(name) == way.last())?;
    let steps = way[begin..].windows(2).map(|step| {
        let file = edges[&step[0]][&step[1]].display();
        format!("{} uses {} in src/{file}", step[0], step[1])
    });
    Some(steps.collect::<Vec<_>>().join("\n"))
}

#[test]
fn no_top_level_modules_use_each_other_in_a_circle() {
    let edges = edges(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(edges["cli"].contains_key("config"), "{edges:?}");
    if let Some(cycle) = cycle(&edges) {
        panic!("modules use each other in a circle:\n{cycle}");
    }
}

#[test]
fn leaves_use_nothing_else_of_the_agent() {
    let edges = edges(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert_eq!(edges.get("units"), None);
    let host: Vec<&String> = edges["host"].keys().collect();
    assert_eq!(host, ["units"]);
}

#[test]
fn a_circle_is_found_and_its_edges_are_named() {
    let edge = |to: &str| BTreeMap::from([(to.to_owned(), PathBuf::from("x.rs"))]);
    let mut edges = Edges::from([("a".to_owned(), edge("b")), ("b".to_owned(), edge("c"))]);
    assert_eq!(cycle(&edges), None);
    edges.insert("c".to_owned(), edge("b"));
    let expected = "b uses c in src/x.rs\nc uses b in src/x.rs";
    assert_eq!(cycle(&edges).as_deref(), Some(expected));
}

/// Returns the name of the type that a line defines. Associated types have the names of their traits, and are
/// indented.
fn defined_type(line: &str) -> Option<&str> {
    let mut words = line
        .split_whitespace()
        .skip_while(|word| word.starts_with("pub"));
    let is_type = match words.next()? {
        "struct" | "enum" | "trait" => true,
        "type" => !line.starts_with(' '),
        _ => false,
    };
    let name = words.next().filter(|_| is_type)?;
    name.split(|c: char| !c.is_alphanumeric()).next()
}

#[test]
fn each_type_has_a_name_of_its_own() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![];
    sources(&src, &mut files);
    let mut types: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for file in files {
        let inside = file.strip_prefix(&src).unwrap();
        for name in fs::read_to_string(&file)
            .unwrap()
            .lines()
            .filter_map(defined_type)
        {
            types
                .entry(name.to_owned())
                .or_default()
                .push(inside.to_owned());
        }
    }
    assert!(types.len() > 300, "{types:?}");
    types.retain(|_, files| files.len() > 1);
    assert!(types.is_empty(), "names of several types: {types:#?}");
}

#[test]
fn the_types_that_a_source_defines_are_found() {
    for (line, name) in [
        ("struct A;", Some("A")),
        ("    pub(super) enum B<T> {", Some("B")),
        ("pub trait C: D {", Some("C")),
        ("type E = F;", Some("E")),
        ("    type E = F;", None),
        ("// struct A;", None),
        ("struct_a();", None),
    ] {
        assert_eq!(defined_type(line), name, "{line}");
    }
}
