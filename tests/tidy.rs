//! The house's rules as a test: layers, homes of what only one place may do, sizes, metric names.
//! It reads every file under `src/` as tokens, so that a path counts wherever it stands: in a
//! `use`, a body, a macro, or a string inside an attribute.

#![allow(clippy::unwrap_used)]

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use syn::spanned::Spanned as _;
use syn::visit::Visit;
use tertulia::telemetry::names::METRICS;

/// The layers of the house, lowest first. Every module directly under `src/` is in one of them.
const LAYERS: &[&[&str]] = &[
    &["base"],
    &["crdt", "config", "telemetry"],
    &["message", "layout", "security"],
    &["protocol"],
    &["store", "rpc", "membership"],
    &["metadata"],
    &["replication"],
    &["broker"],
    &["api"],
    &["node", "bench"],
    &["cli"],
    &["main"],
];

/// Crates that only the named modules may use.
const CRATES: &[(&[&str], &[&str])] = &[
    (&["redb"], &["store"]),
    (&["chitchat"], &["membership"]),
    (&["poem", "poem_openapi"], &["api"]),
    (&["anyhow"], &["main", "cli"]),
];

/// Modules that decide and do nothing: they know no runtime.
const PURE: &[&str] = &["protocol", "message", "layout", "crdt"];
const RUNTIME: &[&str] = &["tokio", "tokio_util"];

/// Modules whose decisions must not hang on the order of a hash table.
const DECIDING: &[&str] = &["protocol", "replication", "metadata", "broker"];

const TIME: &[&str] = &["src/base/clock.rs"];
const ENTROPY: &[&str] = &["src/base/rng.rs"];
const TASKS: &[&str] = &["src/base/seams.rs"];
const FILES: &[&str] = &["src/node/", "src/cli/"];

/// Paths that are used only in their homes. A path breaks the rule if it has these names in a row.
const BANS: &[(&[&str], &[&str])] = &[
    (&["SystemTime", "now"], TIME),
    (&["Instant", "now"], TIME),
    (&["rand", "rng"], ENTROPY),
    (&["rand", "random"], ENTROPY),
    (&["thread_rng"], ENTROPY),
    (&["OsRng"], ENTROPY),
    (&["getrandom"], ENTROPY),
    (&["Uuid", "new_v4"], ENTROPY),
    (&["tokio", "spawn"], TASKS),
    (&["task", "spawn"], TASKS),
    (&["spawn_blocking"], TASKS),
    (&["thread", "spawn"], TASKS),
    (&["thread", "Builder"], TASKS),
    (&["fs", "write"], FILES),
];

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
/// Files that are one long table.
const TABLES: &str = "src/api/spec/";

/// A path as it stands in a file.
#[derive(Debug)]
struct PathUse {
    line: usize,
    /// The module it stands in.
    module: Vec<String>,
    names: Vec<String>,
    /// It follows a dot: a method or a field.
    member: bool,
    /// What follows it.
    next: Option<char>,
    /// `as` follows it.
    renamed: bool,
}

/// A metric as it is recorded.
struct Recorded {
    line: usize,
    kind: String,
    name: String,
}

/// What the tokens of a file say.
#[derive(Default)]
struct Reading {
    paths: Vec<PathUse>,
    recorded: Vec<Recorded>,
    /// First and last lines of what is compiled for tests only.
    tests: Vec<(usize, usize)>,
    /// Modules declared here that have files of their own.
    declared: Vec<Declared>,
    /// The `#[path = "…"]` of the module that comes next.
    next_file: Option<String>,
}

/// A module declared with a file of its own.
struct Declared {
    line: usize,
    module: Vec<String>,
    /// Its file beside the declaring one, where it is not the usual one.
    file: Option<String>,
}

impl Reading {
    fn of(stream: TokenStream, module: &[String]) -> Self {
        let mut reading = Self::default();
        reading.walk(stream, &mut module.to_vec(), None, false);
        reading
    }

