//! `cargo xtask test`: runs the table of `steps`, stops at the first failure, and ends with what a CI reader looks for.

use crate::install;
use crate::published::LEFT_OUT;
use crate::shell::Result;
use crate::steps::{Counts, Level, Plan, STEPS, Step};
use std::time::{Duration, Instant};

/// What the command line asked for.
#[derive(Debug)]
pub struct Options {
    level: Level,
    may_install: bool,
    list: bool,
    names: Vec<String>,
}

impl Options {
    /// Reads the arguments after `test`.
    pub fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self {
            level: Level::Normal,
            may_install: true,
            list: false,
            names: Vec::new(),
        };
        for arg in args {
            match arg.as_str() {
                "--quick" => options.level = Level::Quick,
                "--long" => options.level = Level::Long,
                "--no-install" => options.may_install = false,
                "--list" => options.list = true,
                name if STEPS.iter().any(|step| step.name == name) => options.names.push(name.to_owned()),
                other => {
                    return Err(
                        format!("no step or option '{other}'; the steps are: {}", step_names()).into(),
                    );
                }
            }
        }
        let given = |name: &str| args.iter().any(|arg| arg == name);
        if given("--quick") && given("--long") {
            return Err("--quick and --long exclude each other".into());
        }
        Ok(options)
    }

    fn wants(&self, step: &Step) -> bool {
        if self.names.is_empty() {
            !step.only_when_named && (self.level != Level::Quick || step.in_quick)
        } else {
            self.names.iter().any(|name| name == step.name)
        }
    }
}

fn step_names() -> String {
    STEPS.iter().map(|step| step.name).collect::<Vec<_>>().join(" ")
}

