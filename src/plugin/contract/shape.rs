//! Types of two worlds side by side: where they differ, by the names on the way there.
//!
//! Called by `contract`.

use std::collections::BTreeSet;

use wit_parser::{Function, Handle, Resolve, Type, TypeDefKind, TypeId};

/// Deepest nesting that is compared; the contract's own types end long before.
const MAX_DEPTH: usize = 32;

/// One difference.
pub(super) struct Difference {
    /// As in `parameter call: record call, field input`.
    pub(super) place: String,
    pub(super) want: String,
    pub(super) got: String,
}

/// The contract and a component.
pub(super) struct Pair<'a> {
    pub(super) want: &'a Resolve,
    pub(super) got: &'a Resolve,
}

struct Walk<'a> {
    pair: &'a Pair<'a>,
    seen: BTreeSet<(usize, usize)>,
    out: Vec<Difference>,
}

impl Pair<'_> {
    pub(super) fn functions(&self, want: &Function, got: &Function) -> Vec<Difference> {
        let mut walk = Walk { pair: self, seen: BTreeSet::new(), out: Vec::new() };
        if want.params.len() != got.params.len() {
            let list = |r: &Resolve, f: &Function| {
                let all: Vec<String> = f.params.iter().map(|p| format!("{}: {}", p.name, text(r, &p.ty))).collect();
                format!("({})", all.join(", "))
            };
            walk.say("parameters".to_owned(), list(self.want, want), list(self.got, got));
        } else {
            for (w, g) in want.params.iter().zip(&got.params) {
                walk.types(&w.ty, &g.ty, &format!("parameter {}", w.name), 0);
            }
        }
        match (&want.result, &got.result) {
            (None, None) => {}
            (Some(w), Some(g)) => walk.types(w, g, "result", 0),
            (w, g) => {
                let show = |r: &Resolve, t: &Option<Type>| t.as_ref().map_or_else(|| "nothing".to_owned(), |t| text(r, t));
                walk.say("result".to_owned(), show(self.want, w), show(self.got, g));
            }
        }
        walk.out
    }
}

