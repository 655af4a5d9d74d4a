//! The program `mlx-native`: text from MLX models.

mod args;
mod bench;
mod chat;
mod converse;
mod convert;
mod fuse;
mod generate;
mod inspect;
mod perplexity;
mod place;
mod report;
mod serve;

use std::panic::PanicHookInfo;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use args::{Cli, Command};
use clap::Parser;

/// Exit code of a failure that is this program's own.
const BUG: u8 = 101;
/// What the last panic of the main thread said, and where.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Keeps what a panic says: the library catches those of other libraries and makes errors of them, and one line is all that
/// a user should see of any.
fn keep(info: &PanicHookInfo<'_>) {
    let text = format!("{info}");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if std::thread::current().name() == Some("main") {
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = text;
    } else {
        report::error(&text);
    }
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(keep));
    std::panic::catch_unwind(run).unwrap_or_else(|_| {
        let said = PANIC.lock().unwrap_or_else(PoisonError::into_inner);
        report::error(&format!("this is a defect of mlx-native: {said}"));
        ExitCode::from(BUG)
    })
}

fn run() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Generate(options) => generate::run(&options),
        Command::Chat(options) => converse::run(&options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Convert(options) => convert::run(&options),
        Command::Fuse(options) => fuse::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Perplexity(options) => perplexity::run(&options),
        Command::Serve(options) => serve::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, whatever the error is made of.
            let text = format!("{error:#}")
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ");
            report::error(&text);
            ExitCode::FAILURE
        }
    }
}
