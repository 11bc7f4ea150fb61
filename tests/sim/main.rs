//! stub
#[test]
fn stub() {
    let _ = turmoil::Builder::new();
}
