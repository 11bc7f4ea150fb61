//! Settings that make sense: every room takes these.

use super::sources::{RawAuth, RawHttp, RawLog, RawSettings, RawStore};
use crate::base::limits;
use crate::base::names::{QueueName, UserName};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// All settings of a node. `config/default.toml` says what each one means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `data_dir`: the folder with everything of this node.
    pub data_dir: PathBuf,
    /// `secret_file`: where the cluster's secret is read from.
    pub secret_file: Option<PathBuf>,
    /// `cluster.…`
    pub cluster: ClusterSettings,
    /// `http.…`
    pub http: HttpSettings,
    /// `auth.…`
    pub auth: AuthSettings,
    /// `store.…`
    pub store: StoreSettings,
    /// `shutdown.…`
    pub shutdown: ShutdownSettings,
    /// `log.…`
    pub log: LogSettings,
}

/// The settings `cluster.…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// `cluster.name`: follows the rule of names; all keys depend on it.
    pub name: String,
}

/// The settings `http.…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// `http.listen`: where clients connect.
    pub listen: SocketAddr,
    /// `http.advertise`: where clients are told to connect. Present when `listen` is a wildcard.
    pub advertise: Option<Advertise>,
    /// `http.max_body_bytes`: bytes of one request's body, 1 KiB to 256 MiB.
    pub max_body_bytes: usize,
    /// `http.certificate_file` and `http.key_file`: the operator's own certificate.
    pub certificate: Option<CertificateFiles>,
    /// `http.tls`: whether clients speak HTTPS. False only on loopback.
    pub tls: bool,
    /// `http.cors_origins`: web origins that may call this node.
    pub cors_origins: Vec<String>,
}

impl HttpSettings {
    /// Whether only this machine can connect.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.listen.ip().is_loopback()
    }
}

/// A host and a port that clients can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertise {
    /// A host name, or an IP address without brackets.
    pub host: String,
    /// The port, not 0.
    pub port: u16,
}

impl Advertise {
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let reachable = match bracketed {
            Some(host) => host.parse::<Ipv6Addr>().is_ok_and(|ip| !ip.is_unspecified()),
            None => match host.parse::<Ipv4Addr>() {
                Ok(ip) => !ip.is_unspecified(),
                Err(_) => is_host_name(host),
            },
        };
        reachable.then(|| Self { host: bracketed.unwrap_or(host).to_owned(), port })
    }
}

fn is_host_name(text: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    // A last label of digits alone would be a misspelt address.
    let digits = |l: &str| l.bytes().all(|b| b.is_ascii_digit());
    text.len() <= 253
        && text.split('.').all(label)
        && !text.split('.').next_back().is_some_and(digits)
}

impl fmt::Display for Advertise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The operator's own certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// `http.certificate_file`: the chain, as PEM.
    pub certificate_file: PathBuf,
    /// `http.key_file`: its private key, as PEM.
    pub key_file: PathBuf,
}

/// The settings `auth.…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthSettings {
    /// `auth.registration`: who may register.
    pub registration: Registration,
    /// `auth.admin_username` and `auth.admin_password_file`: the first admin.
    pub first_admin: Option<FirstAdmin>,
}

/// Who may register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Anybody while the listener is loopback, else nobody.
    Auto,
    /// Anybody.
    Open,
    /// Nobody; admins make users.
    Closed,
}

/// The first admin, made at the first start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstAdmin {
    /// `auth.admin_username`
    pub username: UserName,
    /// `auth.admin_password_file`
    pub password_file: PathBuf,
}

/// The settings `store.…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// `store.cache_bytes`: bytes of the page cache, at least 1 MiB.
    pub cache_bytes: usize,
    /// `store.reserve_bytes`: bytes of free disk below which sends are refused, at least 32 MiB.
    pub reserve_bytes: u64,
}

/// The settings `shutdown.…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShutdownSettings {
    /// `shutdown.grace_seconds`: what running requests get at the end, at most an hour.
    pub grace: Duration,
}

