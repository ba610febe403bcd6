//! Bodies that are sent slowly, or hold more than their length says.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::harness::{Request, Server};
use crate::swap::upload;

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_slowly_keeps_nobody_waiting() {
    let server = Server::start().await;
    let slow = server.agent("slow", "claude_code_remote").await;
    let head = format!(
        "POST /components HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-type: application/wasm\r\ncontent-length: 1000\r\n\r\n",
        slow.key.clone().unwrap()
    );
    let open: Vec<_> = (0..12)
        .map(|_| {
            let mut stream = TcpStream::connect(server.admin.address).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    server.admin.send(upload(b"not a component".to_vec())).await.invalid("not_a_component");
    // Less than it takes until a slow one is given up.
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    drop(open);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_of_very_many_values_is_not_read() {
    let server = Server::start().await;
    let agent = server.agent("worker", "claude_code_remote").await;
    let list = format!("{{\"x\":[{}0]}}", "[0],".repeat(60_000));
    for path in ["/components", "/handoffs/write", "/locks/acquire"] {
        let request = Request::new("POST", path).header("content-type", "application/json");
        agent.send(request.raw(list.clone().into_bytes())).await.invalid("json_too_large");
    }
    let request = Request::new("POST", "/mcp").header("content-type", "application/json");
    let reply =
        agent.send(request.header("accept", "application/json, text/event-stream").raw(list.into_bytes())).await;
    assert_eq!(reply.status, 400, "{}", reply.body);
    assert!(reply.body.to_string().contains("50,000 values"), "{}", reply.body);
}
