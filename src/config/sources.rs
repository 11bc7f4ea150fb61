//! Where settings come from, and their form before anyone asked whether they make sense.

use super::SettingsError;
use super::settings::Fault;
use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::Deserialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The text of `config/default.toml`.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// The variable that carries the cluster's secret itself; it is no setting.
pub const SECRET_VARIABLE: &str = "TERTULIA_SECRET";

const VARIABLE_PREFIX: &str = "TERTULIA_";

/// The form of a value, needed where it comes as text.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Number,
    Switch,
    List,
}

/// Every setting.
const KEYS: &[(&str, Form)] = &[
    ("data_dir", Form::Text),
    ("secret_file", Form::Text),
    ("cluster.name", Form::Text),
    ("http.listen", Form::Text),
    ("http.advertise", Form::Text),
    ("http.max_body_bytes", Form::Number),
    ("http.certificate_file", Form::Text),
    ("http.key_file", Form::Text),
    ("http.tls", Form::Switch),
    ("http.cors_origins", Form::List),
    ("auth.registration", Form::Text),
    ("auth.admin_username", Form::Text),
    ("auth.admin_password_file", Form::Text),
    ("store.cache_bytes", Form::Number),
    ("store.reserve_bytes", Form::Number),
    ("shutdown.grace_seconds", Form::Number),
    ("log.format", Form::Text),
    ("log.level", Form::Text),
];

/// The names of all settings.
#[must_use]
pub fn known_keys() -> Vec<&'static str> {
    KEYS.iter().map(|(key, _)| *key).collect()
}

fn form_of(key: &str) -> Option<Form> {
    KEYS.iter().find(|(known, _)| *known == key).map(|(_, form)| *form)
}

macro_rules! raw {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
    };
}

raw! {
    /// All settings as they were given. `config/default.toml` says what each one means.
    RawSettings {
        /// `data_dir`
        data_dir: PathBuf,
        /// `secret_file`
        secret_file: Option<PathBuf>,
        /// `cluster`
        cluster: RawCluster,
        /// `http`
        http: RawHttp,
        /// `auth`
        auth: RawAuth,
        /// `store`
        store: RawStore,
        /// `shutdown`
        shutdown: RawShutdown,
        /// `log`
        log: RawLog,
    }
}
raw! {
    /// The settings `cluster.…` as they were given.
    RawCluster {
        /// `cluster.name`
        name: String,
    }
}
raw! {
    /// The settings `http.…` as they were given.
    RawHttp {
        /// `http.listen`
        listen: String,
        /// `http.advertise`
        advertise: Option<String>,
        /// `http.max_body_bytes`
        max_body_bytes: u64,
        /// `http.certificate_file`
        certificate_file: Option<PathBuf>,
        /// `http.key_file`
        key_file: Option<PathBuf>,
        /// `http.tls`
        tls: bool,
        /// `http.cors_origins`
        cors_origins: Vec<String>,
    }
}
raw! {
    /// The settings `auth.…` as they were given.
    RawAuth {
        /// `auth.registration`
        registration: String,
        /// `auth.admin_username`
        admin_username: Option<String>,
        /// `auth.admin_password_file`
        admin_password_file: Option<PathBuf>,
    }
}
raw! {
    /// The settings `store.…` as they were given.
    RawStore {
        /// `store.cache_bytes`
        cache_bytes: u64,
        /// `store.reserve_bytes`
        reserve_bytes: u64,
    }
}
raw! {
    /// The settings `shutdown.…` as they were given.
    RawShutdown {
        /// `shutdown.grace_seconds`
        grace_seconds: u64,
    }
}
raw! {
    /// The settings `log.…` as they were given.
    RawLog {
        /// `log.format`
        format: String,
        /// `log.level`
        level: String,
    }
}

/// Settings given as flags; they win over every other source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `data_dir`
    pub data_dir: Option<PathBuf>,
    /// `secret_file`
    pub secret_file: Option<PathBuf>,
    /// `cluster.name`
    pub cluster_name: Option<String>,
    /// `http.listen`
    pub http_listen: Option<String>,
    /// `http.advertise`
    pub http_advertise: Option<String>,
    /// `http.tls`
    pub http_tls: Option<bool>,
    /// `auth.registration`
    pub registration: Option<String>,
    /// `auth.admin_username`
    pub admin_username: Option<String>,
    /// `auth.admin_password_file`
    pub admin_password_file: Option<PathBuf>,
    /// `log.format`
    pub log_format: Option<String>,
    /// `log.level`
    pub log_level: Option<String>,
}

impl Overrides {
    fn layers(&self) -> Vec<Layer> {
        let path = |p: &Option<PathBuf>| p.as_ref().map(|p| Value::from(p.display().to_string()));
        let text = |t: &Option<String>| t.clone().map(Value::from);
        let given = [
            ("data_dir", path(&self.data_dir)),
            ("secret_file", path(&self.secret_file)),
            ("cluster.name", text(&self.cluster_name)),
            ("http.listen", text(&self.http_listen)),
            ("http.advertise", text(&self.http_advertise)),
            ("http.tls", self.http_tls.map(Value::from)),
            ("auth.registration", text(&self.registration)),
            ("auth.admin_username", text(&self.admin_username)),
            ("auth.admin_password_file", path(&self.admin_password_file)),
            ("log.format", text(&self.log_format)),
            ("log.level", text(&self.log_level)),
        ];
        let some = given.into_iter().filter_map(|(key, value)| Some((key, value?)));
        some.map(|(key, value)| Layer::one("a flag".to_owned(), key, value)).collect()
    }
}

/// Settings from one place.
struct Layer {
    /// The place, as refusals name it.
    origin: String,
    dict: Dict,
}