    fn is_test(&self, line: usize) -> bool {
        self.tests.iter().any(|(first, last)| (*first..=*last).contains(&line))
    }

    /// `line` is where a string stands whose tokens these are; `strings` looks into strings.
    fn walk(
        &mut self,
        stream: TokenStream,
        module: &mut Vec<String>,
        line: Option<usize>,
        strings: bool,
    ) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            if let Some((inner, bang, end)) = attribute(&tokens, at) {
                self.attribute(&tokens, (at, end), inner, bang, module);
                at = end;
                continue;
            }
            match &tokens[at] {
                TokenTree::Ident(word) if word == "mod" => {
                    at = self.module(&tokens, at, module, line, strings);
                }
                TokenTree::Ident(_) => {
                    let member = at > 0 && is_punct(&tokens[at - 1], '.');
                    at = self.path(&tokens, at, &[], member, module, line);
                }
                TokenTree::Group(group) => {
                    self.walk(group.stream(), module, line, strings);
                    at += 1;
                }
                TokenTree::Literal(literal) => {
                    if let (true, Some(text)) = (strings, text_of(literal))
                        && let Ok(inner) = TokenStream::from_str(&text)
                    {
                        let line = Some(line_of(&tokens[at], line));
                        self.walk(inner, module, line, false);
                    }
                    at += 1;
                }
                TokenTree::Punct(_) => at += 1,
            }
        }
    }

    /// An attribute at `at..end`: strings in it are looked into, and `cfg(test)` marks what
    /// follows.
    fn attribute(
        &mut self,
        tokens: &[TokenTree],
        (at, end): (usize, usize),
        inner: &Group,
        bang: bool,
        module: &mut Vec<String>,
    ) {
        let mut words = inner.stream().into_iter();
        let first = words.next().map(|t| t.to_string()).unwrap_or_default();
        if first == "doc" {
            return;
        }
        if first == "path" {
            let literal = inner.stream().into_iter().nth(2).map(|t| t.to_string());
            self.next_file = literal.map(|text| text.trim_matches('"').to_owned());
        }
        self.walk(inner.stream(), module, None, true);
        let rest = words.map(|t| t.to_string()).collect::<String>();
        let condition = first == "cfg" && rest.contains("test") && !rest.contains("not");
        let test = first == "test" && rest.is_empty();
        if !condition && !test {
            return;
        }
        if bang {
            self.tests.push((0, usize::MAX));
            return;
        }
        let ends = |t: &TokenTree| {
            is_punct(t, ';')
                || matches!(t, TokenTree::Group(g) if g.delimiter() == Delimiter::Brace)
        };
        let last = (end..tokens.len()).find(|i| ends(&tokens[*i])).unwrap_or(tokens.len() - 1);
        self.tests.push((line_of(&tokens[at], None), tokens[last].span().end().line));
    }

    fn module(
        &mut self,
        tokens: &[TokenTree],
        at: usize,
        module: &mut Vec<String>,
        line: Option<usize>,
        strings: bool,
    ) -> usize {
        if let (Some(name), Some(TokenTree::Group(body))) = (tokens.get(at + 1), tokens.get(at + 2))
        {
            module.push(name.to_string());
            self.walk(body.stream(), module, line, strings);
            module.pop();
            return at + 3;
        }
        if let Some(name) = tokens.get(at + 1) {
            let line = line_of(name, line);
            let module = module.iter().cloned().chain([name.to_string()]).collect();
            self.declared.push(Declared { line, module, file: self.next_file.take() });
        }
        at + 2
    }

    /// Notes a metric where `rest` is the call of one of the recording macros.
    fn metric(&mut self, line: usize, kind: &str, rest: &[TokenTree]) {
        let [bang, TokenTree::Group(inner), ..] = rest else { return };
        if !["counter", "gauge", "histogram"].contains(&kind) || !is_punct(bang, '!') {
            return;
        }
        if let Some(TokenTree::Literal(name)) = inner.stream().into_iter().next() {
            let (kind, name) = (kind.to_owned(), text_of(&name).unwrap_or_default());
            self.recorded.push(Recorded { line, kind, name });
        }
    }

    /// Reads the path that begins at `at`, with all branches of a `use` tree; returns where it
    /// ends.
    fn path(
        &mut self,
        tokens: &[TokenTree],
        mut at: usize,
        prefix: &[String],
        member: bool,
        module: &[String],
        line: Option<usize>,
    ) -> usize {
        let start = line_of(&tokens[at], line);
        let mut names = prefix.to_vec();
        loop {
            let name = tokens[at].to_string();
            if name != "self" || names.is_empty() {
                names.push(name.trim_start_matches("r#").to_owned());
            }
            at += 1;
            if !(at + 2 < tokens.len()
                && is_punct(&tokens[at], ':')
                && is_punct(&tokens[at + 1], ':'))
            {
                break;
            }
            match &tokens[at + 2] {
                TokenTree::Ident(_) => at += 2,
                TokenTree::Punct(p) if p.as_char() == '*' => at += 2,
                TokenTree::Group(branches) if branches.delimiter() == Delimiter::Brace => {
                    self.branches(branches, &names, module, line);
                    return at + 3;
                }
                _ => break,
            }
        }
        self.metric(start, names.last().unwrap(), &tokens[at..]);
        let next = tokens.get(at).and_then(|t| t.to_string().chars().next());
        let renamed = tokens.get(at).is_some_and(|t| t.to_string() == "as");
        let module = module.to_vec();
        self.paths.push(PathUse { line: start, module, names, member, next, renamed });
        at
    }

    fn branches(
        &mut self,
        branches: &Group,
        prefix: &[String],
        module: &[String],
        line: Option<usize>,
    ) {
        let tokens: Vec<TokenTree> = branches.stream().into_iter().collect();
        for branch in tokens.split(|t| is_punct(t, ',')).filter(|b| !b.is_empty()) {
            self.path(branch, 0, prefix, false, module, line);
        }
    }
}

