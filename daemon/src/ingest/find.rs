//! Which files are transcripts, and what their places say about them.
//!
//! The layout is that of `~/.claude/projects`: `PROJECT/SESSION.jsonl`, and what a session's subagents said
//! in `PROJECT/SESSION/subagents/agent-ID.jsonl` (older versions: `PROJECT/agent-ID.jsonl`). A part of it
//! serves as well as the whole, and a file is called the same whichever part it was found through.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail};

/// The folder in which a session's subagents have their files.
const SUBAGENTS: &str = "subagents";

/// How the name of a subagent's file begins.
const AGENT_PREFIX: &str = "agent-";

/// A transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// Its name on every machine: the path from the folder of all projects on, with `/`.
    pub(super) source_file: String,
    /// The session of records that do not name one.
    pub(super) session: String,
    /// Whether all records belong to that session, whatever they say: a subagent's to the one it worked for.
    pub(super) one_session: bool,
    /// The subagent whose file it is.
    pub(super) agent: Option<String>,
}

/// A file or folder that could not be read, and why.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Unreadable {
    pub file: String,
    pub reason: String,
}

/// All transcripts in files and folders, each once, in the order of their names. A path that does not exist
/// is an error; what cannot be read inside a folder is not.
pub(super) fn find(paths: &[PathBuf]) -> anyhow::Result<(Vec<Source>, Vec<Unreadable>)> {
    let mut found = Found::default();
    for path in paths {
        let metadata = fs::metadata(path).with_context(|| format!("looking for {}", path.display()))?;
        if metadata.is_dir() {
            found.folder(path, &metadata);
        } else if metadata.is_file() {
            found.file(path, &metadata);
        } else {
            bail!("{} is neither a file nor a folder", path.display());
        }
    }
    found.sources.sort_by(|a, b| {
        a.source_file
            .cmp(&b.source_file)
            .then_with(|| a.path.cmp(&b.path))
    });
    Ok((found.sources, found.unreadable))
}

/// The name of the project a working folder belongs to: that of the folder, or of the repository whose
/// worktree it is.
///
/// It is taken from the transcript alone. Its git remote would name a repository better, but only on a
/// machine where that folder exists; two machines would then make different tasks of the same transcript.
pub(super) fn project_of(cwd: &str) -> Option<&str> {
    let parts: Vec<&str> = cwd.split(['/', '\\']).filter(|part| !part.is_empty()).collect();
    let worktrees = parts
        .iter()
        .position(|part| *part == ".worktrees" || *part == "worktrees");
    let repository = match worktrees {
        Some(place) if parts[place] == ".worktrees" => place.checked_sub(1),
        Some(place) if place > 0 && parts[place - 1] == ".claude" => place.checked_sub(2),
        Some(_) | None => None,
    };
    let place = repository.or(parts.len().checked_sub(1))?;
    Some(parts[place]).filter(|name| !name.ends_with(':'))
}

#[derive(Default)]
struct Found {
    sources: Vec<Source>,
    unreadable: Vec<Unreadable>,
    /// Device and inode of what was looked at: links may lead to the same place twice, or in a circle.
    seen: HashSet<(u64, u64)>,
}

impl Found {
    fn folder(&mut self, path: &Path, metadata: &Metadata) {
        if !self.is_new(metadata) {
            return;
        }
        match self.entries(path) {
            // It was deleted meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => self.unreadable.push(unreadable(path, &error)),
            Ok(()) => {}
        }
    }