/// The settings `log.…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `log.format`: how lines look.
    pub format: LogFormat,
    /// `log.level`: a level, or directives by module, as `tracing_subscriber::EnvFilter` reads.
    pub level: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./tertulia-data"),
            secret_file: None,
            cluster: ClusterSettings { name: "tertulia".to_owned() },
            http: HttpSettings {
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7420)),
                advertise: None,
                max_body_bytes: limits::BODY_BYTES_MAX,
                certificate: None,
                tls: true,
                cors_origins: Vec::new(),
            },
            auth: AuthSettings { registration: Registration::Auto, first_admin: None },
            store: StoreSettings {
                cache_bytes: limits::CACHE_BYTES,
                reserve_bytes: limits::DISK_RESERVE_BYTES,
            },
            shutdown: ShutdownSettings { grace: Duration::from_secs(10) },
            log: LogSettings { format: LogFormat::Text, level: "info".to_owned() },
        }
    }
}

/// A value that makes no sense.
pub(super) struct Fault {
    pub(super) key: &'static str,
    pub(super) wrong: String,
    pub(super) fix: String,
}

fn fault<T>(
    key: &'static str,
    wrong: impl Into<String>,
    fix: impl Into<String>,
) -> Result<T, Fault> {
    Err(Fault { key, wrong: wrong.into(), fix: fix.into() })
}

impl Settings {
    /// Whether anybody may register.
    #[must_use]
    pub fn registration_open(&self) -> bool {
        match self.auth.registration {
            Registration::Auto => self.http.is_loopback(),
            Registration::Open => true,
            Registration::Closed => false,
        }
    }

    pub(super) fn check(raw: &RawSettings) -> Result<Self, Fault> {
        if raw.data_dir.as_os_str().is_empty() {
            return fault("data_dir", "an empty path", "name a folder");
        }
        // The rule of names is one for all kinds of them.
        if let Err(e) = QueueName::parse(&raw.cluster.name) {
            return fault("cluster.name", e.to_string(), "choose another name");
        }
        let grace_seconds = within("shutdown.grace_seconds", raw.shutdown.grace_seconds, 0, 3_600)?;
        Ok(Self {
            data_dir: raw.data_dir.clone(),
            secret_file: raw.secret_file.clone(),
            cluster: ClusterSettings { name: raw.cluster.name.clone() },
            http: check_http(&raw.http)?,
            auth: check_auth(&raw.auth)?,
            store: check_store(&raw.store)?,
            shutdown: ShutdownSettings { grace: Duration::from_secs(grace_seconds) },
            log: check_log(&raw.log)?,
        })
    }
}

fn within(key: &'static str, value: u64, min: u64, max: u64) -> Result<u64, Fault> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    fault(key, format!("{value} is out of bounds"), format!("give {min} to {max}"))
}

fn bytes_within(key: &'static str, value: u64, min: u64, max: usize) -> Result<usize, Fault> {
    let bytes = within(key, value, min, u64::try_from(max).unwrap_or(u64::MAX))?;
    Ok(usize::try_from(bytes).unwrap_or(max))
}

fn check_http(raw: &RawHttp) -> Result<HttpSettings, Fault> {
    let Ok(listen) = raw.listen.parse::<SocketAddr>() else {
        let wrong = format!("`{}` is no IP address with a port", raw.listen);
        return fault("http.listen", wrong, "write it like 127.0.0.1:7420 or [::1]:7420");
    };
    let advertise = check_advertise(raw.advertise.as_deref(), listen.ip())?;
    if !raw.tls && !listen.ip().is_loopback() {
        let wrong = "plain HTTP is spoken on loopback addresses only";
        return fault("http.tls", wrong, "set it to true, or http.listen to 127.0.0.1:7420");
    }
    let certificate = match (&raw.certificate_file, &raw.key_file) {
        (None, None) => None,
        (Some(_), _) if !raw.tls => {
            let wrong = "plain HTTP (http.tls = false) uses no certificate";
            return fault("http.certificate_file", wrong, "take one of the two settings out");
        }
        (Some(certificate), Some(key)) => {
            Some(CertificateFiles { certificate_file: certificate.clone(), key_file: key.clone() })
        }
        (Some(_), None) => {
            return fault("http.key_file", "http.certificate_file is given alone", "give both");
        }
        (None, Some(_)) => {
            return fault("http.certificate_file", "http.key_file is given alone", "give both");
        }
    };
    for origin in &raw.cors_origins {
        check_origin(origin)?;
    }
    let most = limits::BODIES_BYTES_MAX;
    Ok(HttpSettings {
        listen,
        advertise,
        max_body_bytes: bytes_within("http.max_body_bytes", raw.max_body_bytes, 1 << 10, most)?,
        certificate,
        tls: raw.tls,
        cors_origins: raw.cors_origins.clone(),
    })
}