impl Layer {
    fn one(origin: String, key: &str, value: Value) -> Self {
        let dict = figment::util::nest(key, value).into_dict().unwrap_or_default();
        Self { origin, dict }
    }

    /// The error is what the TOML parser says.
    fn toml(origin: String, text: &str) -> Result<Self, String> {
        let mut profiles = Toml::string(text).data().map_err(|e| e.kind.to_string())?;
        Ok(Self { origin, dict: profiles.remove(&Profile::Default).unwrap_or_default() })
    }

    fn check_keys(&self) -> Result<(), SettingsError> {
        let mut found = Vec::new();
        flatten("", &self.dict, &mut found);
        match found.into_iter().find(|key| form_of(key).is_none()) {
            Some(key) => Err(SettingsError::UnknownKey { key, origin: self.origin.clone() }),
            None => Ok(()),
        }
    }
}

/// Collects the dotted names of what the dict holds. An empty table is known by its name alone.
fn flatten(prefix: &str, dict: &Dict, found: &mut Vec<String>) {
    for (name, value) in dict {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Dict(_, inner) if KEYS.iter().any(|(k, _)| within(k, &key)) => {
                flatten(&key, inner, found);
            }
            _ => found.push(key),
        }
    }
}

fn within(key: &str, table: &str) -> bool {
    key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'))
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.dict.clone())]))
    }
}

/// All layers, lowest first: defaults, file, environment, flags.
pub(super) fn layers(
    config_file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    overrides: &Overrides,
) -> Result<Figment, SettingsError> {
    let defaults = Layer::toml("default".to_owned(), DEFAULTS).expect("the embedded file is TOML");
    let mut above = variables(environment)?;
    above.extend(overrides.layers());
    let stacked = |file: Option<Layer>| {
        let low = Figment::from(&defaults);
        let low = file.into_iter().fold(low, |figment, layer| figment.merge(&layer));
        above.iter().fold(low, |figment, layer| figment.merge(layer))
    };
    // The data folder's own file is found by what all other sources say of the folder.
    let data_dir = stacked(None).extract_inner::<PathBuf>("data_dir");
    let file = match (config_file, data_dir) {
        (Some(path), _) => file_layer(path, true)?,
        (None, Ok(folder)) => {
            let file = file_layer(&folder.join("tertulia.toml"), false)?;
            if let Some(file) = &file {
                refuse_other_folder(file, &folder)?;
            }
            file
        }
        (None, Err(_)) => None,
    };
    Ok(stacked(file))
}

/// A data folder's own file cannot send the node to another folder.
fn refuse_other_folder(file: &Layer, folder: &Path) -> Result<(), SettingsError> {
    let Some(said) = file.dict.get("data_dir") else { return Ok(()) };
    if said.as_str().is_some_and(|said| Path::new(said) == folder) {
        return Ok(());
    }
    Err(SettingsError::Nonsense {
        key: "data_dir".to_owned(),
        origin: file.origin.clone(),
        wrong: "a file in the data folder cannot name another data folder".to_owned(),
        fix: "take the line out; use TERTULIA_DATA_DIR or --data-dir".to_owned(),
    })
}

fn file_layer(path: &Path, must_exist: bool) -> Result<Option<Layer>, SettingsError> {
    let unreadable = |why| SettingsError::Unreadable { file: path.to_owned(), why };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(None),
        Err(e) => return Err(unreadable(e.to_string())),
    };
    let layer = Layer::toml(path.display().to_string(), &text).map_err(unreadable)?;
    layer.check_keys()?;
    Ok(Some(layer))
}

fn variables(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<Layer>, SettingsError> {
    let mut found = Vec::new();
    for (name, value) in environment {
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(VARIABLE_PREFIX)) else {
            continue;
        };
        // An empty variable is one that was not set: container tools hand them on like this.
        if name == SECRET_VARIABLE || value.is_empty() {
            continue;
        }
        let origin = format!("the variable {}", name.display());
        let key = rest.to_ascii_lowercase().replace("__", ".");
        let Some(form) = form_of(&key) else {
            return Err(SettingsError::UnknownKey { key, origin });
        };
        let value = parse(form, &value.to_string_lossy());
        found.push(Layer::one(origin, &key, value));
    }
    Ok(found)
}

/// Reads a text as the key's form. What does not fit stays a text, which `extract` then refuses.
fn parse(form: Form, text: &str) -> Value {
    match form {
        Form::Text => Value::from(text),
        Form::Number => text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from),
        Form::Switch => text.parse::<bool>().map_or_else(|_| Value::from(text), Value::from),
        Form::List => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::from(items.map(Value::from).collect::<Vec<_>>())
        }
    }
}

pub(super) fn extract(figment: &Figment) -> Result<RawSettings, SettingsError> {
    figment.extract().map_err(|error: figment::Error| {
        let key = error.path.join(".");
        let fix = match form_of(&key) {
            Some(Form::Number) => "give a whole number, not below 0",
            Some(Form::Switch) => "give true or false",
            Some(Form::List) => "give a list of texts",
            Some(Form::Text) | None => "give a text in quotes",
        };
        let origin = origin_of(figment, &key);
        SettingsError::Nonsense { key, origin, wrong: error.kind.to_string(), fix: fix.to_owned() }
    })
}

pub(super) fn refusal(figment: &Figment, fault: Fault) -> SettingsError {
    let origin = origin_of(figment, fault.key);
    let (key, wrong, fix) = (fault.key.to_owned(), fault.wrong, fault.fix);
    SettingsError::Nonsense { key, origin, wrong, fix }
}

fn origin_of(figment: &Figment, key: &str) -> String {
    figment.find_metadata(key).map_or_else(|| "not given".to_owned(), |m| m.name.to_string())
}