    fn entries(&mut self, path: &Path) -> std::io::Result<()> {
        for entry in fs::read_dir(path)? {
            let path = entry?.path();
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => self.folder(&path, &metadata),
                // Not a pipe or a device: reading one would wait for ever.
                Ok(metadata) if metadata.is_file() && path.extension().is_some_and(|end| end == "jsonl") => {
                    self.file(&path, &metadata);
                }
                Ok(_) => {}
                // A file that was deleted meanwhile, or a link to nothing.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => self.unreadable.push(unreadable(&path, &error)),
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, metadata: &Metadata) {
        if self.is_new(metadata) {
            self.sources.push(source(path));
        }
    }

    fn is_new(&mut self, metadata: &Metadata) -> bool {
        self.seen.insert((metadata.dev(), metadata.ino()))
    }
}

pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Unreadable {
    Unreadable {
        file: path.display().to_string(),
        reason: error.to_string(),
    }
}

fn source(path: &Path) -> Source {
    // A relative path may begin inside the layout; the folders above it are needed for the name.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let parts: Vec<String> = absolute
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
        })
        .collect();
    let subagents = parts
        .iter()
        .rposition(|part| part == SUBAGENTS)
        .filter(|place| *place > 0);
    let parent = subagents.map(|place| parts[place - 1].clone());
    let begin = match subagents {
        Some(place) => place.saturating_sub(2),
        None => parts.len().saturating_sub(2),
    };
    let stem = path
        .file_stem()
        .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let agent = match stem.strip_prefix(AGENT_PREFIX) {
        Some(agent) => Some(agent.to_owned()),
        None => parent.is_some().then(|| stem.clone()),
    };
    Source {
        path: path.to_owned(),
        source_file: parts[begin..].join("/"),
        one_session: parent.is_some(),
        session: parent.unwrap_or(stem),
        agent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_called_the_same_whichever_part_of_the_layout_it_is_found_through() {
        let home = tempfile::tempdir().unwrap();
        let project = home.path().join("projects/-p");
        let agents = project.join("s1/subagents/deep");
        fs::create_dir_all(&agents).unwrap();
        fs::write(project.join("s1.jsonl"), "").unwrap();
        fs::write(agents.join("agent-a1.jsonl"), "").unwrap();
        fs::write(project.join("notes.txt"), "").unwrap();
        let names = |path: PathBuf| -> Vec<String> {
            let (sources, unreadable) = find(&[path]).unwrap();
            assert_eq!(unreadable, []);
            sources.into_iter().map(|source| source.source_file).collect()
        };
        let all = ["-p/s1.jsonl", "-p/s1/subagents/deep/agent-a1.jsonl"];
        assert_eq!(names(home.path().to_owned()), all);
        assert_eq!(names(project.clone()), all);
        assert_eq!(names(project.join("s1")), all[1..]);
        assert_eq!(names(project.join("s1.jsonl")), all[..1]);
    }

    #[test]
    fn a_subagents_file_belongs_to_the_session_it_worked_for() {
        let source = source(Path::new("/x/projects/-p/s1/subagents/agent-a1.jsonl"));
        assert_eq!((source.session.as_str(), source.one_session), ("s1", true));
        assert_eq!(source.agent.as_deref(), Some("a1"));
    }

    #[cfg(unix)]
    #[test]
    fn links_in_a_circle_and_links_to_nothing_are_passed_over() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("s.jsonl"), "").unwrap();
        std::os::unix::fs::symlink(home.path(), home.path().join("again")).unwrap();
        std::os::unix::fs::symlink("gone", home.path().join("lost.jsonl")).unwrap();
        let (sources, unreadable) = find(&[home.path().to_owned()]).unwrap();
        assert_eq!((sources.len(), unreadable.len()), (1, 0));
    }

    #[test]
    fn a_path_that_does_not_exist_is_an_error_that_names_it() {
        let error = find(&[PathBuf::from("/no/such/place")]).unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/place"));
    }

    #[test]
    fn a_project_is_named_by_its_folder_and_a_worktree_by_its_repository() {
        let cases = [
            ("/home/u/code/shop", Some("shop")),
            ("/home/u/code/shop/", Some("shop")),
            ("/home/u/shop/.worktrees/1", Some("shop")),
            ("/home/u/shop/.claude/worktrees/fix/src", Some("shop")),
            ("/home/u/worktrees/fix", Some("fix")),
            ("C:\\code\\shop", Some("shop")),
            ("C:\\", None),
            ("/", None),
        ];
        for (cwd, project) in cases {
            assert_eq!(project_of(cwd), project, "{cwd}");
        }
    }
}