impl Walk<'_> {
    fn say(&mut self, place: String, want: String, got: String) {
        self.out.push(Difference { place, want, got });
    }

    fn types(&mut self, want: &Type, got: &Type, place: &str, depth: usize) {
        let (want, got) = (plain(self.pair.want, want), plain(self.pair.got, got));
        let (Type::Id(w), Type::Id(g)) = (want, got) else {
            if want != got {
                self.say(place.to_owned(), text(self.pair.want, &want), text(self.pair.got, &got));
            }
            return;
        };
        if depth > MAX_DEPTH || !self.seen.insert((w.index(), g.index())) {
            return;
        }
        self.kinds(w, g, place, depth + 1);
    }

    fn kinds(&mut self, w: TypeId, g: TypeId, place: &str, depth: usize) {
        let (ours, theirs) = (&self.pair.want.types[w], &self.pair.got.types[g]);
        let name = ours.name.clone().unwrap_or_default();
        match (&ours.kind, &theirs.kind) {
            (TypeDefKind::Record(a), TypeDefKind::Record(b)) => {
                let (a_names, b_names) =
                    (a.fields.iter().map(|f| f.name.as_str()).collect(), b.fields.iter().map(|f| f.name.as_str()).collect());
                if self.same_names(&format!("record {name}"), "field", a_names, b_names) {
                    for (a, b) in a.fields.iter().zip(&b.fields) {
                        self.types(&a.ty, &b.ty, &format!("record {name}, field {}", a.name), depth);
                    }
                }
            }
            (TypeDefKind::Variant(a), TypeDefKind::Variant(b)) => {
                let (a_names, b_names) =
                    (a.cases.iter().map(|c| c.name.as_str()).collect(), b.cases.iter().map(|c| c.name.as_str()).collect());
                if self.same_names(&format!("variant {name}"), "case", a_names, b_names) {
                    for (a, b) in a.cases.iter().zip(&b.cases) {
                        self.maybe(a.ty.as_ref(), b.ty.as_ref(), &format!("variant {name}, case {}", a.name), depth);
                    }
                }
            }
            (TypeDefKind::Enum(a), TypeDefKind::Enum(b)) => {
                let (a, b) = (a.cases.iter().map(|c| c.name.as_str()).collect(), b.cases.iter().map(|c| c.name.as_str()).collect());
                self.same_names(&format!("enum {name}"), "case", a, b);
            }
            (TypeDefKind::Flags(a), TypeDefKind::Flags(b)) => {
                let (a, b) = (a.flags.iter().map(|c| c.name.as_str()).collect(), b.flags.iter().map(|c| c.name.as_str()).collect());
                self.same_names(&format!("flags {name}"), "flag", a, b);
            }
            (TypeDefKind::Option(a), TypeDefKind::Option(b)) | (TypeDefKind::List(a), TypeDefKind::List(b)) => {
                self.types(a, b, place, depth);
            }
            (TypeDefKind::Tuple(a), TypeDefKind::Tuple(b)) if a.types.len() == b.types.len() => {
                for (a, b) in a.types.iter().zip(&b.types) {
                    self.types(a, b, place, depth);
                }
            }
            (TypeDefKind::Result(a), TypeDefKind::Result(b)) => {
                self.maybe(a.ok.as_ref(), b.ok.as_ref(), &format!("{place}, ok"), depth);
                self.maybe(a.err.as_ref(), b.err.as_ref(), &format!("{place}, error"), depth);
            }
            (TypeDefKind::Handle(Handle::Own(a)), TypeDefKind::Handle(Handle::Own(b)))
            | (TypeDefKind::Handle(Handle::Borrow(a)), TypeDefKind::Handle(Handle::Borrow(b)))
                if self.pair.want.types[*a].name == self.pair.got.types[*b].name => {}
            _ => {
                let (want, got) = (text(self.pair.want, &Type::Id(w)), text(self.pair.got, &Type::Id(g)));
                let of = |r: &Resolve, id: TypeId| r.types[id].kind.as_str();
                let (want, got) = if want == got {
                    (format!("{} {want}", of(self.pair.want, w)), format!("{} {got}", of(self.pair.got, g)))
                } else {
                    (want, got)
                };
                self.say(place.to_owned(), want, got);
            }
        }
    }

    fn maybe(&mut self, want: Option<&Type>, got: Option<&Type>, place: &str, depth: usize) {
        match (want, got) {
            (Some(w), Some(g)) => self.types(w, g, place, depth),
            (None, None) => {}
            (w, g) => {
                let show = |r: &Resolve, t: Option<&Type>| t.map_or_else(|| "nothing".to_owned(), |t| text(r, t));
                self.say(place.to_owned(), show(self.pair.want, w), show(self.pair.got, g));
            }
        }
    }

    /// Whether both have the same names in the same order; says which are missing, more or elsewhere.
    fn same_names(&mut self, place: &str, what: &str, want: Vec<&str>, got: Vec<&str>) -> bool {
        if want == got {
            return true;
        }
        let missing: Vec<&str> = want.iter().filter(|n| !got.contains(n)).copied().collect();
        let more: Vec<&str> = got.iter().filter(|n| !want.contains(n)).copied().collect();
        for name in &missing {
            self.say(place.to_owned(), format!("the {what} {name}"), "none of this name".to_owned());
        }
        for name in &more {
            self.say(place.to_owned(), format!("no {what} {name}"), "one".to_owned());
        }
        if missing.is_empty() && more.is_empty() {
            self.say(place.to_owned(), format!("the order {}", want.join(", ")), got.join(", "));
        }
        false
    }
}

/// Without aliases.
fn plain(r: &Resolve, t: &Type) -> Type {
    let mut t = *t;
    for _ in 0..MAX_DEPTH {
        match t {
            Type::Id(id) => match r.types[id].kind {
                TypeDefKind::Type(inner) => t = inner,
                _ => break,
            },
            _ => break,
        }
    }
    t
}

