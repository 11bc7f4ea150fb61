#![allow(clippy::unwrap_used)]
//! Over real sockets, as clients meet it.

use super::body::{BodyOptions, ReadBody};
use super::refusal::HeadRefused;
use super::*;
use crate::base::seams::{Net as _, SystemNet, SystemSpawn};
use futures_util::future::BoxFuture;
use poem::endpoint::make;
use poem::http::StatusCode;
use poem::{EndpointExt as _, Request};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};

/// A server of one test.
struct Running {
    at: SocketAddr,
    stop: CancellationToken,
    done: oneshot::Receiver<()>,
}

impl Running {
    async fn ended(self) {
        self.stop.cancel();
        self.done.await.unwrap();
    }
}

async fn serve(app: impl Into<App> + Send + 'static, options: Options, grace: Duration) -> Running {
    let listener = SystemNet.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    serve_on(listener, None, app, options, grace)
}

fn serve_on(
    listener: Box<dyn Listener>,
    tls: Option<Arc<rustls::ServerConfig>>,
    app: impl Into<App> + Send + 'static,
    options: Options,
    grace: Duration,
) -> Running {
    let (at, stop) = (listener.local_addr(), CancellationToken::new());
    let spawn: Arc<dyn Spawn> = Arc::new(SystemSpawn);
    let (over, done) = oneshot::channel();
    let served = Httpd::serve(listener, tls, app, options, spawn.clone(), stop.clone(), grace);
    spawn.task(Box::pin(async move {
        served.await;
        let _ = over.send(());
    }));
    Running { at, stop, done }
}

fn hello() -> App {
    let hello = make(|request: Request| async move {
        format!("{:?} {} {}", request.version(), request.scheme(), request.remote_addr())
    });
    Arc::from(hello.map_to_response().boxed())
}

fn quick() -> Options {
    let time = Duration::from_millis(250);
    Options { header_time: time, handshake_time: time, idle_time: time, ..Options::default() }
}

const GRACE: Duration = Duration::from_secs(10);
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

async fn talk(at: SocketAddr, bytes: &[u8]) -> String {
    let mut tcp = TcpStream::connect(at).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    answer
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A certificate for `localhost`, as server configuration and as the root a client trusts.
fn certificate() -> (Arc<rustls::ServerConfig>, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (Arc::new(config), made.cert.pem())
}

async fn serve_tls(options: Options) -> (Running, reqwest::ClientBuilder) {
    let (running, _, client) = serve_tls_with(hello(), options).await;
    (running, client)
}

async fn serve_tls_with(
    app: App,
    options: Options,
) -> (Running, Arc<rustls::ClientConfig>, reqwest::ClientBuilder) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (config, pem) = certificate();
    let listener = SystemNet.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let running = serve_on(listener, Some(config), app, options, GRACE);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let trusting = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let root = reqwest::Certificate::from_pem(pem.as_bytes()).unwrap();
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([root])
        .resolve("localhost", running.at);
    (running, Arc::new(trusting), client)
}

#[tokio::test]
async fn it_speaks_http1_in_the_clear_and_knows_the_far_end() {
    let running = serve(hello(), Options::default(), GRACE).await;
    let answer = talk(running.at, GET).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("HTTP/1.1 http socket://127.0.0.1:"), "{answer}");
    running.ended().await;
}

#[tokio::test]
async fn it_speaks_http2_in_the_clear() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let running = serve(hello(), Options::default(), GRACE).await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let answer = client.get(format!("http://{}/", running.at)).send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert!(answer.text().await.unwrap().starts_with("HTTP/2.0 http socket://127.0.0.1:"));
    running.ended().await;
}

#[tokio::test]
async fn over_tls_the_handshake_chooses_the_protocol() {
    let (running, client) = serve_tls(Options::default()).await;
    let url = format!("https://localhost:{}/", running.at.port());
    let newer = client.build().unwrap().get(&url).send().await.unwrap();
    assert_eq!(newer.version(), reqwest::Version::HTTP_2);
    assert!(newer.text().await.unwrap().starts_with("HTTP/2.0 https "));
    running.ended().await;

    let (running, client) = serve_tls(Options::default()).await;
    let url = format!("https://localhost:{}/", running.at.port());
    let older = client.http1_only().build().unwrap().get(&url).send().await.unwrap();
    assert_eq!(older.version(), reqwest::Version::HTTP_11);
    running.ended().await;
}

