//! Keys, origins, sizes, clients that leave, the end.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use mlx_native_serve::ServeConfig;
use serde_json::json;

use crate::client::{get, post, send};
use crate::script::{Script, saying, scripted};

const CHAT: &str = r#"{"messages": [{"role": "user", "content": "hi"}]}"#;

#[test]
fn keys() {
    let config = ServeConfig {
        api_keys: vec!["first".to_owned(), "second".to_owned()],
        ..ServeConfig::default()
    };
    let (server, _) = scripted(Script::saying("x"), None, config);
    let status =
        |headers: &[(&str, &str)]| send(server.address, "POST", "/v1/chat/completions", headers, CHAT).status;
    assert_eq!(status(&[("Authorization", "Bearer second")]), 200);
    assert_eq!(status(&[("x-api-key", "first")]), 200);
    for wrong in [
        "Bearer third",
        "Bearer firs",
        "Bearer firstx",
        "Basic first",
        "first",
        "Bearer ",
    ] {
        assert_eq!(status(&[("Authorization", wrong)]), 401, "{wrong}");
    }
    assert_eq!(status(&[]), 401);
    let reply = get(server.address, "/v1/models");
    assert_eq!(
        (reply.status, reply.json()["error"]["code"].as_str()),
        (401, Some("invalid_api_key"))
    );
    assert_eq!(get(server.address, "/health").status, 200);
}

#[test]
fn origins() {
    let config = ServeConfig {
        allowed_origins: vec!["https://chat.example".to_owned()],
        ..ServeConfig::default()
    };
    let (server, _) = scripted(Script::saying("x"), None, config);
    for (origin, allowed) in [
        ("http://localhost:3000", true),
        ("http://127.0.0.1", true),
        ("https://chat.example", true),
        ("https://evil.example", false),
        ("http://localhost.evil.example", false),
        ("http://localhost@evil.example", false),
        ("null", false),
    ] {
        let asked = [
            ("Origin", origin),
            ("Access-Control-Request-Headers", "x-stainless-os, authorization"),
        ];
        let reply = send(server.address, "OPTIONS", "/v1/chat/completions", &asked, "");
        assert_eq!(
            reply.header("access-control-allow-origin").is_some(),
            allowed,
            "{origin}"
        );
        if allowed {
            assert_eq!(
                reply.header("access-control-allow-headers"),
                Some("x-stainless-os, authorization")
            );
        }
        let reply = send(
            server.address,
            "POST",
            "/v1/chat/completions",
            &[("Origin", origin)],
            CHAT,
        );
        assert_eq!(reply.status, if allowed { 200 } else { 403 }, "{origin}");
    }
}

#[test]
fn sizes_and_paths() {
    let config = ServeConfig {
        max_body: 1000,
        ..ServeConfig::default()
    };
    let (server, _) = scripted(Script::saying("x"), None, config);
    let reply = send(
        server.address,
        "POST",
        "/v1/chat/completions",
        &[],
        &" ".repeat(1001),
    );
    assert_eq!(reply.status, 413);
    let reply = get(server.address, "/nowhere");
    assert_eq!(
        (reply.status, reply.json()["error"]["type"].as_str()),
        (404, Some("not_found_error"))
    );
    assert_eq!(get(server.address, "/v1/chat/completions").status, 405);
    assert_eq!(get(server.address, "/").status, 200);
    assert_eq!(send(server.address, "HEAD", "/", &[], "").status, 200);
    let id = [("x-request-id", "mine-7")];
    assert_eq!(
        send(server.address, "GET", "/health", &id, "").header("x-request-id"),
        Some("mine-7")
    );
    let metrics = get(server.address, "/metrics").body;
    assert!(
        metrics.contains("mlx_native_num_requests_running{model_name=\"org/scripted\"} 0"),
        "{metrics}"
    );
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let script = Script::saying("x");
    script.room.store(1, SeqCst);
    let (server, _) = scripted(script, None, ServeConfig::default());
    assert_eq!(
        send(server.address, "POST", "/v1/chat/completions", &[], CHAT).status,
        200
    );
    let reply = send(server.address, "POST", "/v1/chat/completions", &[], CHAT);
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("1")));
}

#[test]
fn clients_that_leave_are_noticed() {
    let slow = |streamed: bool| {
        let mut script = Script::saying(&"word ".repeat(200));
        script.pause = Duration::from_millis(20);
        let (server, script) = scripted(script, None, ServeConfig::default());
        let body = json!({"messages": [{"role": "user", "content": "hi"}], "stream": streamed}).to_string();
        let mut stream = TcpStream::connect(server.address).unwrap();
        write!(
            stream,
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        if streamed {
            let mut some = [0; 200];
            stream.read_exact(&mut some).unwrap();
        } else {
            std::thread::sleep(Duration::from_millis(300));
        }
        drop(stream);
        let start = Instant::now();
        while script.gone.load(SeqCst) == 0 {
            assert!(start.elapsed() < Duration::from_secs(5), "streamed: {streamed}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    slow(true);
    slow(false);
}

#[test]
fn what_has_begun_is_ended() {
    let mut script = Script::saying(&"word ".repeat(40));
    script.pause = Duration::from_millis(20);
    let (mut server, _) = scripted(script, None, ServeConfig::default());
    let address = server.address;
    let asked = std::thread::spawn(move || {
        post(
            address,
            "/v1/chat/completions",
            &json!({"messages": [{"role": "user", "content": "hi"}], "stream": true}),
        )
    });
    std::thread::sleep(Duration::from_millis(400));
    server.stop.stop();
    let chunks = asked.join().unwrap().chunks();
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
    server.thread.take().unwrap().join().unwrap();
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn one_bad_request_hurts_nobody() {
    let server = saying("fine");
    for garbage in [
        "\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 5\r\n\r\n{",
        "\0\0\0\0",
    ] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        let _ = stream.write_all(garbage.as_bytes());
    }
    assert_eq!(
        send(server.address, "POST", "/v1/chat/completions", &[], CHAT).status,
        200
    );
}