fn attribute(tokens: &[TokenTree], at: usize) -> Option<(&Group, bool, usize)> {
    if !is_punct(&tokens[at], '#') {
        return None;
    }
    let bang = tokens.get(at + 1).is_some_and(|t| is_punct(t, '!'));
    match tokens.get(at + 1 + usize::from(bang)) {
        Some(TokenTree::Group(inner)) if inner.delimiter() == Delimiter::Bracket => {
            Some((inner, bang, at + 2 + usize::from(bang)))
        }
        _ => None,
    }
}

fn is_punct(token: &TokenTree, c: char) -> bool {
    matches!(token, TokenTree::Punct(p) if p.as_char() == c)
}

fn line_of(token: &TokenTree, line: Option<usize>) -> usize {
    line.unwrap_or_else(|| token.span().start().line)
}

fn text_of(literal: &proc_macro2::Literal) -> Option<String> {
    syn::parse_str::<syn::LitStr>(&literal.to_string()).ok().map(|text| text.value())
}

/// A rule and where it is broken.
#[derive(Debug, PartialEq, Eq)]
struct Breach {
    rule: &'static str,
    file: String,
    line: usize,
    what: String,
}

/// A file under examination.
struct Source<'a> {
    /// Like `src/api/mod.rs`.
    path: String,
    module: Vec<String>,
    text: &'a str,
    /// The name right under `src/`; `None` for `lib.rs`.
    room: Option<String>,
    reading: Reading,
    /// All of it is compiled for tests only.
    test_only: bool,
    functions: usize,
    breaches: Vec<Breach>,
}

impl<'a> Source<'a> {
    fn read(path: &str, text: &'a str) -> Self {
        Self::read_as(path, module_of(path), text)
    }