#[tokio::test]
async fn a_silent_client_is_let_go() {
    let (running, _) = serve_tls(quick()).await;
    assert_eq!(talk(running.at, b"").await, "", "no handshake");
    running.ended().await;

    let running = serve(hello(), quick(), GRACE).await;
    assert_eq!(talk(running.at, b"").await, "", "no byte");
    assert_eq!(talk(running.at, &b"PRI * HTTP/2.0\r\n"[..]).await, "", "half a preface");
    talk(running.at, b"GET / HTTP/1.1\r\nHost: x\r\n").await;
    running.ended().await;
}

#[tokio::test]
async fn a_dripping_header_is_not_waited_for() {
    let running = serve(hello(), quick(), GRACE).await;
    let (mut read, mut write) = TcpStream::connect(running.at).await.unwrap().into_split();
    let dripping = async move {
        write.write_all(b"GET / HTTP/1.1\r\n").await?;
        loop {
            write.write_all(b"a: b\r\n").await?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        #[allow(unreachable_code)]
        io::Result::Ok(())
    };
    let mut end = Vec::new();
    tokio::select! {
        _ = dripping => {}
        _ = read.read_to_end(&mut end) => {}
    }
    running.ended().await;
}

#[tokio::test]
async fn each_header_has_its_time_and_idling_has_another() {
    // Only the header's bound is near: what ends within the test ended for it.
    let options = Options { idle_time: Duration::from_secs(3_600), ..quick() };
    let running = serve(hello(), options, GRACE).await;
    let mut tcp = TcpStream::connect(running.at).await.unwrap();
    let mut answer = vec![0; 4_096];
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(tcp.read(&mut answer).await.unwrap() > 0);
    // Idle for longer than a header may take, and still served.
    let idle = tokio::time::timeout(Duration::from_millis(600), tcp.read(&mut answer)).await;
    assert!(idle.is_err(), "an idle connection stays");
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(tcp.read(&mut answer).await.unwrap() > 0);
    // A second header that does not end.
    tcp.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = tcp.read_to_end(&mut rest).await;
    // And a first one.
    talk(running.at, b"GET / HTTP/1.1\r\nHost: x\r\n").await;
    running.ended().await;

    let options = Options { idle_time: Duration::from_millis(100), ..Options::default() };
    let running = serve(hello(), options, GRACE).await;
    let answer = talk(running.at, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "then idles until it is let go: {answer}");
    running.ended().await;
}

#[tokio::test]
async fn a_slow_answer_is_no_slow_header() {
    let (slow, app) = Slow::new();
    let running = serve(app, quick(), GRACE).await;
    let mut answer = Box::pin(talk(running.at, GET));
    let early = tokio::time::timeout(Duration::from_millis(600), answer.as_mut()).await;
    assert!(early.is_err(), "still at work");
    slow.end.notify_one();
    assert!(answer.await.ends_with("late"));
    running.ended().await;
}

#[tokio::test]
async fn above_the_cap_connections_wait() {
    let options = Options { connections_max: 1, ..Options::default() };
    let running = serve(hello(), options, GRACE).await;
    let mut first = TcpStream::connect(running.at).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut byte = [0];
    first.read_exact(&mut byte).await.unwrap();
    let mut second = Box::pin(talk(running.at, GET));
    let early = tokio::time::timeout(Duration::from_millis(50), second.as_mut()).await;
    assert!(early.is_err(), "no slot is free");
    drop(first);
    assert!(second.await.starts_with("HTTP/1.1 200 OK"));
    running.ended().await;
}

/// A request that runs until it is told to end, and tells when it began and when it is gone.
struct Slow {
    began: Arc<Notify>,
    end: Arc<Notify>,
    gone: Arc<AtomicUsize>,
}

struct CountDrop(Arc<AtomicUsize>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Slow {
    fn new() -> (Self, App) {
        let slow = Self {
            began: Arc::default(),
            end: Arc::default(),
            gone: Arc::new(AtomicUsize::new(0)),
        };
        let (began, end, gone) = (slow.began.clone(), slow.end.clone(), slow.gone.clone());
        let app = make(move |_| {
            let (began, end, gone) = (began.clone(), end.clone(), CountDrop(gone.clone()));
            async move {
                let _gone = gone;
                began.notify_one();
                end.notified().await;
                "late"
            }
        });
        (slow, Arc::from(app.map_to_response().boxed()))
    }
}

#[tokio::test]
async fn on_stop_running_requests_are_answered_and_nothing_new_is_accepted() {
    let (slow, app) = Slow::new();
    let running = serve(app, Options::default(), GRACE).await;
    let idle = TcpStream::connect(running.at).await.unwrap();
    let mut answer = Box::pin(talk(running.at, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    tokio::select! {
        _ = answer.as_mut() => panic!("too early"),
        () = slow.began.notified() => {}
    }
    let at = running.at;
    running.stop.cancel();
    // The idle connection ends at once, though the other still works.
    let mut rest = Vec::new();
    let mut idle = idle;
    let _ = idle.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    assert!(TcpStream::connect(at).await.is_err(), "the listener is closed");
    slow.end.notify_one();
    let answer = answer.await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("late"), "{answer}");
    running.ended().await;
}

#[tokio::test]
async fn after_the_grace_period_connections_are_cut() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (slow, app) = Slow::new();
    let running = serve(app, Options::default(), Duration::from_millis(20)).await;
    let older = talk(running.at, GET);
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let newer = client.get(format!("http://{}/", running.at)).send();
    let (older, newer, ()) = tokio::join!(older, newer, async {
        slow.began.notified().await;
        slow.began.notified().await;
        running.ended().await;
        assert_eq!(slow.gone.load(Ordering::SeqCst), 2, "no request outlives the server");
    });
    assert_eq!(older, "");
    assert!(newer.is_err());
}

/// A listener whose first accepts fail.
struct Flaky {
    inner: Box<dyn Listener>,
    failures: AtomicUsize,
}

impl Listener for Flaky {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        if self.failures.fetch_add(1, Ordering::SeqCst) < 2 {
            return Box::pin(async { Err(io::Error::other("no file descriptor left")) });
        }
        self.inner.accept()
    }

    fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr()
    }
}

