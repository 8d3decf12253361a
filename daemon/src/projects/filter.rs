//! Which projects may leave the machine, as `[projects]` of config.toml says.
//!
//! In doubt a row stays: `exclude` outweighs `include`, and takes what may be meant where `include` takes only what is.

use std::path::Path;

use coditect_shared::hash::sha256;
use globset::{Glob, GlobMatcher};
use serde::Serialize;

use super::Place;
use crate::config::{Projects, Sharing};

/// Decides for each place whether its rows may be sent.
#[derive(Debug)]
pub struct ProjectFilter {
    default: Sharing,
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
    fingerprint: String,
}

/// What becomes of a project's rows, and by which setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    pub included: bool,
    /// As it stands in config.toml: `default = "exclude"`, or a list with the pattern that decided: `include: "shop"`.
    pub setting: String,
}

/// A bad pattern.
#[derive(Debug, thiserror::Error)]
#[error("projects.{key}: {pattern:?} is no glob: {reason}")]
pub struct BadPattern {
    pub key: &'static str,
    pub pattern: String,
    pub reason: String,
}

impl Default for ProjectFilter {
    fn default() -> ProjectFilter {
        ProjectFilter {
            default: Sharing::Include,
            include: Vec::new(),
            exclude: Vec::new(),
            fingerprint: String::new(),
        }
    }
}

impl ProjectFilter {
    /// `home` is what `~` stands for.
    pub fn new(config: &Projects, home: Option<&Path>) -> Result<ProjectFilter, BadPattern> {
        let patterns = |key: &'static str, patterns: &[String]| -> Result<Vec<Pattern>, BadPattern> {
            patterns
                .iter()
                .map(|text| Pattern::new(key, text, home))
                .collect()
        };
        Ok(ProjectFilter {
            default: config.default,
            include: patterns("include", &config.include)?,
            exclude: patterns("exclude", &config.exclude)?,
            fingerprint: fingerprint(config),
        })
    }

    pub fn judge(&self, place: &Place) -> Standing {
        let by = |key: &str, pattern: &Pattern| format!("{key}: {:?}", pattern.text);
        if let Some(pattern) = self.exclude.iter().find(|pattern| pattern.may_mean(place)) {
            return Standing {
                included: false,
                setting: by("exclude", pattern),
            };
        }
        if let Some(pattern) = self.including(place) {
            return Standing {
                included: true,
                setting: by("include", pattern),
            };
        }
        let (included, setting) = match self.default {
            Sharing::Include => (true, "default = \"include\""),
            Sharing::Exclude => (false, "default = \"exclude\""),
        };
        Standing {
            included,
            setting: setting.to_owned(),
        }
    }

    /// A row that bears another name than its session goes only if both are included.
    fn including(&self, place: &Place) -> Option<&Pattern> {
        let find = |place: &Place| self.include.iter().find(|pattern| pattern.means(place));
        match (&place.project, &place.own) {
            (Some(_), Some(own)) if !self.include.iter().any(|pattern| pattern.names(own)) => None,
            (Some(_), Some(_)) => find(&Place {
                own: None,
                ..place.clone()
            }),
            (_, _) => find(place),
        }
    }

    pub fn excludes(&self, place: &Place) -> bool {
        !self.judge(place).included
    }

    /// Nothing is ever excluded: no row's project needs to be looked for.
    pub fn includes_all(&self) -> bool {
        self.default == Sharing::Include && self.exclude.is_empty()
    }

    /// Equal for equal settings: rows are judged again when it is another one. Empty for the defaults.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// Whether this text is a pattern, and if not, why.
pub fn check_pattern(key: &'static str, text: &str) -> Result<(), BadPattern> {
    Pattern::new(key, text, None).map(drop)
}

/// A glob over names of projects, or over their working folders if it looks like a path.
#[derive(Debug)]
struct Pattern {
    text: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// By the name as it is, and as Claude Code would write it into a folder's name.
    Name { plain: GlobMatcher, munged: GlobMatcher },
    /// The folder itself, and what lies beneath it.
    Path {
        folder: GlobMatcher,
        beneath: GlobMatcher,
    },
}

impl Pattern {
    fn new(key: &'static str, text: &str, home: Option<&Path>) -> Result<Pattern, BadPattern> {
        let glob = |glob: &str| -> Result<GlobMatcher, BadPattern> {
            let bad = |reason: String| BadPattern {
                key,
                pattern: text.to_owned(),
                reason,
            };
            if glob.is_empty() {
                return Err(bad("it is empty".into()));
            }
            let compiled = Glob::new(glob).map_err(|error| bad(error.kind().to_string()))?;
            Ok(compiled.compile_matcher())
        };
        let kind = if text.contains('/') || text.starts_with('~') {
            let path = expanded(text, home);
            let folder = munged_pattern(path.trim_end_matches('/'));
            // `acme/*` means such folders wherever they are.
            let folder = if path.starts_with(['/', '~']) {
                folder
            } else {
                format!("*-{folder}")
            };
            Kind::Path {
                beneath: glob(&format!("{folder}-*"))?,
                folder: glob(&folder)?,
            }
        } else {
            Kind::Name {
                plain: glob(text)?,
                munged: glob(&munged_pattern(text))?,
            }
        };
        Ok(Pattern {
            text: text.to_owned(),
            kind,
        })
    }

