#![allow(clippy::unwrap_used)]

use super::*;
use std::time::Duration;

/// Loads with a data folder of the test's own, which holds the given `tertulia.toml`.
fn load_with(
    file: &str,
    variables: &[(&str, &str)],
    overrides: Overrides,
) -> Result<Settings, SettingsError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tertulia.toml"), file).unwrap();
    let overrides = Overrides { data_dir: Some(folder.path().to_owned()), ..overrides };
    load(None, environment(variables), &overrides)
}

fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn refusal(file: &str, variables: &[(&str, &str)]) -> String {
    load_with(file, variables, Overrides::default()).unwrap_err().to_string()
}

#[test]
fn the_embedded_file_is_the_default() {
    let raw: RawSettings = {
        let figment = sources::layers(None, [], &Overrides::default()).unwrap();
        sources::extract(&figment).unwrap()
    };
    assert!(Settings::check(&raw).is_ok_and(|settings| settings == Settings::default()));
}

#[test]
fn the_embedded_file_documents_every_setting() {
    for key in known_keys() {
        let (table, name) = key.split_once('.').unwrap_or(("", key));
        let mut inside = String::new();
        let mut above = "";
        let mut found = false;
        for line in DEFAULTS.lines() {
            if let Some(header) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                inside = header.to_owned();
            }
            let setting = line.strip_prefix("# ").unwrap_or(line);
            if inside == table && setting.starts_with(&format!("{name} = ")) {
                assert!(above.starts_with("# "), "{key} has no comment above it");
                found = true;
            }
            above = line;
        }
        assert!(found, "{key} is not in config/default.toml");
    }
}

#[test]
fn examples_in_the_embedded_file_are_valid() {
    let optional = DEFAULTS.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest)
            if known_keys()
                .iter()
                .any(|k| rest.starts_with(&format!("{} = ", k.rsplit('.').next().unwrap()))) =>
        {
            rest
        }
        _ => line,
    });
    let text = optional.collect::<Vec<_>>().join("\n");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.toml");
    std::fs::write(&file, text).unwrap();
    let settings = load(Some(&file), [], &Overrides::default()).unwrap();
    assert_eq!(settings.http.advertise.unwrap().to_string(), "broker1.example.com:7420");
    assert!(settings.http.certificate.is_some() && settings.auth.first_admin.is_some());
    assert!(settings.secret_file.is_some());
}

#[test]
fn later_sources_win() {
    let file = "[http]\nlisten = \"127.0.0.1:1\"\n[log]\nlevel = \"warn\"\n[cluster]\nname = \"a\"";
    let variables =
        [("TERTULIA_HTTP__LISTEN", "127.0.0.1:2"), ("TERTULIA_LOG__LEVEL", "debug"), ("PATH", "x")];
    let overrides =
        Overrides { http_listen: Some("127.0.0.1:3".to_owned()), ..Overrides::default() };
    let settings = load_with(file, &variables, overrides).unwrap();
    assert_eq!(settings.cluster.name, "a");
    assert_eq!(settings.log.level, "debug");
    assert_eq!(settings.http.listen.port(), 3);
    assert_eq!(settings.store, Settings::default().store);
}

#[test]
fn variables_have_the_form_of_their_setting() {
    let settings = load_with(
        "",
        &[
            ("TERTULIA_CLUSTER__NAME", "7"),
            ("TERTULIA_HTTP__TLS", "false"),
            ("TERTULIA_HTTP__MAX_BODY_BYTES", "4096"),
            ("TERTULIA_HTTP__CORS_ORIGINS", "https://a.example, http://b.example:81"),
            ("TERTULIA_SHUTDOWN__GRACE_SECONDS", "3"),
            ("TERTULIA_SECRET", "not a setting"),
            ("TERTULIA_SECRET_FILE", ""),
        ],
        Overrides::default(),
    )
    .unwrap();
    assert_eq!(settings.cluster.name, "7");
    assert!(!settings.http.tls);
    assert_eq!(settings.http.max_body_bytes, 4_096);
    assert_eq!(settings.http.cors_origins, ["https://a.example", "http://b.example:81"]);
    assert_eq!(settings.shutdown.grace, Duration::from_secs(3));
    assert_eq!(settings.secret_file, None);
}

#[test]
fn the_data_folder_comes_from_a_variable_and_its_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tertulia.toml"), "[cluster]\nname = \"b\"").unwrap();
    let variables = environment(&[("TERTULIA_DATA_DIR", folder.path().to_str().unwrap())]);
    let settings = load(None, variables.clone(), &Overrides::default()).unwrap();
    assert_eq!((settings.data_dir.as_path(), &*settings.cluster.name), (folder.path(), "b"));
    // A file named by --config is read instead, and must be there.
    let other = folder.path().join("other.toml");
    let error = load(Some(&other), variables.clone(), &Overrides::default()).unwrap_err();
    assert!(error.to_string().contains("other.toml cannot be read"), "{error}");
    std::fs::write(&other, "[cluster]\nname = \"c\"").unwrap();
    let settings = load(Some(&other), variables, &Overrides::default()).unwrap();
    assert_eq!(settings.cluster.name, "c");
}

