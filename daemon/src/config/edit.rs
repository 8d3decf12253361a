//! Changes one key of a file and leaves everything else of it, comments too, as it is.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::Context as _;
use toml_edit::{DocumentMut, Item, Table, TableLike, Value};

use super::layers::find_dotted;

/// What a file begins with that did not exist.
const NEW_FILE: &str =
    "# Settings of coditect-sync. All keys and what they mean: coditect-sync config default\n";

/// The text of a file with `key` (`ingest.claude_projects`) set to a value, which is written as on the command line.
/// The text is to be valid; what is set there already stays the very same text. An error names what is wrong.
pub fn with_setting(text: &str, key: &str, value: &str) -> Result<String, String> {
    let key = find_dotted(key)?;
    let value = key
        .check_text(value)
        .map_err(|wrong| format!("{}: {wrong}", key.dotted()))?;
    let mut document: DocumentMut = text
        .parse()
        .map_err(|error: toml_edit::TomlError| format!("the file is no TOML: {}", error.message()))?;
    let only_remarks = document.is_empty();
    if only_remarks {
        // They would end up behind the first setting.
        document = DocumentMut::new();
    }
    let place: &mut dyn TableLike = match key.section {
        "" => document.as_table_mut(),
        section => {
            let table = document
                .entry(section)
                .or_insert_with(|| Item::Table(Table::new()));
            table
                .as_table_like_mut()
                .ok_or_else(|| format!("`{section}` is no section in the file"))?
        }
    };
    if let Some(there) = place.get(key.name)
        && key.check(there).is_ok_and(|there| there == value)
    {
        return Ok(text.to_owned());
    }
    let mut new: Value = value
        .to_string()
        .parse()
        .map_err(|error: toml_edit::TomlError| error.message().to_owned())?;
    new.decor_mut().clear();
    match place.get_mut(key.name) {
        Some(item) => {
            if let Some(old) = item.as_value() {
                // Spaces and the comment on the same line.
                *new.decor_mut() = old.decor().clone();
            }
            *item = Item::Value(new);
        }
        None => {
            place.insert(key.name, Item::Value(new));
        }
    }
    Ok(match only_remarks {
        true if text.trim().is_empty() => format!("{NEW_FILE}\n{document}"),
        true => format!("{}\n\n{document}", text.trim_end()),
        false => document.to_string(),
    })
}

/// Replaces the file in one step: whoever reads it sees the old or the new one. A link stays one.
pub fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    let target = match path.is_symlink() {
        true => {
            std::fs::canonicalize(path).with_context(|| format!("following the link {}", path.display()))?
        }
        false => path.to_path_buf(),
    };
    let mut beside = target.as_os_str().to_owned();
    beside.push(".new");
    let write = || -> std::io::Result<()> {
        let mode = std::fs::metadata(&target).map_or(0o600, |metadata| metadata.permissions().mode() & 0o777);
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, &target)
    };
    write().with_context(|| format!("writing {}", target.display()))
}