    fn read_as(path: &str, module: Vec<String>, text: &'a str) -> Self {
        let stream = TokenStream::from_str(text).unwrap_or_else(|e| panic!("{path}: {e}"));
        let reading = Reading::of(stream, &module);
        let test_only = reading.tests.contains(&(0, usize::MAX));
        let room = module.first().cloned();
        let (path, functions, breaches) = (path.to_owned(), 0, Vec::new());
        Self { path, module, text, room, reading, test_only, functions, breaches }
    }

    fn breach(&mut self, rule: &'static str, line: usize, what: impl Into<String>) {
        let (file, what) = (self.path.clone(), what.into());
        self.breaches.push(Breach { rule, file, line, what });
    }

    fn check(&mut self) {
        let paths = std::mem::take(&mut self.reading.paths);
        for path in &paths {
            self.check_layer(path);
            if !self.test_only && !self.reading.is_test(path.line) {
                self.check_crate(path);
                self.check_bans(path, &paths);
                self.check_hash_tables(path);
            }
        }
        self.check_metrics();
        if !self.test_only {
            self.check_sizes();
            if !self.text.starts_with("//!") {
                self.breach("docs", 1, "a file opens with what it is for (//!)");
            }
        }
    }

    fn check_layer(&mut self, path: &PathUse) {
        let Some(room) = self.room.clone() else { return };
        let Some(own) = layer_of(&room) else {
            return self.breach("layer", path.line, format!("`{room}` has no layer"));
        };
        let Some(rest) = from_root(path) else { return };
        match rest.first().map(String::as_str) {
            None | Some("*") => {
                self.breach("layer", path.line, "the root of the crate, whole");
            }
            Some(other) if other != room => {
                if layer_of(other).is_some_and(|layer| layer >= own) {
                    let what = format!("`{room}` (layer {own}) uses `{other}`");
                    self.breach("layer", path.line, what);
                }
            }
            Some(_) => {}
        }
    }

    fn check_crate(&mut self, path: &PathUse) {
        let Some(room) = self.room.clone().filter(|_| !path.member) else { return };
        let name = &*path.names[0];
        for (crates, homes) in CRATES {
            if crates.contains(&name) && !homes.contains(&&*room) {
                self.breach("crate", path.line, format!("`{name}` belongs to {homes:?}"));
            }
        }
        if RUNTIME.contains(&name) && PURE.contains(&&*room) {
            self.breach("pure", path.line, format!("`{room}` knows no {name}"));
        }
    }

    fn check_bans(&mut self, path: &PathUse, all: &[PathUse]) {
        for (banned, homes) in BANS {
            if !has_in_a_row(&path.names, banned) || homes.iter().any(|h| self.path.starts_with(h))
            {
                continue;
            }
            // tokio's clock is the runtime's, which a simulation drives.
            let tokio = ["tokio", "time", "Instant"];
            if banned == &["Instant", "now"]
                && (path.names[0] == "tokio"
                    || path.names.len() == 2 && all.iter().any(|p| p.names == tokio))
            {
                continue;
            }
            let what = format!("`{}` belongs to {homes:?}", banned.join("::"));
            self.breach("ban", path.line, what);
        }
        let unfinished = ["todo", "unimplemented"].contains(&&**path.names.last().unwrap());
        if unfinished && path.next == Some('!') {
            self.breach("unfinished", path.line, path.names.join("::"));
        }
    }

    fn check_hash_tables(&mut self, path: &PathUse) {
        if !self.room.as_deref().is_some_and(|room| DECIDING.contains(&room)) {
            return;
        }
        let hashed = path.names.iter().any(|name| name == "HashMap" || name == "HashSet");
        let line = self.text.lines().nth(path.line - 1).unwrap_or_default();
        if hashed && !line.contains("// lookup only") {
            let what = "a hash table where decisions are made: BTreeMap, or `// lookup only`";
            self.breach("hash", path.line, what);
        }
    }

