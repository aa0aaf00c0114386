//! Files in the conversation: /blob sends one, `--blob-dir` names where those of others are saved.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Chat, printable};
use crate::engine::{Blob, BlobHandle, BlobOffer, IncomingBlob};
use crate::id::UserId;
use crate::limits;

/// How often it is looked how far files are.
pub(super) const PROGRESS_TICK: Duration = Duration::from_millis(250);
/// Bytes of a saved file's name, at most: room for a number behind it.
const SAVED_NAME_BYTES_MAX: usize = 200;
/// Files of one name that are kept beside each other.
const SAME_NAMES_MAX: u32 = 1_000;

/// A file on its way to somebody.
pub(super) struct SentFile {
    to: UserId,
    name: String,
    pub(super) handle: BlobHandle,
    /// Quarters of it that were told.
    quarters: u64,
}

impl Chat {
    /// Saves the files that others send in `dir`; without it they are refused.
    pub fn saving_in(mut self, dir: Option<PathBuf>) -> Chat {
        self.blob_dir = dir;
        self
    }

    pub(super) fn send_file(&mut self, path: &str, output: &mut impl Write) -> io::Result<()> {
        let path = Path::new(path.trim());
        let Some(to) = self.peer.clone() else {
            self.all_delivered = false;
            return writeln!(output, "to whom? /to NAME");
        };
        let body = match read(path) {
            Ok(body) => body,
            Err(error) => {
                self.all_delivered = false;
                return writeln!(output, "/blob {}: {error}", path.display());
            }
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name[..name.floor_char_boundary(limits::BLOB_NAME_BYTES_MAX)].to_owned();
        match self.client.send_blob(Some(&to), 0, &name, body) {
            Ok(handle) => self.files.push(SentFile { to, name, handle, quarters: 0 }),
            Err(error) => {
                self.all_delivered = false;
                writeln!(output, "not sent: {error}")?;
            }
        }
        Ok(())
    }

    /// Shows how far files are, at each quarter.
    pub(super) fn show_progress(&mut self, output: &mut impl Write) -> io::Result<()> {
        for file in &mut self.files {
            let quarters = 4 * file.handle.progress() / file.handle.size().max(1);
            if quarters > file.quarters && quarters < 4 {
                writeln!(output, "{}: {} % at {}", printable(file.name.as_bytes()), 25 * quarters, file.to)?;
                file.quarters = quarters;
            }
        }
        Ok(())
    }

    pub(super) fn show_sent_file(&mut self, place: usize, output: &mut impl Write) -> io::Result<()> {
        let SentFile { to, name, handle, .. } = self.files.remove(place);
        let (name, bytes) = (printable(name.as_bytes()), handle.size());
        let failure = match handle.wait() {
            Ok(Ok(Ok(()))) => return writeln!(output, "{name}: delivered to {to}, {bytes} bytes"),
            Ok(Ok(Err(failure))) => failure.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(stopped) => stopped.to_string(),
        };
        self.all_delivered = false;
        writeln!(output, "{name}: failed, to {to}: {}", printable(failure.as_bytes()))
    }

    pub(super) fn show_blob(&mut self, incoming: IncomingBlob, output: &mut impl Write) -> io::Result<()> {
        let from = incoming.key().from.as_ref().map_or("the server", UserId::as_str).to_owned();
        match incoming {
            IncomingBlob::Offered(offer) => self.show_offer(offer, &from, output),
            IncomingBlob::Progress { .. } => Ok(()),
            IncomingBlob::Whole(blob) => self.save(&blob, &from, output),
            IncomingBlob::Failed { cause, .. } => writeln!(output, "{from}: the file will not come: {cause}"),
        }
    }

    fn show_offer(&mut self, offer: BlobOffer, from: &str, output: &mut impl Write) -> io::Result<()> {
        let (name, size) = (printable(offer.name.as_bytes()), offer.size);
        if self.blob_dir.is_some() {
            offer.accept();
            return writeln!(output, "{from} sends the file {name:?}, {size} bytes");
        }
        offer.refuse("no files are taken here");
        writeln!(output, "{from} wants to send the file {name:?}, {size} bytes; --blob-dir lets it in")
    }

    fn save(&mut self, blob: &Blob, from: &str, output: &mut impl Write) -> io::Result<()> {
        let Some(dir) = &self.blob_dir else { return Ok(()) };
        match save_in(dir, &safe_name(&blob.name), &blob.body) {
            Ok(path) => writeln!(output, "{from}: saved {}, {} bytes", path.display(), blob.body.len()),
            Err(error) => writeln!(output, "{from}: a file could not be saved in {}: {error}", dir.display()),
        }
    }
}

/// A file's bytes. What is no file may have no end.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let about = fs::metadata(path)?;
    if !about.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a file"));
    }
    if about.len() > limits::BLOB_BYTES_MAX as u64 {
        let text = format!("{} bytes, at most {} can be sent", about.len(), limits::BLOB_BYTES_MAX);
        return Err(io::Error::new(ErrorKind::FileTooLarge, text));
    }
    fs::read(path)
}

/// A name for a file out of one that a stranger gave: no path, not hidden, nothing that steers a terminal.
fn safe_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let clean: String =
        last.chars().filter(|c| !c.is_control() && !matches!(c, ':' | '*' | '?' | '"' | '<' | '>' | '|')).collect();
    let clean = clean.trim_start_matches(|c: char| c == '.' || c.is_whitespace()).trim_end();
    let clean = &clean[..clean.floor_char_boundary(SAVED_NAME_BYTES_MAX)];
    if clean.is_empty() { "blob".to_owned() } else { clean.to_owned() }
}

/// Writes a new file; where there is one of this name, one with a number behind it. Nothing is written over.
fn save_in(dir: &Path, name: &str, body: &[u8]) -> io::Result<PathBuf> {
    for number in 0..SAME_NAMES_MAX {
        let path = dir.join(if number == 0 { name.to_owned() } else { format!("{name}.{number}") });
        let mut file = match File::create_new(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        };
        file.write_all(body)?;
        return Ok(path);
    }
    Err(io::Error::new(ErrorKind::AlreadyExists, "too many files of this name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_s_name_leads_nowhere() {
        for (given, saved) in [
            ("holiday.mp4", "holiday.mp4"),
            ("../../etc/passwd", "passwd"),
            ("/etc/passwd", "passwd"),
            ("C:\\windows\\system.ini", "system.ini"),
            ("..", "blob"),
            ("...", "blob"),
            ("a/", "blob"),
            ("", "blob"),
            (".bashrc", "bashrc"),
            (" . x", "x"),
            ("a\u{1b}[2Jb\n", "a[2Jb"),
            ("what? *.txt", "what .txt"),
            ("Zoë 🦀", "Zoë 🦀"),
        ] {
            assert_eq!(safe_name(given), saved, "{given:?}");
        }
        assert_eq!(safe_name(&"é".repeat(127)).len(), 200);
    }
}
