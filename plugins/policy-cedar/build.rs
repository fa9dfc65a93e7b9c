//! Cedar's parser needs more stack than the other guests get.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|a| a == "wasm32") {
        // why it wins: the last `-z stack-size` counts, and what a package says comes behind the build's own flags.
        println!("cargo::rustc-link-arg-examples=-zstack-size=524288");
    }
}