    fn check_metrics(&mut self) {
        for Recorded { line, kind, name } in std::mem::take(&mut self.reading.recorded) {
            if self.test_only || self.reading.is_test(line) {
                continue;
            }
            match METRICS.iter().find(|metric| metric.name == name) {
                None => self.breach("metric", line, format!("{name} is not in telemetry::names")),
                Some(metric) if metric.kind.word() != kind => {
                    self.breach("metric", line, format!("{name} is a {}", metric.kind.word()));
                }
                Some(_) => {}
            }
        }
    }

    fn check_sizes(&mut self) {
        let file = syn::parse_file(self.text).unwrap_or_else(|e| panic!("{}: {e}", self.path));
        let mut functions = Functions::default();
        functions.visit_file(&file);
        functions.found.retain(|(_, line, _)| !self.reading.is_test(*line));
        self.functions = functions.found.len();
        if self.path.starts_with(TABLES) {
            return;
        }
        for (name, line, lines) in functions.found {
            if lines > FUNCTION_LINES_MAX {
                self.breach("function size", line, format!("`{name}` has {lines} lines"));
            }
        }
        let all = self.text.lines().count();
        let lines = (1..=all).filter(|line| !self.reading.is_test(*line)).count();
        if lines > FILE_LINES_MAX {
            self.breach("file size", 1, format!("{lines} lines without its tests"));
        }
    }
}

/// Where a path leads from the crate's root; `None` when it does not lead from there.
fn from_root(path: &PathUse) -> Option<Vec<String>> {
    let names = &path.names;
    match names[0].as_str() {
        // `pub(crate)` is the word alone.
        "crate" if names.len() == 1 && !path.renamed => None,
        "crate" => Some(names[1..].to_vec()),
        "tertulia" if names.len() > 1 => Some(names[1..].to_vec()),
        "super" => {
            let ups = names.iter().take_while(|name| *name == "super").count();
            // `pub(super)` is the word alone.
            if ups == names.len() && ups == 1 && !path.renamed {
                return None;
            }
            let up = path.module.len().saturating_sub(ups);
            Some(path.module[..up].iter().chain(&names[ups..]).cloned().collect())
        }
        _ => None,
    }
}

fn layer_of(room: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&room))
}

fn has_in_a_row(names: &[String], wanted: &[&str]) -> bool {
    names.windows(wanted.len()).any(|window| window == wanted)
}

/// The module that a file under `src/` holds.
fn module_of(path: &str) -> Vec<String> {
    let inner = path.strip_prefix("src/").unwrap().strip_suffix(".rs").unwrap();
    let mut module: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
        module.pop();
    }
    module
}

/// Collects functions with their first line and how many lines they have, signature included,
/// attributes and docs left out.
#[derive(Default)]
struct Functions {
    found: Vec<(String, usize, usize)>,
}

impl Functions {
    fn add(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let first = signature.span().start().line;
        let lines = block.span().end().line - first + 1;
        self.found.push((signature.ident.to_string(), first, lines));
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.add(&function.sig, &function.block);
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.add(&function.sig, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.add(&function.sig, block);
        }
        syn::visit::visit_trait_item_fn(self, function);
    }
}

