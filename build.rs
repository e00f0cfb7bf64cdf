//! Compiles the C core against the headers of the llama.cpp that is linked, and declares it to Rust.

use std::env;
use std::path::PathBuf;

fn main() {
    let sources = ["headtap.c", "headtap_bank.c", "headtap_learn.c"].map(|f| format!("vendor/{f}"));
    for file in
        sources.iter().map(String::as_str).chain(["vendor/headtap.h", "vendor/headtap_impl.h"])
    {
        println!("cargo:rerun-if-changed={file}");
    }

    let root = env::var("DEP_LLAMA_ROOT").expect(
        "llama-cpp-sys-2 did not export its install folder; \
         is it pinned to the version that Cargo.toml names?",
    );
    // For the test that builds the C example.
    println!("cargo:rustc-env=CANDOR_LLAMA_ROOT={root}");
    let include = PathBuf::from(root).join("include");

    cc::Build::new()
        .files(&sources)
        .include("vendor")
        .include(&include)
        .std("c11")
        .warnings(true)
        .extra_warnings(true)
        .compile("headtap");

    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("headtap.rs");
    bindgen::Builder::default()
        .header("vendor/headtap.h")
        .header(include.join("ggml-rpc.h").display().to_string())
        .clang_arg(format!("-I{}", include.display()))
        .allowlist_item("headtap.*")
        .allowlist_var("RPC_PROTO_(MAJOR|MINOR)_VERSION")
        .blocklist_type("ggml_tensor")
        .raw_line("use llama_cpp_sys_2::ggml_tensor;")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .layout_tests(false)
        .generate()
        .expect("bindgen reads vendor/headtap.h")
        .write_to_file(&out)
        .expect("OUT_DIR is writable");
}