#[test]
fn unknown_settings_are_refused_by_name() {
    let said = refusal("[http]\nlisten = \"127.0.0.1:1\"\nlisen = 3", &[]);
    assert!(said.contains("there is no setting `http.lisen`"), "{said}");
    assert!(said.contains("tertulia.toml") && said.contains("http.listen, "), "{said}");
    let said = refusal("", &[("TERTULIA_HTTP_LISTEN", "127.0.0.1:1")]);
    assert!(said.contains("TERTULIA_HTTP_LISTEN") && said.contains("`http_listen`"), "{said}");
    assert!(refusal("http = 3", &[]).contains("there is no setting `http`"));
    assert!(refusal("[htp]\na = 1", &[]).contains("there is no setting `htp`"));
    assert!(refusal("data_dir = \"/elsewhere\"", &[]).contains("another data folder"));
    assert!(refusal("[http", &[]).contains("cannot be read"));
}

#[test]
fn nonsense_is_refused_with_key_and_fix() {
    for (file, key, fix) in [
        ("http.listen = \"localhost\"", "http.listen", "127.0.0.1:7420"),
        ("http.listen = 7420", "http.listen", "a text"),
        ("http.listen = \"0.0.0.0:7420\"", "http.advertise", "that clients use"),
        ("http.listen = \"[::]:7420\"", "http.advertise", "that clients use"),
        ("http.advertise = \"0.0.0.0:1\"", "http.advertise", "broker1.example.com:7420"),
        ("http.advertise = \"https://a:1\"", "http.advertise", "broker1.example.com:7420"),
        ("http.advertise = \"a\"", "http.advertise", "broker1.example.com:7420"),
        ("http.listen = \"10.0.0.1:1\"\nhttp.tls = false", "http.tls", "true"),
        ("http.tls = \"no\"", "http.tls", "true or false"),
        ("http.certificate_file = \"a\"", "http.key_file", "give both"),
        ("http.key_file = \"a\"", "http.certificate_file", "give both"),
        (
            "http.tls = false\nhttp.certificate_file = \"a\"\nhttp.key_file = \"b\"",
            "http.certificate_file",
            "take one",
        ),
        ("http.max_body_bytes = 1000", "http.max_body_bytes", "1024 to 268435456"),
        ("http.max_body_bytes = -1", "http.max_body_bytes", "a whole number"),
        ("http.cors_origins = [\"*\"]", "http.cors_origins", "https://app.example.com"),
        ("http.cors_origins = [\"https://a/\"]", "http.cors_origins", "without a path"),
        ("auth.registration = \"yes\"", "auth.registration", "auto, open or closed"),
        ("auth.admin_username = \"a\"", "auth.admin_password_file", "give both"),
        ("auth.admin_password_file = \"a\"", "auth.admin_username", "give both"),
        (
            "auth.admin_username = \"me\"\nauth.admin_password_file = \"a\"",
            "auth.admin_username",
            "another name",
        ),
        ("cluster.name = \"\"", "cluster.name", "another name"),
        ("store.cache_bytes = 1", "store.cache_bytes", "1048576 to"),
        ("store.reserve_bytes = 1", "store.reserve_bytes", "33554432 to"),
        ("shutdown.grace_seconds = 3601", "shutdown.grace_seconds", "0 to 3600"),
        ("log.format = \"xml\"", "log.format", "text or json"),
        ("log.level = \"infoo\"", "log.level", "error, warn"),
        ("log.level = \"tertulia=loud\"", "log.level", "error, warn"),
    ] {
        let said = refusal(file, &[]);
        assert!(said.starts_with(&format!("{key} (")) && said.contains(fix), "{file}: {said}");
    }
    let said = refusal("", &[("TERTULIA_STORE__CACHE_BYTES", "much")]);
    assert!(said.starts_with("store.cache_bytes (the variable TERTULIA_STORE__CACHE_BYTES)"));
}

#[test]
fn registration_is_open_by_itself_only_on_loopback() {
    let open = |file| load_with(file, &[], Overrides::default()).unwrap().registration_open();
    assert!(open(""));
    assert!(!open("http.listen = \"10.0.0.1:1\""));
    assert!(open("http.listen = \"10.0.0.1:1\"\nauth.registration = \"open\""));
    assert!(!open("auth.registration = \"closed\""));
    assert!(!open("http.listen = \"0.0.0.0:1\"\nhttp.advertise = \"[fe80::1]:1\""));
}
