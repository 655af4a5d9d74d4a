//! What goes to standard error: progress, statistics, errors.

use std::io::Write as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// One line on standard error. Where that is full or closed nobody can be told, so the line is lost.
pub fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A text on standard output. A reader that has left, such as `head`, has what it wanted.
///
/// # Errors
/// When standard output cannot be written.
pub fn out(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::from(error).context("standard output"))
        }
        _ => Ok(()),
    }
}

/// One line for an error.
pub fn error(text: &str) {
    line(&format!("error: {text}"));
}

/// One line for something that does not go as the user may expect.
pub fn note(text: &str) {
    line(&format!("note: {text}"));
}

/// A bar that shows itself after a moment, and only on a terminal.
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar; hidden when not `visible`.
    pub fn new(visible: bool) -> Self {
        if !visible {
            return Progress(ProgressBar::hidden());
        }
        let bar = ProgressBar::no_length();
        if let Ok(style) = ProgressStyle::with_template("{msg:12} {bar:32} {pos}/{len} tokens") {
            bar.set_style(style);
        }
        Progress(bar)
    }

    /// A stage whose length nobody knows.
    pub fn stage(&self, name: &'static str) {
        self.0.set_message(name);
        self.0.enable_steady_tick(Duration::from_millis(200));
    }

    /// `done` of `total` tokens of the prompt.
    pub fn prompt(&self, done: usize, total: usize) {
        self.0.set_message("prompt");
        self.0.set_length(total as u64);
        self.0.set_position(done as u64);
    }

    /// `done` of `total` bytes of something.
    pub fn bytes(&self, name: &'static str, done: u64, total: u64) {
        if let Ok(style) = ProgressStyle::with_template("{msg:12} {bar:32} {bytes}/{total_bytes}") {
            self.0.set_style(style);
        }
        self.0.set_message(name);
        self.0.set_length(total);
        self.0.set_position(done);
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// Most bytes of memory that this program ever had resident, where the operating system tells.
pub fn peak_memory_bytes() -> Option<u64> {
    // Linux also counts to a process what it was before it became this program: `cargo run` was a cargo. This does not.
    let high_water = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    if let Some(kibibytes) = std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(high_water)
    {
        return Some(kibibytes * 1024);
    }
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to memory of the right size; all zeros is a valid rusage.
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) != 0 {
            return None;
        }
        usage.assume_init()
    };
    // Apple counts bytes, the others kibibytes.
    let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
    u64::try_from(usage.ru_maxrss).ok().map(|n| n * unit)
}