    /// What is surely meant: the project of this name, or the folder of this path.
    fn means(&self, place: &Place) -> bool {
        match &self.kind {
            Kind::Name { plain, .. } => place.labels().any(|label| plain.is_match(label)),
            Kind::Path { folder, .. } => place.folder.as_ref().is_some_and(|at| folder.is_match(at)),
        }
    }

    fn names(&self, project: &str) -> bool {
        match &self.kind {
            Kind::Name { plain, .. } => plain.is_match(project),
            Kind::Path { .. } => false,
        }
    }

    /// What may be meant as well: a folder beneath, and a folder whose name has the project's in it, since a session of
    /// `vault` may have begun in `vault/backend`.
    fn may_mean(&self, place: &Place) -> bool {
        if self.means(place) {
            return true;
        }
        let Some(at) = &place.folder else { return false };
        match &self.kind {
            Kind::Path { beneath, .. } => beneath.is_match(at),
            Kind::Name { munged, .. } => parts(at).any(|part| munged.is_match(part)),
        }
    }
}

/// All that stands between a dash and another, or the end: each may be the name of a folder on the way, as a dash is a
/// `/` or was in a name.
fn parts(folder: &str) -> impl Iterator<Item = &str> {
    folder.match_indices('-').flat_map(move |(dash, _)| {
        let rest = &folder[dash + 1..];
        let ends = rest.match_indices('-').map(|(end, _)| end).chain([rest.len()]);
        ends.map(move |end| &rest[..end])
    })
}

/// A path as Claude Code names its folder: every character that is no ASCII letter or digit is a `-`. What steers the
/// glob stays.
fn munged_pattern(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() || "*?[]{}!,\\".contains(c) => c,
            _ => '-',
        })
        .collect()
}

fn expanded(text: &str, home: Option<&Path>) -> String {
    match (text.strip_prefix('~'), home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            format!("{}{rest}", home.display())
        }
        (_, _) => text.to_owned(),
    }
}