/// The numbers of a test program's last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tests {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Tests {
    /// Adds a line such as `test result: ok. 12 passed; 0 failed; 1 ignored; …`; other lines count nothing.
    fn add_line(&mut self, line: &str) {
        let Some(counts) = line.trim_start().strip_prefix("test result: ") else {
            return;
        };
        for part in counts.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(kind)) = (words.next(), words.next()) else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match kind {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

/// A line of the table that is printed at the end.
struct Row {
    step: &'static Step,
    result: String,
    took: Duration,
}

/// Runs the steps that were asked for.
pub fn run(options: &Options) -> Result<()> {
    if options.list {
        for step in STEPS {
            println!(
                "{:12} {}{}",
                step.name,
                step.what,
                if step.only_when_named {
                    " (only when named)"
                } else {
                    ""
                }
            );
        }
        return Ok(());
    }
    let start = Instant::now();
    let wanted: Vec<&'static Step> = STEPS.iter().filter(|step| options.wants(step)).collect();
    let (mut rows, mut tests) = (Vec::new(), Tests::default());
    for (at, &step) in wanted.iter().enumerate() {
        // The table stands before the last step if that one ends with a table of its own, which belongs at the end.
        if step.name == "prove" && !rows.is_empty() {
            print_table(&rows, &[step]);
        }
        println!("\n==== {}: {} ====", step.name, step.what);
        let before = Instant::now();
        let outcome = run_step(step, options, &mut tests);
        let took = before.elapsed();
        let failed = outcome.is_err();
        let result = match &outcome {
            Ok(None) => "ok".to_owned(),
            Ok(Some(why)) => format!("skipped: {why}"),
            Err(_) => "FAILED".to_owned(),
        };
        println!("==== {}: {result}, {:.1} s ====", step.name, took.as_secs_f64());
        rows.push(Row { step, result, took });
        if failed || (at + 1 == wanted.len() && step.name != "prove") {
            print_table(&rows, &wanted[at + 1..]);
        }
        if let Err(error) = outcome {
            return Err(failure(step, options, &error.to_string()).into());
        }
    }
    print_closing(&rows, tests, start.elapsed());
    Ok(())
}

/// Returns why the step was skipped, or None if it ran.
fn run_step(step: &Step, options: &Options, tests: &mut Tests) -> Result<Option<String>> {
    let (needs, commands) = match (step.plan)(options.level) {
        Plan::Skip(why) => return Ok(Some(why.to_owned())),
        Plan::Run(needs, commands) => (needs, commands),
    };
    install::ensure(&needs, options.may_install)?;
    let (mut counted, mut left_out) = (Tests::default(), None);
    for command in &commands {
        match step.counts {
            Counts::Nothing => command.run()?,
            Counts::Tests | Counts::AtLeastOneTest => command.run_reading(|line| {
                counted.add_line(line);
                left_out = left_out.take().or(line.strip_prefix(LEFT_OUT).map(str::to_owned));
            })?,
        }
    }
    if step.counts == Counts::AtLeastOneTest && counted.passed == 0 {
        return Err("it ran no test".into());
    }
    tests.passed += counted.passed;
    tests.failed += counted.failed;
    tests.ignored += counted.ignored;
    Ok(left_out)
}

fn failure(step: &Step, options: &Options, error: &str) -> String {
    let level = if options.level == Level::Normal {
        String::new()
    } else {
        format!(" --{}", options.level.name())
    };
    let name = step.name;
    format!("step '{name}' failed: {error}\n  to repeat the step:  cargo xtask test{level} {name}")
}

fn print_table(rows: &[Row], not_run: &[&Step]) {
    println!("\n{:12} {:>9}  result", "step", "time");
    for row in rows {
        println!(
            "{:12} {:>7.1} s  {}",
            row.step.name,
            row.took.as_secs_f64(),
            row.result
        );
    }
    for step in not_run {
        let result = if rows.last().is_some_and(|row| row.result == "FAILED") {
            "not run"
        } else {
            "now"
        };
        println!("{:12} {:>9}  {result}", step.name, "");
    }
}

/// The sum of all test programs, in the words of one, so that whoever reads the last line knows that tests ran.
fn print_closing(rows: &[Row], tests: Tests, took: Duration) {
    let skipped = rows
        .iter()
        .filter(|row| row.result.starts_with("skipped"))
        .count();
    let seconds = took.as_secs_f64();
    println!(
        "\nsteps: {} ok, {skipped} skipped, in {:.1} min",
        rows.len() - skipped,
        seconds / 60.0
    );
    if tests != Tests::default() {
        println!(
            "test result: ok. {} passed; {} failed; {} ignored; 0 measured; 0 filtered out; finished in {seconds:.2}s",
            tests.passed, tests.failed, tests.ignored
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&args)
    }

    fn wanted(line: &str) -> Vec<&'static str> {
        let options = parse(line).expect("a valid command line");
        STEPS
            .iter()
            .filter(|step| options.wants(step))
            .map(|step| step.name)
            .collect()
    }

    #[test]
    fn without_names_every_step_runs_but_those_that_must_be_named() {
        let all = wanted("");
        assert!(
            all.contains(&"check-metal") && all.contains(&"tests") && !all.contains(&"advisories"),
            "{all:?}"
        );
        assert_eq!(wanted("advisories"), ["advisories"]);
    }

    #[test]
    fn quick_is_a_part_and_names_keep_the_order_of_the_table() {
        assert_eq!(wanted("--quick"), ["fmt", "clippy", "tests", "prove"]);
        assert_eq!(wanted("tests fmt"), ["fmt", "tests"]);
        assert_eq!(wanted("--quick deny"), ["deny"]);
    }

    #[test]
    fn unknown_words_are_named() {
        assert!(
            parse("tests nonsense")
                .unwrap_err()
                .to_string()
                .contains("nonsense")
        );
        assert!(parse("--quick --long").is_err() && parse("--long --quick").is_err());
    }

    #[test]
    fn test_lines_are_summed_and_other_lines_are_not() {
        let mut tests = Tests::default();
        tests.add_line("running 3 tests");
        tests.add_line(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 5 filtered out; finished in 0.01s",
        );
        tests.add_line("  test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!(
            tests,
            Tests {
                passed: 14,
                failed: 3,
                ignored: 1
            }
        );
    }
}
