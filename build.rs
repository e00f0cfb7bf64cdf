//! Compiles the C core and the guard against the headers of the llama.cpp that is linked, and declares
//! both to Rust.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    let sources = ["headtap.c", "headtap_bank.c", "headtap_learn.c", "headtap_look.c"]
        .map(|f| format!("vendor/{f}"));
    let others =
        ["headtap.h", "headtap_impl.h", "guard.h", "guard.cpp"].map(|f| format!("vendor/{f}"));
    for file in sources.iter().chain(&others) {
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
        // An exception of a device's driver passes the tap's frames on its way to the guard's.
        .flag_if_supported("-fexceptions")
        .warnings(true)
        .extra_warnings(true)
        .compile("headtap");

    let has_sight = env::var_os("CARGO_FEATURE_SIGHT").is_some();
    let mut guard = cc::Build::new();
    if has_sight {
        guard.define("CANDOR_SIGHT", None);
    }
    guard
        .cpp(true)
        .file("vendor/guard.cpp")
        .include("vendor")
        .include(&include)
        .std("c++17")
        .warnings(true)
        .extra_warnings(true)
        .compile("guard");

    if env::var_os("CARGO_FEATURE_PLUGIN").is_some() && env::var_os("CARGO_CFG_UNIX").is_some() {
        build_plugin(&include);
    }

    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("headtap.rs");
    bindgen::Builder::default()
        .header("vendor/guard.h")
        .header(include.join("ggml-rpc.h").display().to_string())
        .clang_arg(format!("-I{}", include.display()))
        .clang_args(has_sight.then_some("-DCANDOR_SIGHT"))
        .allowlist_item("(headtap|guard)_.*|headtap")
        .allowlist_var("RPC_PROTO_(MAJOR|MINOR)_VERSION")
        // Those are llama-cpp-sys-2's own.
        .blocklist_type("(ggml|llama|mtmd)_.*")
        .raw_line("use llama_cpp_sys_2::*;")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .layout_tests(false)
        .generate()
        .expect("bindgen reads vendor/headtap.h")
        .write_to_file(&out)
        .expect("OUT_DIR is writable");
}

/// The tap as a library that is loaded before a program's own. It calls ggml through a table that is
/// filled at run time, so it is linked with nothing but the C library.
fn build_plugin(include: &Path) {
    let parts = [
        "", "_bank", "_learn", "_look", "_host", "_plan", "_preload", "_context", "_batch",
        "_control",
    ];
    let sources: Vec<String> = parts.iter().map(|p| format!("vendor/headtap{p}.c")).collect();
    for header in ["host", "plan", "preload"] {
        println!("cargo:rerun-if-changed=vendor/headtap_{header}.h");
    }
    for source in &sources {
        println!("cargo:rerun-if-changed={source}");
    }
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    let compiler = cc::Build::new()
        .include("vendor")
        .include(include)
        .std("gnu11")
        .opt_level(2)
        .pic(true)
        .warnings(true)
        .extra_warnings(true)
        .get_compiler();
    let status = compiler
        .to_command()
        .args(["-shared", "-fvisibility=hidden", "-DHEADTAP_THROUGH_HOST"])
        .args(["-include", "vendor/headtap_host.h"])
        .args(&sources)
        .arg("-o")
        .arg(out.join("libheadtap-preload"))
        .args(["-ldl", "-lpthread", "-lm"])
        .status()
        .expect("the C compiler runs");
    assert!(status.success(), "the library of the tap could not be linked");
}
