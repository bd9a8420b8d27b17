use std::time::Duration;

use tokio::io::AsyncReadExt as _;

use super::*;
use crate::http;

/// Answers every request with a body of 100,000 bytes, and with the head of the request in a header.
async fn upstream() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let read = crate::http_server::read_head(&mut stream, Vec::new()).await;
                let (head, _) = read.expect("read").expect("a request");
                let echo = vec![
                    ("Range-Seen".to_owned(), head.header("range").unwrap_or("-").to_owned()),
                    (
                        "Authorization-Seen".to_owned(),
                        head.header("authorization").unwrap_or("-").to_owned(),
                    ),
                ];
                let mut bytes = crate::http_server::answer(200, &echo, 100_000).bytes();
                bytes.extend([b'a'; 100_000]);
                tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes).await.ok();
            });
        }
    });
    addr
}

/// Status, body and the raw head of one request with these headers.
async fn get(proxy: &RegistryProxy, path: &str, headers: &str) -> (u16, usize, String) {
    let mut stream = tokio::net::TcpStream::connect(proxy.addr()).await.expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes())
        .await
        .expect("sent");
    tokio::io::AsyncWriteExt::shutdown(&mut stream).await.expect("shut");
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).await.expect("an answer");
    let split = raw.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&raw[..split]).into_owned();
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    (status.expect("a status"), raw.len() - split - 4, head)
}

#[tokio::test]
async fn without_a_rule_all_passes_and_is_counted() {
    let proxy = RegistryProxy::before(&upstream().await).await.expect("a proxy");
    let answer = http::request(proxy.addr(), "GET", "/v2/a/blobs/b", "text/plain", &[])
        .await
        .expect("an answer");
    assert_eq!((answer.status, answer.body.len()), (200, 100_000));
    let seen = proxy.blobs();
    assert_eq!(
        (seen.len(), seen[0].status, proxy.blob_bytes()),
        (1, 200, 100_000),
        "{seen:?}"
    );
    proxy.forget();
    assert!(proxy.seen().is_empty());
}

#[tokio::test]
async fn each_fate_is_seen_by_the_client_as_often_as_the_rule_says() {
    let proxy = RegistryProxy::before(&upstream().await).await.expect("a proxy");
    proxy.arm(Rule::once("/cut", Fate::Cut { after: 30_000 }));
    assert_eq!(get(&proxy, "/cut", "").await.1, 30_000);
    assert_eq!(get(&proxy, "/cut", "").await.1, 100_000);
    proxy.arm(Rule::once("/damage", Fate::Damage { at: 60_000 }));
    let damaged = http::request(proxy.addr(), "GET", "/damage", "text/plain", &[])
        .await
        .expect("an answer");
    let wrong: Vec<_> = (0..damaged.body.len()).filter(|n| damaged.body[*n] != b'a').collect();
    assert_eq!(wrong, [60_000]);
    let to = "http://127.0.0.2:1".to_owned();
    proxy.arm(Rule::once("/move", Fate::Redirect { to }));
    let (status, _, head) = get(&proxy, "/move?x=1", "").await;
    assert_eq!(status, 307);
    assert!(head.contains("Location: http://127.0.0.2:1/move?x=1"), "{head}");
    let busy = Fate::Answer {
        status: 429,
        headers: vec![("Retry-After".into(), "2".into())],
        body: "busy".into(),
    };
    proxy.arm(Rule::times(2, "/busy", busy).method("GET"));
    let answers = [
        get(&proxy, "/busy", "").await.0,
        get(&proxy, "/busy", "").await.0,
        get(&proxy, "/busy", "").await.0,
    ];
    assert_eq!(answers, [429, 429, 200]);
}

#[tokio::test]
async fn headers_are_hidden_from_the_registry_when_told_so() {
    let proxy = RegistryProxy::before(&upstream().await).await.expect("a proxy");
    let headers = "Range: bytes=5-\r\nAuthorization: Basic x\r\n";
    let (_, _, head) = get(&proxy, "/a", headers).await;
    assert!(
        head.contains("Range-Seen: bytes=5-") && head.contains("Authorization-Seen: Basic x"),
        "{head}"
    );
    proxy.arm(Rule::once("/a", Fate::WithoutRanges));
    assert!(get(&proxy, "/a", headers).await.2.contains("Range-Seen: -"));
    proxy.arm(Rule::once("/a", Fate::WithoutCredentials));
    assert!(get(&proxy, "/a", headers).await.2.contains("Authorization-Seen: -"));
    assert_eq!(proxy.seen()[2].authorization.as_deref(), Some("Basic x"));
}

#[tokio::test]
async fn a_held_request_goes_on_when_the_rules_are_withdrawn() {
    let proxy = RegistryProxy::before(&upstream().await).await.expect("a proxy");
    proxy.arm(Rule::always("/held", Fate::Hold));
    let mut asking = std::pin::pin!(http::request(proxy.addr(), "GET", "/held", "text/plain", &[]));
    let early = tokio::select! {
        answer = &mut asking => Some(answer),
        () = proxy.wait_for(Duration::from_secs(5), "the request", |seen| seen.first().map(drop)) => None,
    };
    assert!(early.is_none(), "it was not held");
    assert_eq!(proxy.seen()[0].status, 0);
    proxy.disarm();
    assert_eq!(asking.await.expect("an answer").status, 200);
}
