//! Folders that may be used, and patterns of places that are secret.
//!
//! Invariants: a folder is compared name by name and byte by byte, so `/w2` is not in `/w`; a place matches everything below it.
//! Called by `config` (compiling) and `judge`.

use policy_kit::glob;

/// Most names in a pattern.
const NAMES: usize = 32;
const DEEP: &str = "**";

/// The folders of a session that folders and places start from.
#[derive(Debug, Clone, Copy)]
pub struct Roots<'a> {
    pub root: &'a str,
    pub home: Option<&'a str>,
    pub write_root: Option<&'a str>,
}

/// A folder as configured.
#[derive(Debug, PartialEq, Eq)]
pub enum Folder {
    WriteRoot,
    Absolute(String),
    Home(String),
    Session(String),
}

impl Folder {
    pub fn parse(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected a folder: /x, ~/x, ., ./x or @write-root, without `..` and `*`";
        let names = |rest: &str| match rest.split('/').all(|n| n != ".." && !n.contains(['*', '\0'])) {
            true => Ok(rest.split('/').filter(|n| !n.is_empty() && *n != ".").collect::<Vec<_>>().join("/")),
            false => Err(EXPECTED.to_owned()),
        };
        match text {
            "@write-root" => Ok(Self::WriteRoot),
            "." => Ok(Self::Session(String::new())),
            "~" => Ok(Self::Home(String::new())),
            _ => match (text.strip_prefix("./"), text.strip_prefix("~/"), text.strip_prefix('/')) {
                (Some(rest), ..) => names(rest).map(Self::Session),
                (_, Some(rest), _) => names(rest).map(Self::Home),
                (.., Some(rest)) => names(rest).map(Self::Absolute),
                _ => Err(EXPECTED.to_owned()),
            },
        }
    }

    /// Whether a real path is this folder or lies in it.
    pub fn holds(&self, path: &str, roots: &Roots<'_>) -> bool {
        let (base, rest) = match self {
            Self::WriteRoot => (roots.write_root.unwrap_or(roots.root), ""),
            Self::Absolute(rest) => ("", rest.as_str()),
            Self::Session(rest) => (roots.root, rest.as_str()),
            // A session without a home folder has nothing in it.
            Self::Home(rest) => match roots.home {
                Some(home) => (home, rest.as_str()),
                None => return false,
            },
        };
        below(path, base).is_some_and(|p| rest.is_empty() || below(p, rest).is_some())
    }
}

/// The part of a path below a folder, without a leading slash; both as names divided by slashes.
fn below<'p>(path: &'p str, folder: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(folder.trim_end_matches('/'))?;
    match rest.strip_prefix('/') {
        Some(rest) => Some(rest),
        None => rest.is_empty().then_some(rest),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    Anywhere,
    Session,
    Home,
    Absolute,
}

/// A pattern of secret places.
#[derive(Debug)]
pub struct Place {
    pub text: String,
    base: Base,
    /// Ends in `**`, so that what is below belongs to it; begins with it where it holds at any depth.
    names: Vec<String>,
}

impl Place {
    pub fn parse(text: &str) -> Result<Self, String> {
        let (base, rest) = match (text.strip_prefix("./"), text.strip_prefix("~/"), text.strip_prefix('/')) {
            (Some(rest), ..) => (Base::Session, rest),
            (_, Some(rest), _) => (Base::Home, rest),
            (.., Some(rest)) => (Base::Absolute, rest),
            _ => (Base::Anywhere, text),
        };
        let mut names: Vec<String> = rest.split('/').filter(|n| !n.is_empty()).map(str::to_owned).collect();
        if names.iter().any(|n| n == "." || n == ".." || n.contains(['[', '{', '\\', '\0']) || (n.contains(DEEP) && n != DEEP)) {
            return Err("expected names with `*` and `?`, and `**` alone between slashes; no `.`, `..`, classes or braces".to_owned());
        }
        if names.iter().all(|n| n == DEEP) {
            return Err("expected at least one name".to_owned());
        }
        if names.len() > NAMES {
            return Err(format!("expected at most {NAMES} names"));
        }
        if base == Base::Anywhere {
            names.insert(0, DEEP.to_owned());
        }
        names.push(DEEP.to_owned());
        Ok(Self { text: text.to_owned(), base, names })
    }

    /// Whether an absolute path is this place or below it.
    pub fn holds(&self, path: &str, roots: &Roots<'_>) -> bool {
        let rest = match self.base {
            Base::Anywhere | Base::Absolute => Some(path),
            Base::Session => below(path, roots.root),
            Base::Home => roots.home.and_then(|home| below(path, home)),
        };
        rest.is_some_and(|rest| self.fits(rest))
    }

