//! Replacing a small file so that a reader sees the old or the new content, never a part.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Writes `content` to `directory/name` by way of a temporary file and a rename. With `sync` the
/// content and the name survive a loss of power once this returns.
///
/// A writer that is killed half way leaves a file `.<name>.<pid>.tmp`, which readers pass over.
pub(crate) fn replace(directory: &Path, name: &str, content: &[u8], sync: bool) -> io::Result<()> {
    let temporary = directory.join(format!(".{name}.{}.tmp", std::process::id()));
    let written =
        write(&temporary, content, sync).and_then(|()| fs::rename(&temporary, directory.join(name)));
    if written.is_err() {
        // Best effort: the error returned is the one above.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    if sync { File::open(directory)?.sync_all() } else { Ok(()) }
}

fn write(path: &Path, content: &[u8], sync: bool) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    if sync { file.sync_all() } else { Ok(()) }
}