fn check_advertise(text: Option<&str>, listen: IpAddr) -> Result<Option<Advertise>, Fault> {
    match text {
        None if listen.is_unspecified() => {
            let wrong = "http.listen is a wildcard address, which no client can connect to";
            let fix = "set it to the host and port that clients use, like broker1:7420";
            fault("http.advertise", wrong, fix)
        }
        None => Ok(None),
        Some(text) => match Advertise::parse(text) {
            Some(advertise) => Ok(Some(advertise)),
            None => {
                let wrong = format!("`{text}` is no host with a port that clients can connect to");
                fault("http.advertise", wrong, "write it like broker1.example.com:7420")
            }
        },
    }
}

/// An origin is compared as text with what browsers send: no path, no slash at the end.
fn check_origin(origin: &str) -> Result<(), Fault> {
    let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b'?' | b'#' | b'@' | b'*');
    if host.is_some_and(|host| !host.is_empty() && host.bytes().all(plain)) {
        return Ok(());
    }
    let wrong = format!("`{origin}` is no web origin");
    fault("http.cors_origins", wrong, "write each like https://app.example.com, without a path")
}

fn check_auth(raw: &RawAuth) -> Result<AuthSettings, Fault> {
    let registration = match raw.registration.as_str() {
        "auto" => Registration::Auto,
        "open" => Registration::Open,
        "closed" => Registration::Closed,
        other => {
            let wrong = format!("`{other}` is unknown");
            return fault("auth.registration", wrong, "give auto, open or closed");
        }
    };
    let first_admin = match (&raw.admin_username, &raw.admin_password_file) {
        (None, None) => None,
        (Some(name), Some(file)) => {
            let username = UserName::parse(name)
                .or_else(|e| fault("auth.admin_username", e.to_string(), "choose another name"))?;
            Some(FirstAdmin { username, password_file: file.clone() })
        }
        (Some(_), None) => {
            let wrong = "auth.admin_username is given alone";
            return fault("auth.admin_password_file", wrong, "give both");
        }
        (None, Some(_)) => {
            let wrong = "auth.admin_password_file is given alone";
            return fault("auth.admin_username", wrong, "give both");
        }
    };
    Ok(AuthSettings { registration, first_admin })
}

fn check_store(raw: &RawStore) -> Result<StoreSettings, Fault> {
    // Two full commits must fit into the reserve, or settling could not go on when it is all
    // there is [R9].
    let least = 2 * limits::COMMIT_BYTES_MAX as u64;
    let most = usize::MAX >> 1;
    Ok(StoreSettings {
        cache_bytes: bytes_within("store.cache_bytes", raw.cache_bytes, 1 << 20, most)?,
        reserve_bytes: within("store.reserve_bytes", raw.reserve_bytes, least, u64::MAX >> 1)?,
    })
}

fn check_log(raw: &RawLog) -> Result<LogSettings, Fault> {
    let format = match raw.format.as_str() {
        "text" => LogFormat::Text,
        "json" => LogFormat::Json,
        other => {
            let wrong = format!("`{other}` is unknown");
            return fault("log.format", wrong, "give text or json");
        }
    };
    // A directive without a level would be read as a module's name, and a misspelt level with it.
    let known = |d: &str| d.contains('=') || d.parse::<tracing::Level>().is_ok() || d == "off";
    let directives = raw.level.split(',').all(|d| known(d.trim()));
    if !directives || tracing_subscriber::EnvFilter::try_new(&raw.level).is_err() {
        let wrong = format!("`{}` is no level", raw.level);
        let fix = "give error, warn, info, debug or trace, or like info,tertulia::api=debug";
        return fault("log.level", wrong, fix);
    }
    Ok(LogSettings { format, level: raw.level.clone() })
}
