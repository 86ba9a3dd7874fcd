//! Links Debian's librocksdb when the feature is on, and tells its version.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_ROCKSDB").is_none() {
        return;
    }
    println!("cargo:rustc-link-lib=dylib=rocksdb");
    let path = "/usr/include/rocksdb/version.h";
    println!("cargo:rerun-if-changed={path}");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let part = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix("#define ROCKSDB_")?.strip_prefix(name))
            .map_or("?", str::trim)
            .to_owned()
    };
    println!(
        "cargo:rustc-env=ROCKSDB_VERSION={}.{}.{}",
        part("MAJOR"),
        part("MINOR"),
        part("PATCH")
    );
}
