//! Heads that are no heads, or too large: the endpoint is asked, and answers with a problem.
use super::*;

/// Answers refusals, as the API does, with a body and a header of its own.
fn refusing() -> App {
    let refusing = make(|request: Request| async move {
        let refused = request.data::<HeadRefused>().copied();
        let status = match refused {
            None => StatusCode::OK,
            Some(HeadRefused::TooLarge) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Some(HeadRefused::Malformed) => StatusCode::BAD_REQUEST,
        };
        let version = format!("{:?}", request.version());
        Response::builder().status(status).header("x-asked", version).body(format!("{refused:?}"))
    });
    Arc::from(refusing.map_to_response().boxed())
}

/// Writes over TLS as HTTP/1.1 and reads until the far end closes.
async fn talk_tls(running: &Running, roots: &Arc<rustls::ClientConfig>, bytes: &[u8]) -> String {
    let tcp = TcpStream::connect(running.at).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let connector = tokio_rustls::TlsConnector::from(roots.clone());
    let mut tls = connector.connect(name, tcp).await.unwrap();
    // All is written before the first byte of the answer is read.
    tls.write_all(bytes).await.unwrap();
    tls.flush().await.unwrap();
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A request that is fine but for these fields.
fn with_fields(count: usize, value_bytes: usize) -> Vec<u8> {
    let value = "a".repeat(value_bytes);
    let fields: String = (0..count).map(|n| format!("x-{n}: {value}\r\n")).collect();
    format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n").into_bytes()
}

#[tokio::test]
async fn over_http1_refused_heads_are_answered_by_the_endpoint() {
    let (running, roots, _) = serve_tls_with(refusing(), Options::default()).await;
    let (large, malformed) = ("HTTP/1.1 431 Request Header", "HTTP/1.1 400 Bad Request\r\n");
    let mut unending = b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ".to_vec();
    unending.resize(limits::HEADER_BYTES_MAX, b'a');
    let target = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(70 << 10));
    for (request, expected, said) in [
        (with_fields(1, 70 << 10), large, "Some(TooLarge)"),
        (with_fields(1, 4 << 20), large, "Some(TooLarge)"),
        (with_fields(200, 1), large, "Some(TooLarge)"),
        (unending, large, "Some(TooLarge)"),
        (target.into_bytes(), large, "Some(TooLarge)"),
        (b"what is this\r\n\r\n".to_vec(), malformed, "Some(Malformed)"),
        (b"GET / HTTP/7.5\r\nHost: x\r\n\r\n".to_vec(), malformed, "Some(Malformed)"),
        (b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), malformed, "Some(Malformed)"),
        (b"GET / HTTP/1.1\r\nno field\r\n\r\n".to_vec(), malformed, "Some(Malformed)"),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_vec(),
            malformed,
            "Some(Malformed)",
        ),
    ] {
        let begin = String::from_utf8_lossy(&request[..request.len().min(40)]).into_owned();
        let answer = talk_tls(&running, &roots, &request).await;
        assert!(answer.starts_with(expected), "{begin}: {answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{said}")), "{begin}: {answer}");
        for field in ["connection: close", "x-asked: HTTP/1.1", "date: "] {
            assert!(answer.contains(&format!("\r\n{field}")), "{begin}: no {field} in {answer}");
        }
        assert!(answer.contains(&format!("\r\ncontent-length: {}\r\n", said.len())), "{answer}");
    }
    running.ended().await;
}

#[tokio::test]
async fn a_refused_head_behind_others_leaves_their_answers_alone() {
    let (running, roots, _) = serve_tls_with(refusing(), Options::default()).await;
    let fine = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let requests = format!("{fine}{fine}nonsense\r\n\r\n");
    let answers = talk_tls(&running, &roots, requests.as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{answers}");
    assert_eq!(answers.matches("\r\n\r\nNone").count(), 2, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 400 ").count(), 1, "{answers}");
    assert!(answers.ends_with("\r\n\r\nSome(Malformed)"), "{answers}");
    running.ended().await;
}

#[tokio::test]
async fn over_http2_large_heads_are_answered_by_the_endpoint() {
    let (running, _, client) = serve_tls_with(refusing(), Options::default()).await;
    let client = client.build().unwrap();
    let url = format!("https://localhost:{}/", running.at.port());
    let long = client.get(&url).header("x-long", "a".repeat(70 << 10));
    let many = (0..200).fold(client.get(&url), |get, n| get.header(format!("x-{n}"), "a"));
    let target = client.get(format!("{url}{}", "a".repeat(65_000))).header("x", "a".repeat(999));
    for (request, status, said) in [
        (long, 431, "Some(TooLarge)"),
        (many, 431, "Some(TooLarge)"),
        (target, 431, "Some(TooLarge)"),
        (client.get(&url).header("x-long", "a".repeat(60 << 10)), 200, "None"),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(
            (answer.version(), answer.status().as_u16()),
            (reqwest::Version::HTTP_2, status)
        );
        assert_eq!(answer.text().await.unwrap(), said);
    }
    // Far above it memory is what counts: hyper refuses, and the connection lives on.
    let far = client.get(&url).header("x-long", "a".repeat(150 << 10)).send().await;
    assert!(far.is_err() || far.unwrap().status() == 431);
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
    running.ended().await;
}
