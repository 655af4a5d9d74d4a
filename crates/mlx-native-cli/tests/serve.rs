//! The server and the conversation, run as a user would.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(flags: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mlx-native"))
            .args(["serve", "--port", "0", "--quiet"])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut address = None;
        for line in lines.by_ref() {
            let line = line.unwrap();
            address = line.split_once("http://").map(|(_, a)| a.to_owned()).or(address);
            if line == "ready" {
                break;
            }
        }
        // What else it says must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let address = address.expect("the server says where it listens");
        Server { child, address }
    }

    fn send(&self, body: &Value) -> TcpStream {
        let body = body.to_string();
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: ";
        write!(stream, "{head}{}\r\n\r\n{body}", body.len()).unwrap();
        stream
    }

    fn ask(&self, body: &Value) -> Value {
        let mut reply = String::new();
        self.send(body).read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{reply}");
        serde_json::from_str(body).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL on Unix.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A prompt of several pages that begins as others do.
fn body(i: usize) -> Value {
    let text = "The borrow checker proves that references never outlive what they point to. ".repeat(6);
    json!({"prompt": format!("{text}Part {}: {text}Example {i}:", i % 2), "max_tokens": 3, "temperature": 0, "logprobs": 1})
}

fn of(reply: &Value) -> [Value; 2] {
    let choice = &reply["choices"][0];
    [
        choice["text"].clone(),
        choice["logprobs"]["token_logprobs"].clone(),
    ]
}

#[test]
fn a_server_that_is_killed_serves_again_with_the_same_tokens() {
    let cache = scratch("killed");
    let flags = ["--prompt-cache-dir", cache.to_str().unwrap()];
    let wanted: Vec<[Value; 2]> = {
        let server = Server::start(&[]);
        (0..3).map(|i| of(&server.ask(&body(i)))).collect()
    };
    let mut hits = 0;
    for round in 0..6 {
        let server = Server::start(&flags);
        for (i, wanted) in wanted.iter().enumerate() {
            let reply = server.ask(&body(i));
            assert_eq!(&of(&reply), wanted, "round {round}, request {i}");
            hits += usize::from(reply["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64() > Some(64));
        }
        let _unfinished = server.send(&body(7 + round));
        // Sooner or later behind it, so that every part of what follows is met.
        std::thread::sleep(Duration::from_millis(7 * round as u64));
    }
    assert!(hits > 0, "nothing was ever found again");
}

/// Files of a folder that are no pages.
fn leftovers(folder: &Path) -> usize {
    let names = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    names
        .filter(|p| p.extension().is_none_or(|e| e != "page"))
        .count()
}

/// `cargo test --release -p mlx-native-cli --test serve -- --ignored kills --nocapture`: some minutes.
#[test]
#[ignore = "200 kills take minutes"]
fn kills_at_any_moment_leave_a_cache_that_serves() {
    let cache = scratch("kills");
    // Small enough that pages are thrown out while others are written.
    let flags = [
        "--prompt-cache-dir",
        cache.to_str().unwrap(),
        "--prompt-cache-disk",
        "0.02",
    ];
    let wanted: Vec<[Value; 2]> = {
        let server = Server::start(&[]);
        (0..8).map(|i| of(&server.ask(&body(i)))).collect()
    };
    let mut random = 12345u64;
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    let (mut hits, mut asked, mut most) = (0, 0, 0);
    for round in 0..200usize {
        let server = Server::start(&flags);
        for i in [round % 8, draw(8) as usize] {
            let reply = server.ask(&body(i));
            assert_eq!(of(&reply), wanted[i], "round {round}, request {i}");
            asked += 1;
            hits += usize::from(reply["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64() > Some(0));
        }
        // Traffic that the kill meets: answers on their way, prompts half computed, pages half written.
        let traffic: Vec<TcpStream> = (0..draw(5))
            .map(|_| server.send(&body(8 + draw(1000) as usize)))
            .collect();
        std::thread::sleep(Duration::from_micros(draw(250_000)));
        drop(server);
        drop(traffic);
        most = most.max(leftovers(&cache));
    }
    let server = Server::start(&flags);
    for (i, wanted) in wanted.iter().enumerate() {
        assert_eq!(&of(&server.ask(&body(i))), wanted, "at the end, request {i}");
    }
    let left = leftovers(&cache);
    println!(
        "200 kills, {asked} answers all right, {hits} of them with a cached beginning; files left half written: {most} at most, {left} at the end"
    );
    assert!(hits > 20, "the cache was hardly ever met: {hits}");
    // What a kill leaves half written goes at the next start.
    assert!(most <= 8 && left <= 2, "{most} {left}");
}

#[test]
fn a_draft_model_changes_no_answer() {
    let folder = scratch("draft");
    for (name, bytes) in mlx_native_demo::files() {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    let asked = json!({"prompt": "Ownership in Rust means", "max_tokens": 24, "temperature": 0.8, "seed": 3, "logprobs": 1});
    let wanted = of(&Server::start(&[]).ask(&asked));
    let path = folder.to_str().unwrap();
    let server = Server::start(&["--draft-model", path, "--num-draft-tokens", "4"]);
    assert_eq!(of(&server.ask(&asked)), wanted);
    let mut stream = TcpStream::connect(&server.address).unwrap();
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let number = |name: &str| {
        let line = reply.lines().find(|l| l.starts_with(name) && !l.starts_with('#'));
        line.and_then(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok())
            .unwrap_or(-1.0)
    };
    let accepted = number("mlx_native_spec_decode_num_accepted_tokens_total");
    assert!(accepted > 10.0, "{accepted}: {reply}");
    let output = Command::new(env!("CARGO_BIN_EXE_mlx-native"))
        .args(["serve", "--port", "0", "--draft-model", "/nowhere/at-all"])
        .output()
        .unwrap();
    assert!(!output.status.success() && text(&output.stderr).contains("--draft-model"));
}

#[cfg(unix)]
#[test]
fn a_server_that_is_told_to_stop_ends_with_its_pages_written() {
    let cache = scratch("stopped");
    let flags = ["--prompt-cache-dir", cache.to_str().unwrap()];
    let mut server = Server::start(&flags);
    let wanted = of(&server.ask(&body(0)));
    // SAFETY: a signal to a child of this process.
    unsafe { libc::kill(i32::try_from(server.child.id()).unwrap(), libc::SIGTERM) };
    let until = Instant::now() + Duration::from_secs(20);
    let status = loop {
        match server.child.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(Instant::now() < until, "it does not end"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.code(), Some(0));
    let server = Server::start(&flags);
    let reply = server.ask(&body(0));
    assert_eq!(of(&reply), wanted);
    let usage = &reply["usage"];
    let (all, known) = (
        &usage["prompt_tokens"],
        &usage["prompt_tokens_details"]["cached_tokens"],
    );
    assert!(known.as_u64().unwrap() + 64 >= all.as_u64().unwrap(), "{usage}");
}

fn chat(flags: &[&str], lines: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mlx-native"))
        .args(["chat", "--temp", "0", "--max-tokens", "6"])
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_conversation_obeys_its_commands() {
    let folder = scratch("chat");
    let file = folder.join("talk.json");
    let name = file.to_str().unwrap();
    let talk = format!(
        "Ownership means\n\"\"\"\ntwo\nlines\n\"\"\"\none \\\nmore\n/stats\n/save {name}\n/help\n/reset\nOwnership means\n"
    );
    let output = chat(&[], &talk);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{err}");
    assert!(!out.contains('\x1b') && !err.contains('\x1b'), "{out:?} {err:?}");
    assert!(err.contains("3 answers") && err.contains("/reset"), "{err}");
    let saved: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let messages = saved["messages"].as_array().unwrap();
    let said: Vec<&str> = messages
        .iter()
        .filter(|m| m["role"] == "user")
        .map(|m| m["content"].as_str().unwrap())
        .collect();
    assert_eq!(said, ["Ownership means", "two\nlines", "one \nmore"]);
    let first = messages[1]["content"].as_str().unwrap();
    assert!(
        !first.is_empty() && out.starts_with(first) && out.trim_end().ends_with(first.trim_end()),
        "{out:?}"
    );
    // What was saved goes on; the same flags, the same answer.
    let goes_on = |flags: &[&str]| {
        let output = chat(flags, &format!("/load {name}\nAnd then\n"));
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    assert_eq!(goes_on(&[]), goes_on(&["--prompt-lookup", "4"]));
    // Errors end a script with one line, and say what is wrong.
    for (flags, lines, words) in [
        (vec![], "/nonsense\n", "/nonsense"),
        (vec![], "/load /nowhere/at-all.json\n", "at-all.json"),
        (vec!["--prompt-lookup", "100"], "x\n", "num_draft_tokens"),
        (
            vec!["--system-prompt", "x", "--chat-template-config", "{"],
            "x\n",
            "--chat-template-config",
        ),
    ] {
        let output = chat(&flags, lines);
        assert_eq!(output.status.code(), Some(1), "{lines}");
        assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
    }
    std::fs::write(&file, "{\"messages\": [{\"role\": \"robot\"}]}").unwrap();
    let output = chat(&[], &format!("/load {name}\n"));
    assert!(text(&output.stderr).contains("robot"), "{}", text(&output.stderr));
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_answer_and_not_the_conversation() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mlx-native"))
        .args(["chat", "--temp", "0", "--max-tokens", "100000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdin.write_all(b"Ownership in Rust means\n").unwrap();
    let mut some = [0; 4];
    stdout.read_exact(&mut some).unwrap();
    // SAFETY: a signal to a child of this process.
    unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGINT) };
    stdin.write_all(b"/stats\n/quit\n").unwrap();
    drop(stdin);
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(err.contains("1 answers"), "{err}");
}
