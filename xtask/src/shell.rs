//! Running other programs: every command is shown before it runs, and none reads from the terminal.

use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An error is one message for the person at the terminal.
pub type Error = Box<dyn std::error::Error>;
/// What every chore returns.
pub type Result<T> = std::result::Result<T, Error>;

/// The root of the repository.
pub fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

/// Where chores leave what they make; ignored by git.
pub fn target_dir() -> PathBuf {
    let set = std::env::var_os("CARGO_TARGET_DIR").and_then(|dir| std::path::absolute(dir).ok());
    set.unwrap_or_else(|| root().join("target"))
}

/// A command with the settings that it needs beyond the environment.
#[derive(Clone, Debug)]
pub struct Cmd {
    program: String,
    args: Vec<String>,
    envs: Vec<(String, String)>,
    dir: PathBuf,
}

impl Cmd {
    /// A command that runs in the root of the repository.
    pub fn new(program: impl Into<String>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            envs: Vec::new(),
            dir: root(),
        }
    }

    /// A command given as one line, its words separated by spaces.
    pub fn line(words: &str) -> Self {
        let mut words = words.split_whitespace();
        let program = words.next().unwrap_or_default();
        Self::new(program).args(words)
    }

    /// Adds arguments.
    pub fn args<S: AsRef<str>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<Path>) -> Self {
        self.envs
            .push((name.to_owned(), value.as_ref().to_string_lossy().into_owned()));
        self
    }

    /// Sets the folder to run in.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = dir.into();
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .current_dir(&self.dir)
            .stdin(Stdio::null());
        command.envs(self.envs.iter().map(|(name, value)| (name, value)));
        command
    }

    fn start_error(&self, error: &std::io::Error) -> Error {
        format!("cannot run `{}`: {error}", self.program).into()
    }

    /// Runs it with its output on the terminal; an exit code other than 0 is an error.
    pub fn run(&self) -> Result<()> {
        eprintln!("$ {self}");
        let status = self.command().status().map_err(|e| self.start_error(&e))?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("failed ({status}): {self}").into())
        }
    }

    /// Runs it like `run` and hands each line of its standard output, which is shown too, to `each`.
    pub fn run_reading(&self, each: impl FnMut(&str)) -> Result<()> {
        self.read_lines(true, each)
    }

    /// Runs it like `run_reading`, and shows only its errors.
    pub fn run_quietly(&self, each: impl FnMut(&str)) -> Result<()> {
        self.read_lines(false, each)
    }

    fn read_lines(&self, shown: bool, mut each: impl FnMut(&str)) -> Result<()> {
        eprintln!("$ {self}");
        let mut child = self
            .command()
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| self.start_error(&e))?;
        if let Some(stdout) = child.stdout.take() {
            let mut out = std::io::stdout().lock();
            for line in BufReader::new(stdout).split(b'\n') {
                let line = line?;
                if shown {
                    out.write_all(&line)?;
                    out.write_all(b"\n")?;
                    out.flush()?;
                }
                each(&String::from_utf8_lossy(&line));
            }
        }
        let status = child.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("failed ({status}): {self}").into())
        }
    }

    /// Runs it in silence: whether it succeeded, and its two outputs as one text.
    pub fn capture(&self) -> Result<(bool, String)> {
        let output = self.command().output().map_err(|e| self.start_error(&e))?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok((output.status.success(), text))
    }

    /// Whether it can be run and exits with 0; says nothing.
    pub fn succeeds(&self) -> bool {
        self.capture().is_ok_and(|(success, _)| success)
    }
}

/// The command as it would be typed in the root of the repository.
impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.dir != root() {
            write!(f, "cd {} && ", quoted(&self.dir.to_string_lossy()))?;
        }
        for (name, value) in &self.envs {
            write!(f, "{name}={} ", quoted(value))?;
        }
        write!(f, "{}", quoted(&self.program))?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", quoted(arg)))
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Whether a program of this name is on the path.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// The sum of the sizes of the files in a folder that end in `suffix`, and their number; nested folders count.
pub fn folder_size(dir: &Path, suffix: &str) -> Result<(u64, usize)> {
    let (mut bytes, mut files) = (0, 0);
    for entry in std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))? {
        let entry = entry?;
        let kind = entry.metadata()?;
        if kind.is_dir() {
            let (b, f) = folder_size(&entry.path(), suffix)?;
            bytes += b;
            files += f;
        } else if entry.file_name().to_string_lossy().ends_with(suffix) {
            bytes += kind.len();
            files += 1;
        }
    }
    Ok((bytes, files))
}

/// Writes a file, and the folders above it.
pub fn write_file(path: &Path, text: &str) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()).into())
}

/// The text of a file, or None if there is none.
pub fn read_file(path: impl AsRef<OsStr>) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(Path::new(path.as_ref()))
        .ok()?
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_they_would_be_typed() {
        let cmd = Cmd::line("cargo test --lib")
            .args(["a b"])
            .env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(
            cmd.to_string(),
            "RUSTDOCFLAGS='-D warnings' cargo test --lib 'a b'"
        );
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn output_is_read_line_by_line_and_failure_is_an_error() {
        let mut lines = Vec::new();
        let cmd = Cmd::new("sh").args(["-c", "echo one; echo two; exit 3"]);
        let error = cmd
            .run_reading(|line| lines.push(line.to_owned()))
            .unwrap_err()
            .to_string();
        assert_eq!(lines, ["one", "two"]);
        assert!(error.contains('3') && error.contains("echo one"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Cmd::new("no-such-program-here").run().unwrap_err().to_string();
        assert!(error.contains("no-such-program-here"), "{error}");
        assert!(!on_path("no-such-program-here") && on_path("sh"));
    }
}