/// The setting that has always held needs no trace in the file.
fn fingerprint(config: &Projects) -> String {
    if *config == Projects::default() {
        return String::new();
    }
    let default = match config.default {
        Sharing::Include => "include",
        Sharing::Exclude => "exclude",
    };
    let text = serde_json::json!([default, config.include, config.exclude]).to_string();
    sha256(text.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(default: Sharing, include: &[&str], exclude: &[&str]) -> ProjectFilter {
        let owned = |patterns: &[&str]| patterns.iter().map(|text| (*text).to_owned()).collect();
        let config = Projects {
            default,
            include: owned(include),
            exclude: owned(exclude),
        };
        ProjectFilter::new(&config, Some(Path::new("/home/ada"))).unwrap()
    }

    fn place(project: &str, folder: &str) -> Place {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Place {
            project: some(project),
            own: None,
            folder: some(folder),
        }
    }

    #[test]
    fn exclude_outweighs_include_and_the_default_decides_the_rest() {
        use Sharing::{Exclude, Include};
        let shop = "-home-ada-code-shop";
        // default, include, exclude, project, folder, included
        type Case<'a> = (Sharing, &'a [&'a str], &'a [&'a str], &'a str, &'a str, bool);
        let cases: &[Case<'_>] = &[
            (Include, &[], &[], "shop", shop, true),
            (Exclude, &[], &[], "shop", shop, false),
            (Include, &[], &["shop"], "shop", shop, false),
            (Include, &["shop"], &["shop"], "shop", shop, false),
            // Case counts.
            (Include, &[], &["Shop"], "shop", shop, true),
            (Exclude, &["shop"], &[], "shop", shop, true),
            (Exclude, &["sh*"], &["shop-*"], "shop", shop, true),
            (Exclude, &["sh*"], &["shop-*"], "shop-secret", shop, false),
            (Exclude, &["*"], &[], "anything", "", true),
            // By folder.
            (Include, &[], &["~/code/shop"], "shop", shop, false),
            (Include, &[], &["~/code/shop/"], "shop", shop, false),
            (Include, &[], &["/home/ada/code/*"], "shop", shop, false),
            (Include, &[], &["~/code"], "shop", shop, false),
            (Include, &[], &["~/other"], "shop", shop, true),
            (Include, &[], &["code/*"], "shop", shop, false),
            (Exclude, &["code/*"], &[], "shop", shop, true),
            (Include, &[], &["de/*"], "shop", shop, true),
            (Include, &[], &["-home-ada-code-shop"], "shop", shop, false),
            (Exclude, &["~/code/shop"], &[], "shop", shop, true),
            (Exclude, &["~/code/*"], &[], "shop", shop, true),
            (Exclude, &["~/code"], &[], "shop", shop, false),
            // No row has named the project yet: to exclude, the end of the folder's name will do.
            (Include, &[], &["shop"], "", shop, false),
            (Include, &[], &["code_shop"], "", shop, false),
            (Include, &[], &["sh*"], "", shop, false),
            (Include, &[], &["op"], "", shop, true),
            // Nor does a name that the session got from a folder beneath hide the project's own.
            (
                Include,
                &[],
                &["vault"],
                "backend",
                "-home-ada-code-vault-backend",
                false,
            ),
            (
                Include,
                &[],
                &["my.vault"],
                "backend",
                "-home-ada-my-vault-backend",
                false,
            ),
            (
                Include,
                &[],
                &["va*"],
                "backend",
                "-home-ada-code-vault-backend",
                false,
            ),
            (
                Include,
                &[],
                &["vau"],
                "backend",
                "-home-ada-code-vault-backend",
                true,
            ),
            (
                Include,
                &[],
                &["ault"],
                "backend",
                "-home-ada-code-vault-backend",
                true,
            ),
            (
                Exclude,
                &["vault"],
                &[],
                "backend",
                "-home-ada-code-vault-backend",
                false,
            ),
            (Exclude, &["shop"], &[], "", shop, false),
            (Exclude, &["-home-ada-code-shop"], &[], "", shop, true),
            (Include, &[], &["(none)"], "", "", false),
            (Exclude, &["(none)"], &[], "", "", true),
            (Include, &[], &["(none)"], "shop", shop, true),
        ];
        for (default, include, exclude, project, folder, included) in cases {
            let judged = filter(*default, include, exclude).judge(&place(project, folder));
            assert_eq!(
                judged.included, *included,
                "{default:?} include {include:?} exclude {exclude:?}: {project:?} in {folder:?}: {judged:?}"
            );
        }
    }

    #[test]
    fn a_row_with_a_name_of_its_own_is_excluded_by_either_name() {
        let both = Place {
            own: Some("secret".into()),
            ..place("shop", "")
        };
        assert!(filter(Sharing::Include, &[], &["secret"]).excludes(&both));
        assert!(filter(Sharing::Include, &[], &["shop"]).excludes(&both));
        assert!(!filter(Sharing::Include, &[], &["other"]).excludes(&both));
    }

    #[test]
    fn a_row_with_a_name_of_its_own_is_included_only_by_both() {
        let place = |own: &str| Place {
            own: Some(own.into()),
            ..place("shop", "-home-ada-code-shop")
        };
        for (include, own, included) in [
            (&["shop"][..], "secret", false),
            (&["secret"], "secret", false),
            (&["~/code/shop"], "secret", false),
            (&["shop", "secret"], "secret", true),
            (&["~/code/shop", "sec*"], "secret", true),
            (&["*"], "secret", true),
        ] {
            let filter = filter(Sharing::Exclude, include, &[]);
            assert_eq!(!filter.excludes(&place(own)), included, "{include:?} {own}");
        }
        // Where the session has no name, that of the row is its only one.
        let alone = Place {
            project: None,
            ..place("shop")
        };
        assert!(!filter(Sharing::Exclude, &["shop"], &[]).excludes(&alone));
    }

    #[test]
    fn a_standing_names_the_setting_that_decided() {
        let filter = filter(Sharing::Exclude, &["sh*"], &["shop-*"]);
        let setting = |project| filter.judge(&place(project, "")).setting;
        assert_eq!(setting("shop"), "include: \"sh*\"");
        assert_eq!(setting("shop-x"), "exclude: \"shop-*\"");
        assert_eq!(setting("else"), "default = \"exclude\"");
    }

    #[test]
    fn a_bad_pattern_is_named_with_its_key() {
        for bad in ["[", "a{b", ""] {
            let config = Projects {
                exclude: vec![bad.into()],
                ..Projects::default()
            };
            let error = ProjectFilter::new(&config, None).unwrap_err().to_string();
            assert!(
                error.contains("projects.exclude") && error.contains(&format!("{bad:?}")),
                "{error}"
            );
        }
    }

    #[test]
    fn equal_settings_have_equal_fingerprints_and_the_defaults_none() {
        assert_eq!(ProjectFilter::default().fingerprint(), "");
        assert_eq!(filter(Sharing::Include, &[], &[]).fingerprint(), "");
        let (one, other) = (
            filter(Sharing::Include, &["a"], &[]),
            filter(Sharing::Include, &[], &["a"]),
        );
        assert_ne!(one.fingerprint(), other.fingerprint());
        assert_eq!(
            one.fingerprint(),
            filter(Sharing::Include, &["a"], &[]).fingerprint()
        );
    }
}