fn source_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Gives files behind a `#[path]` their module, and marks what is declared for tests only.
fn settle_modules(sources: &mut [Source<'_>]) {
    let mut placed = BTreeMap::new();
    let mut tests = BTreeSet::new();
    for source in sources.iter() {
        for Declared { line, module, file } in &source.reading.declared {
            if let Some(file) = file {
                let beside = Path::new(&source.path).with_file_name(file);
                placed.insert(beside.to_str().unwrap().to_owned(), module.clone());
            }
            if source.reading.is_test(*line) {
                tests.insert(module.clone());
            }
        }
    }
    for source in sources {
        if let Some(module) = placed.get(&source.path) {
            *source = Source::read_as(&source.path, module.clone(), source.text);
        }
        let module = &source.module;
        source.test_only |= (1..=module.len()).any(|n| tests.contains(&module[..n]));
    }
}

#[test]
fn the_house_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    source_files(&root.join("src"), &mut files);
    files.sort();
    let texts: Vec<(String, String)> = files
        .iter()
        .map(|file| {
            let name = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(file).unwrap())
        })
        .collect();
    let mut sources: Vec<Source<'_>> = texts.iter().map(|(p, t)| Source::read(p, t)).collect();
    settle_modules(&mut sources);
    sources.iter_mut().for_each(Source::check);
    let functions: usize = sources.iter().map(|source| source.functions).sum();
    let breaches: Vec<Breach> = sources.iter_mut().flat_map(|s| s.breaches.drain(..)).collect();
    println!("tidy: {} files, {functions} functions checked", sources.len());
    assert!(!sources.is_empty() && functions > 0, "nothing was checked");
    let said: Vec<String> =
        breaches.iter().map(|b| format!("{}:{}: {}: {}", b.file, b.line, b.rule, b.what)).collect();
    assert!(said.is_empty(), "{} breaches\n{}", said.len(), said.join("\n"));
}

/// The rules that a file of this path and text breaks.
fn broken(path: &str, text: &str) -> Vec<&'static str> {
    let text = format!("//! x\n{text}");
    let mut source = Source::read(path, &text);
    source.check();
    let mut rules: Vec<_> = source.breaches.iter().map(|breach| breach.rule).collect();
    rules.dedup();
    rules
}

#[test]
fn upward_and_sideways_uses_are_seen_wherever_they_stand() {
    for text in [
        "use crate::api::x;",
        "use crate::{base::ids, api};",
        "use crate::{base, broker::{users, queues::Y}};",
        "fn f() { crate::api::x(); }",
        "fn f() { let x: Vec<crate::api::X> = Vec::new(); }",
        "fn f() { println!(\"{}\", crate::api::X); }",
        "use super::super::api;",
        "mod inner { use super::super::super::api::x; }",
        "mod inner { fn f() { g!(super::super::super::api::x) } }",
        "#[derive(A)] #[oai(checker = \"crate::api::check\")] struct S;",
        "#[serde(with = \"super::super::api::x\")] struct S;",
        "use crate as house;",
        "use crate::*;",
        "use super::super as house;",
        "use tertulia::api::x;",
        "macro_rules! m { () => { $crate::api::x() }; }",
        "#[cfg(test)] mod tests { use crate::api::x; }",
        "use crate::rpc::x;",
        "use crate::membership;",
    ] {
        assert_eq!(broken("src/store/file.rs", text), ["layer"], "{text}");
    }
    for text in [
        "use crate::base::ids; use super::x; use super::super::base::ids; use crate::store::y;",
        "use crate::protocol::{record, vote}; pub(crate) fn f() {} pub(super) fn g() {}",
        "fn f() { crate::invariant!(true, \"R1\", \"x\"); }",
        "/// See [`crate::api::x`].\nstruct S { api: u8 }",
        "mod inner { use super::super::x; }",
    ] {
        assert_eq!(broken("src/store/file.rs", text), [""; 0], "{text}");
    }
    assert_eq!(broken("src/attic/mod.rs", "use std::fmt;"), ["layer"]);
    assert_eq!(broken("src/node/mod.rs", "use crate::cli::x;"), ["layer"]);
    assert_eq!(broken("src/main.rs", "use tertulia::api::x; use tertulia::broker;"), [""; 0]);
    assert_eq!(broken("src/lib.rs", "pub mod api; pub mod base;"), [""; 0]);
}