#[tokio::test]
async fn failing_accepts_are_tried_again() {
    let inner = SystemNet.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let flaky = Box::new(Flaky { inner, failures: AtomicUsize::new(0) });
    let running = serve_on(flaky, None, hello(), Options::default(), GRACE);
    assert!(talk(running.at, GET).await.starts_with("HTTP/1.1 200 OK"));
    running.ended().await;
}

fn with_limit(body_bytes_max: usize) -> App {
    let length = make(|request: Request| async move {
        Ok::<_, poem::Error>(request.into_body().into_bytes().await?.len().to_string())
    });
    let options = BodyOptions { body_bytes_max, ..BodyOptions::default() };
    let read = ReadBody::new(options, Arc::new(SystemSpawn));
    Arc::from(length.with(read).map_to_response().boxed())
}

#[tokio::test]
async fn a_client_still_sending_sees_the_413_and_may_go_on() {
    const SIZE: usize = 32 << 20;
    let running = serve(with_limit(1 << 20), Options::default(), GRACE).await;
    let (mut read, mut write) = TcpStream::connect(running.at).await.unwrap().into_split();
    // Like many clients: all is written before the first byte of the answer is read.
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {SIZE}\r\n\r\n");
    write.write_all(head.as_bytes()).await.unwrap();
    write.write_all(&vec![b'a'; SIZE]).await.unwrap();
    write
        .write_all(
            b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
        )
        .await
        .unwrap();
    let mut answers = String::new();
    read.read_to_string(&mut answers).await.unwrap();
    assert!(answers.starts_with("HTTP/1.1 413 Payload Too Large\r\n"), "{answers}");
    assert!(answers.contains("HTTP/1.1 200 OK\r\n") && answers.ends_with("\r\n3"), "{answers}");
    running.ended().await;
}

#[tokio::test]
async fn the_413_does_not_wait_for_the_body() {
    let running = serve(with_limit(1 << 20), Options::default(), GRACE).await;
    for head in [
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n",
    ] {
        let mut tcp = TcpStream::connect(running.at).await.unwrap();
        tcp.write_all(head.as_bytes()).await.unwrap();
        let mut start = [0; 13];
        tcp.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 413 ");
    }
    running.ended().await;
}

#[tokio::test]
async fn a_chunked_body_over_the_limit_is_413_on_either_protocol() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let running = serve(with_limit(1 << 20), Options::default(), GRACE).await;
    let http1 = reqwest::Client::builder().no_proxy().http1_only().build().unwrap();
    let http2 = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    for client in [http1, http2] {
        for (chunks, expected) in [(16, 200), (17, 413), (256, 413)] {
            let chunk = || Ok::<_, io::Error>(vec![b'a'; 64 << 10]);
            let stream = futures_util::stream::iter((0..chunks).map(move |_| chunk()));
            let body = reqwest::Body::wrap_stream(stream);
            let url = format!("http://{}/", running.at);
            let answer = client.post(url).body(body).send().await.unwrap();
            assert_eq!(answer.status(), expected, "{chunks} chunks, {:?}", answer.version());
        }
    }
    running.ended().await;
}

mod heads;
