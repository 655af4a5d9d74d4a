//! The program `mlx-native`: text from MLX models.

mod args;
mod chat;
mod generate;
mod report;

use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Generate(options) => generate::run(&options),
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