    /// As in a name, with `**` for the star: the last one is the only one that ever has to be gone back to.
    fn fits(&self, path: &str) -> bool {
        let names: Vec<&str> = path.split('/').filter(|n| !n.is_empty()).collect();
        let (mut p, mut t) = (0, 0);
        let mut back: Option<(usize, usize)> = None;
        loop {
            match (self.names.get(p), names.get(t)) {
                (None, None) => return true,
                (Some(want), _) if want == DEEP => {
                    if p + 1 == self.names.len() {
                        return true;
                    }
                    p += 1;
                    back = Some((p, t));
                    continue;
                }
                (Some(want), Some(name)) if glob::fits(want, name, true) => {
                    (p, t) = (p + 1, t + 1);
                    continue;
                }
                _ => {}
            }
            let Some((star, at)) = back else { return false };
            if at >= names.len() {
                return false;
            }
            (p, t) = (star, at + 1);
            back = Some((star, at + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOTS: Roots<'static> = Roots { root: "/w", home: Some("/home/u"), write_root: Some("/w/out") };

    #[test]
    fn folders_hold_what_is_in_them_and_nothing_else() {
        for (folder, path, want) in [
            ("/w", "/w", true),
            ("/w", "/w/a", true),
            ("/w", "/w2", false),
            ("/w/", "/w/a", true),
            ("/", "/anything", true),
            (".", "/w/a", true),
            ("./a", "/w/a/b", true),
            ("./a", "/w/ab", false),
            ("~", "/home/u/x", true),
            ("~/x", "/home/u/x/y", true),
            ("~/x", "/home/u2/x", false),
            ("@write-root", "/w/out/x", true),
            ("@write-root", "/w/x", false),
            ("/W", "/w/a", false),
            ("/w", "/w\u{301}/a", false),
            ("/w", "/w /a", false),
            ("/w", "/w./a", false),
        ] {
            assert_eq!(Folder::parse(folder).expect(folder).holds(path, &ROOTS), want, "{folder} {path}");
        }
        let without = Roots { home: None, write_root: None, ..ROOTS };
        assert!(Folder::WriteRoot.holds("/w/x", &without) && !Folder::Home(String::new()).holds("/x", &without));
    }

    #[test]
    fn places_match_at_their_depth_and_below() {
        for (place, path, want) in [
            (".env", "/w/.env", true),
            (".env", "/a/b/.env", true),
            (".env", "/w/.ENV", true),
            (".env", "/w/.env.local", false),
            (".env.*", "/w/.env.local", true),
            (".env", "/w/.env/x", true),
            ("*.pem", "/w/k/x.pem", true),
            (".ssh/id_*", "/root/.ssh/id_rsa", true),
            (".ssh/**", "/root/.ssh", true),
            (".ssh/**", "/root/.sshx", false),
            ("~/.aws", "/home/u/.aws/credentials", true),
            ("~/.aws", "/root/.aws/credentials", false),
            ("./a", "/w/a", true),
            ("./a", "/w/b/a", false),
            ("/proc/*/environ", "/proc/12/environ", true),
            ("/proc/*/environ", "/proc/12/task/12/environ", false),
            ("/proc/**/environ", "/proc/12/task/12/environ", true),
            ("a/**/b", "/x/a/b", true),
            ("a/**/b", "/x/a/c/a/d/b/e", true),
            ("a/b", "/a/c/b", false),
        ] {
            assert_eq!(Place::parse(place).expect(place).holds(path, &ROOTS), want, "{place} {path}");
        }
    }

    proptest! {
        #[test]
        fn a_folder_holds_what_is_joined_to_it(folder in "(/[a-z.]{1,4}){1,4}", rest in "(/[a-z.*]{1,4}){0,4}", other in "[a-z]{1,3}") {
            prop_assume!(!folder.split('/').any(|n| n == "." || n == ".."));
            let f = Folder::parse(&folder).map_err(TestCaseError::fail)?;
            prop_assert!(f.holds(&[folder.as_str(), &rest].concat(), &ROOTS));
            prop_assert!(!f.holds(&[folder.as_str(), &other, &rest].concat(), &ROOTS));
        }

        #[test]
        fn a_literal_place_holds_itself_below_any_folder(lead in "(/[a-z]{1,3}){0,3}", name in "[a-z.]{1,6}", tail in "(/[a-z]{1,3}){0,3}") {
            prop_assume!(name != "." && name != "..");
            let p = Place::parse(&name).map_err(TestCaseError::fail)?;
            let path = format!("{lead}/{name}{tail}");
            prop_assert!(p.holds(&path, &ROOTS) && p.holds(&path.to_uppercase(), &ROOTS));
        }
    }
}