/// A type in the notation of WIT.
fn text(r: &Resolve, t: &Type) -> String {
    text_at(r, t, 0)
}

fn text_at(r: &Resolve, t: &Type, depth: usize) -> String {
    let id = match plain(r, t) {
        Type::Id(id) => id,
        Type::Bool => return "bool".to_owned(),
        Type::U8 => return "u8".to_owned(),
        Type::U16 => return "u16".to_owned(),
        Type::U32 => return "u32".to_owned(),
        Type::U64 => return "u64".to_owned(),
        Type::S8 => return "s8".to_owned(),
        Type::S16 => return "s16".to_owned(),
        Type::S32 => return "s32".to_owned(),
        Type::S64 => return "s64".to_owned(),
        Type::F32 => return "f32".to_owned(),
        Type::F64 => return "f64".to_owned(),
        Type::Char => return "char".to_owned(),
        Type::String => return "string".to_owned(),
        Type::ErrorContext => return "error-context".to_owned(),
    };
    let def = &r.types[id];
    if let Some(name) = &def.name {
        return name.clone();
    }
    if depth > MAX_DEPTH {
        return "…".to_owned();
    }
    let inner = |t: &Type| text_at(r, t, depth + 1);
    let maybe = |t: &Option<Type>| t.as_ref().map_or_else(|| "_".to_owned(), inner);
    match &def.kind {
        TypeDefKind::Option(t) => format!("option<{}>", inner(t)),
        TypeDefKind::List(t) => format!("list<{}>", inner(t)),
        TypeDefKind::Tuple(t) => format!("tuple<{}>", t.types.iter().map(inner).collect::<Vec<_>>().join(", ")),
        TypeDefKind::Result(t) => format!("result<{}, {}>", maybe(&t.ok), maybe(&t.err)),
        TypeDefKind::Handle(Handle::Own(t)) => inner(&Type::Id(*t)),
        TypeDefKind::Handle(Handle::Borrow(t)) => format!("borrow<{}>", inner(&Type::Id(*t))),
        other => other.as_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(body: &str) -> Resolve {
        let mut r = Resolve::default();
        r.push_str("x.wit", &format!("package a:b; interface i {{ {body} }}")).expect("WIT");
        r
    }

    fn differences(want: &str, got: &str) -> Vec<String> {
        let (want, got) = (resolve(want), resolve(got));
        let f = |r: &Resolve| r.interfaces.iter().next().and_then(|(_, i)| i.functions.get("f").cloned()).expect("a function");
        let pair = Pair { want: &want, got: &got };
        pair.functions(&f(&want), &f(&got)).into_iter().map(|d| format!("{}: {} | {}", d.place, d.want, d.got)).collect()
    }

    #[test]
    fn equal_shapes_are_silent_and_others_named() {
        let base = "record r { a: string, b: option<u32> } enum e { x, y } variant v { one(r), two } f: func(r: r, v: v) -> list<e>;";
        assert!(differences(base, base).is_empty());
        for (from, to, says) in [
            ("a: string", "a: u8", "record r, field a: string | u8"),
            ("option<u32>", "u32", "record r, field b: option<u32> | u32"),
            ("option<u32>", "option<u64>", "record r, field b: u32 | u64"),
            ("b: option<u32>", "c: option<u32>", "record r: the field b | none of this name"),
            ("enum e { x, y }", "enum e { y, x }", "enum e: the order x, y | y, x"),
            ("enum e { x, y }", "enum e { x, y, z }", "enum e: no case z | one"),
            ("two }", "two(u8) }", "variant v, case two: nothing | u8"),
            ("f: func(r: r, v: v)", "f: func(r: r)", "parameters: (r: r, v: v) | (r: r)"),
            ("-> list<e>", "", "result: list<e> | nothing"),
            ("-> list<e>", "-> e", "result: list<e> | e"),
        ] {
            let found = differences(base, &base.replace(from, to));
            assert!(found.iter().any(|d| d == says), "{to}: {found:?}");
        }
    }
}