#[test]
fn what_has_a_home_is_seen_elsewhere() {
    for text in [
        "fn f() { SystemTime::now(); }",
        "fn f() { std::time::Instant::now(); }",
        "use std::time::Instant; fn f() { Instant::now(); }",
        "fn f() { rand::rng(); }",
        "fn f(b: &mut [u8]) { getrandom::fill(b); }",
        "use getrandom;",
        "fn f() { Uuid::new_v4(); }",
        "fn f() { tokio::spawn(async {}); }",
        "use tokio::{spawn, time};",
        "fn f() { tokio::task::spawn(async {}); }",
        "fn f() { tokio::task::spawn_blocking(|| 1); }",
        "fn f(h: Handle) { h.spawn_blocking(|| 1); }",
        "fn f() { std::thread::spawn(|| 1); }",
        "fn f() { thread::Builder::new(); }",
        "fn f() { std::fs::write(\"a\", \"b\"); }",
        "use std::fs::{self, write};",
        "fn f() { vec![fs::write(\"a\", \"b\")]; }",
    ] {
        assert_eq!(broken("src/store/file.rs", text), ["ban"], "{text}");
        assert_eq!(
            broken("src/store/file.rs", &format!("#[cfg(test)] mod t {{ {text} }}")),
            [""; 0]
        );
        assert_eq!(
            broken("src/store/file.rs", &format!("#[cfg(not(test))] mod t {{ {text} }}")),
            ["ban"]
        );
    }
    for (path, text) in [
        ("src/base/clock.rs", "fn f() { SystemTime::now(); }"),
        ("src/base/rng.rs", "fn f(b: &mut [u8]) { getrandom::fill(b); }"),
        ("src/base/seams.rs", "fn f() { tokio::spawn(async {}); std::thread::Builder::new(); }"),
        ("src/node/mod.rs", "fn f() { std::fs::write(\"a\", \"b\"); }"),
        ("src/cli/mod.rs", "fn f() { std::fs::write(\"a\", \"b\"); }"),
        ("src/store/file.rs", "fn f() { tokio::time::Instant::now(); }"),
        ("src/store/file.rs", "use tokio::time::Instant; fn f() { Instant::now(); }"),
    ] {
        assert_eq!(broken(path, text), [""; 0], "{path}: {text}");
    }
}

#[test]
fn crates_stay_in_their_rooms() {
    for (path, text, rule) in [
        ("src/broker/a.rs", "use redb::Database;", "crate"),
        ("src/node/a.rs", "fn f() { chitchat::x(); }", "crate"),
        ("src/broker/a.rs", "use poem::Request;", "crate"),
        ("src/node/a.rs", "use poem_openapi::OpenApi;", "crate"),
        ("src/broker/a.rs", "fn f() -> anyhow::Result<()> { Ok(()) }", "crate"),
        ("src/protocol/a.rs", "use tokio::sync::watch;", "pure"),
        ("src/crdt/a.rs", "use tokio::sync::watch;", "pure"),
        ("src/layout/a.rs", "fn f() { tokio_util::x(); }", "pure"),
        ("src/message/a.rs", "#[tokio::test] fn f() {}", "pure"),
    ] {
        assert_eq!(broken(path, text), [rule], "{path}: {text}");
    }
    for (path, text) in [
        ("src/store/a.rs", "use redb::Database; use tokio::sync::watch;"),
        ("src/membership/a.rs", "use chitchat::x;"),
        ("src/api/a.rs", "use poem::Request; use poem_openapi::OpenApi;"),
        ("src/main.rs", "fn main() -> anyhow::Result<()> { Ok(()) }"),
        ("src/broker/a.rs", "fn f(x: X) { x.redb; x.poem(); }"),
    ] {
        assert_eq!(broken(path, text), [""; 0], "{path}: {text}");
    }
}

