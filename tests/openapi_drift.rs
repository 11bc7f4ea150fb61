//! The committed document is the served one. After a change of the API, write it anew with
//! `UPDATE_OPENAPI=1 cargo test --test openapi_drift` and look at the difference.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::path::Path;

fn compare(file: &str, served: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi").join(file);
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(&path).unwrap().write_all(served.as_bytes()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == served,
        "openapi/{file} is not what is served; see the test's first lines"
    );
}

#[test]
fn the_committed_document_is_the_served_one() {
    compare("tertulia.json", &tertulia::api::spec::json());
    compare("tertulia.yaml", &tertulia::api::spec::yaml());
    compare("mom.json", &tertulia::api::mom::json());
    compare("mom.yaml", &tertulia::api::mom::yaml());
}