#[test]
fn unfinished_work_hash_tables_and_unknown_metrics_are_seen() {
    for (path, text, rule) in [
        ("src/api/a.rs", "fn f() { todo!() }", "unfinished"),
        ("src/api/a.rs", "fn f() { std::unimplemented!(\"x\") }", "unfinished"),
        ("src/broker/a.rs", "use std::collections::HashMap;", "hash"),
        ("src/metadata/a.rs", "struct S { x: std::collections::HashSet<u8> }", "hash"),
        ("src/api/a.rs", "fn f() { metrics::counter!(\"tertulia_x_total\"); }", "metric"),
        ("src/api/a.rs", "fn f() { gauge!(\"tertulia_leases_total\"); }", "metric"),
    ] {
        assert_eq!(broken(path, text), [rule], "{path}: {text}");
    }
    for (path, text) in [
        ("src/api/a.rs", "use std::collections::HashMap; fn todo() { todo(); }"),
        ("src/broker/a.rs", "use std::collections::HashMap; // lookup only: by name"),
        (
            "src/api/a.rs",
            "fn f() { metrics::counter!(\"tertulia_leases_total\", \"a\" => \"b\"); }",
        ),
    ] {
        assert_eq!(broken(path, text), [""; 0], "{path}: {text}");
    }
}

#[test]
fn long_files_and_functions_are_seen() {
    let lines = |n: usize, line: &str| format!("{line}\n").repeat(n);
    let function = |n| format!("/// Doc.\n#[inline]\nfn f() {{\n{}}}\n", lines(n, "    g();"));
    assert_eq!(broken("src/api/a.rs", &function(68)), [""; 0]);
    assert_eq!(broken("src/api/a.rs", &function(69)), ["function size"]);
    assert_eq!(
        broken("src/api/a.rs", &format!("trait T {{ {} }}", function(69))),
        ["function size"]
    );
    assert_eq!(
        broken("src/api/a.rs", &format!("impl T {{ {} }}", function(69))),
        ["function size"]
    );
    assert_eq!(broken("src/api/spec/a.rs", &function(600)), [""; 0]);
    let constants = |n| lines(n, "const A: u8 = 0;");
    assert_eq!(broken("src/api/a.rs", &constants(499)), [""; 0]);
    assert_eq!(broken("src/api/a.rs", &constants(500)), ["file size"]);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}{}}}\n", constants(600), function(100));
    assert_eq!(broken("src/api/a.rs", &format!("{}{tests}", constants(499))), [""; 0]);
    assert_eq!(broken("src/api/a.rs", &format!("#![cfg(test)]\n{}", constants(600))), [""; 0]);
    let mut source = Source::read("src/api/a.rs", "use std::fmt;");
    source.check();
    assert_eq!(source.breaches[0].rule, "docs");
}

#[test]
fn files_declared_for_tests_only_are_known() {
    let texts = [
        ("src/api/x.rs", "#[cfg(test)]\nmod tests;\n#[cfg(test)]\nmod in_place { }\nmod real;"),
        ("src/api/x/tests.rs", "mod deeper;"),
        ("src/api/x/tests/deeper.rs", ""),
        ("src/api/x/real.rs", ""),
        ("src/api/y.rs", "#[cfg(test)]\n#[path = \"y_tests.rs\"]\nmod tests;"),
        ("src/api/y_tests.rs", "use super::super::*;"),
        ("src/api/z.rs", "#[path = \"z_real.rs\"]\nmod real;"),
        ("src/api/z_real.rs", "use super::super::super::node;"),
    ];
    let mut sources: Vec<_> = texts.iter().map(|(p, t)| Source::read(p, t)).collect();
    settle_modules(&mut sources);
    sources.iter_mut().for_each(Source::check);
    let tests: Vec<_> = sources.iter().filter(|s| s.test_only).map(|s| s.path.as_str()).collect();
    let expected = ["src/api/x/tests.rs", "src/api/x/tests/deeper.rs", "src/api/y_tests.rs"];
    assert_eq!(tests, expected);
    let breaches = sources.iter().flat_map(|s| &s.breaches).filter(|b| b.rule == "layer");
    assert_eq!(breaches.map(|b| b.file.as_str()).collect::<Vec<_>>(), ["src/api/z_real.rs"]);
}
