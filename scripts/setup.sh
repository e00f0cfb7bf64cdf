#!/bin/sh
# Makes this machine able to build candor, and says what it does.
#
#     scripts/setup.sh          installs what is missing; one line when nothing is
#     scripts/setup.sh --env    prints the environment that cargo needs here, often nothing
#     scripts/setup.sh --browser    installs Chromium, in which a test opens a report
#     scripts/setup.sh --python     installs Python with virtual environments, for its package
#
# With SETUP_DRY_RUN=1 it prints what it would run and installs nothing.
#
# The crate llama-cpp-sys-2 compiles llama.cpp with a C and a C++ compiler, CMake and make, and
# reads its headers with libclang. These come from the system's package manager: apt-get
# (Debian, Ubuntu), dnf (Fedora) or brew (macOS). Rust itself is for you to choose; this script
# only checks its version.

set -eu
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

is_macos() { [ "$(uname -s)" = Darwin ]; }

# Runs a command that changes the machine, after saying so.
run() {
    say "running: $*"
    if [ "${SETUP_DRY_RUN:-0}" != 1 ]; then "$@"; fi
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        run "$@"
    elif has sudo; then
        run sudo "$@"
    else
        die "not root, and sudo is missing: run scripts/setup.sh as root first"
    fi
}

# ---- what is there --------------------------------------------------------------------------

# On macOS, cc and make exist as stubs that only ask for the command line tools.
has_tools() { ! is_macos || xcode-select -p >/dev/null 2>&1; }

# A compiler may be named with arguments, as in CC="gcc -m64".
has_compiler() { has_tools && has "${1%% *}"; }
has_c() { has_compiler "${CC:-cc}"; }
has_cxx() { has_compiler "${CXX:-c++}"; }
has_make() { has_tools && has make; }

# Folders that may hold libclang, one per line, in the order in which they are preferred.
libclang_folders() {
    if [ -n "${LIBCLANG_PATH:-}" ]; then
        printf '%s\n' "$LIBCLANG_PATH" "$(dirname "$LIBCLANG_PATH")"
    fi
    if is_macos; then
        tools=$(xcode-select -p 2>/dev/null || true)
        printf '%s\n' \
            /Library/Developer/CommandLineTools/usr/lib \
            "$tools/Toolchains/XcodeDefault.xctoolchain/usr/lib" \
            /opt/homebrew/opt/llvm/lib /usr/local/opt/llvm/lib
        return
    fi
    if has llvm-config; then llvm-config --libdir; fi
    PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null |
        sed -n 's|.*=> \(/.*\)/libclang[-.0-9]*\.so.*|\1|p'
    printf '%s\n' /usr/lib/llvm-*/lib /usr/lib64 /usr/lib/*-linux-gnu /usr/lib /usr/local/lib
}

# libclang without clang's own headers (stddef.h and its like) cannot read llama.cpp's.
has_clang_headers() {
    set -- "$1"/clang/*/include/stddef.h "$1"/../lib/clang/*/include/stddef.h \
        /usr/lib/llvm-*/lib/clang/*/include/stddef.h \
        /usr/lib/clang/*/include/stddef.h /usr/lib64/clang/*/include/stddef.h
    for header; do
        if [ -e "$header" ]; then return 0; fi
    done
    return 1
}

# The folder of a libclang that works; fails where there is none.
libclang_folder() {
    libclang_folders | while read -r folder; do
        for file in "$folder"/libclang.so* "$folder"/libclang-[0-9]*.so* "$folder"/libclang.dylib; do
            if [ -e "$file" ] && has_clang_headers "$folder"; then
                printf '%s\n' "$folder"
                return
            fi
        done
    done | grep .
}

has_libclang() { libclang_folder >/dev/null; }

has_python() { has python3 && python3 -c 'import ensurepip, venv' >/dev/null 2>&1; }

has_browser() { has chromium || has chromium-browser || has google-chrome; }

# What is missing, in words that package_of knows.
missing() {
    has_c || echo c
    has_cxx || echo cxx
    has_make || echo make
    has cmake || echo cmake
    has_libclang || echo libclang
}

reason() {
    case $1 in
        c) echo "a C compiler, for ggml and candor's tap" ;;
        cxx) echo "a C++ compiler, for llama.cpp" ;;
        make) echo "make, which CMake drives" ;;
        cmake) echo "CMake, which configures llama.cpp" ;;
        libclang) echo "libclang, with which bindgen reads the C headers" ;;
        browser) echo "Chromium, in which a test opens a report" ;;
        python) echo "Python with virtual environments, in which its package is tested" ;;
    esac
}

# ---- what is installed ----------------------------------------------------------------------

# The package of a package manager that provides a missing thing.
package_of() {
    case $1:$2 in
        apt-get:c | apt-get:cxx | apt-get:make) echo build-essential ;;
        apt-get:cmake) echo cmake ;;
        apt-get:libclang) echo libclang-dev ;;
        apt-get:browser | dnf:browser) echo chromium ;;
        apt-get:python) echo python3-venv ;;
        dnf:python) echo python3 ;;
        brew:python) echo python ;;
        dnf:c) echo gcc ;;
        dnf:cxx) echo gcc-c++ ;;
        dnf:make) echo make ;;
        dnf:cmake) echo cmake ;;
        dnf:libclang) echo clang-devel ;;
        brew:cmake) echo cmake ;;
        brew:libclang) echo llvm ;;
    esac
}

install_tools_of_macos() {
    if has_tools; then return; fi
    say "missing: the Xcode command line tools (compilers, make, libclang)"
    run xcode-select --install
    die "finish the installation in the window that has opened, then run this again"
}

package_manager() {
    if is_macos; then
        has brew || die "Homebrew is missing: install it from https://brew.sh, or install cmake and llvm yourself"
        echo brew
    elif has apt-get; then
        echo apt-get
    elif has dnf; then
        echo dnf
    else
        die "no apt-get, dnf or brew here. Install these with your system's package manager and run this" \
            "again: a C and a C++ compiler, make, CMake, and libclang with clang's headers" \
            "(called build-essential, cmake, libclang-dev on Debian; gcc, gcc-c++, make, cmake, clang-devel on Fedora)"
    fi
}

install() {
    manager=$(package_manager)
    packages=
    for thing in $1; do
        package=$(package_of "$manager" "$thing")
        say "missing: $(reason "$thing"); package $package"
        case " $packages " in
            *" $package "*) ;;
            *) packages="$packages $package" ;;
        esac
    done
    # shellcheck disable=SC2086 # a list of words
    case $manager in
        apt-get)
            as_root apt-get update -qq
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages
            ;;
        dnf) as_root dnf install -y $packages ;;
        brew) run brew install $packages ;;
    esac
}

# ---- Rust -----------------------------------------------------------------------------------

# The value of rust-version in Cargo.toml, as in 1.88.
rust_wanted() { sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml; }

# Whether version $1 is at least version $2; both are major.minor with anything behind.
is_at_least() {
    printf '%s\n%s\n' "$1" "$2" | awk -F. '
        NR == 1 { major = $1; minor = $2 }
        NR == 2 { exit !(major + 0 > $1 + 0 || (major + 0 == $1 + 0 && minor + 0 >= $2 + 0)) }'
}

check_rust() {
    wanted=$(rust_wanted)
    has cargo || die "cargo is missing: install Rust $wanted or newer from https://rustup.rs" \
        "(where it is installed already, put ~/.cargo/bin into PATH)"
    found=$(cargo --version | cut -d ' ' -f 2)
    is_at_least "$found" "$wanted" ||
        die "cargo $found is too old, $wanted is needed: run 'rustup update stable', or see https://rustup.rs"
}

# ---- the ways to call it ----------------------------------------------------------------

# clang-sys looks everywhere but where Homebrew on Apple silicon puts its llvm.
if [ "${1:-}" = --env ]; then
    if is_macos && [ -z "${LIBCLANG_PATH:-}" ]; then
        case $(libclang_folder) in
            /opt/homebrew/*) echo LIBCLANG_PATH=/opt/homebrew/opt/llvm/lib ;;
        esac
    fi
    exit
fi

if [ "${1:-}" = --browser ]; then
    if ! has_browser; then
        if is_macos || ! { has apt-get || has dnf; }; then die "no browser here: put chromium on the path"; fi
        install browser
    fi
    say "ready: a browser, for the test that opens a report"
    exit
fi

if [ "${1:-}" = --python ]; then
    if ! has_python; then install python; fi
    has_python || die "python3 with the modules venv and ensurepip is missing"
    say "ready: $(python3 --version)"
    exit
fi

check_rust
if is_macos; then install_tools_of_macos; fi
things=$(missing)
if [ -n "$things" ]; then
    install "$things"
    if [ "${SETUP_DRY_RUN:-0}" = 1 ]; then exit; fi
    things=$(missing)
    if [ -n "$things" ]; then
        for thing in $things; do say "still missing: $(reason "$thing")" >&2; done
        die "the packages above did not provide it"
    fi
fi
say "ready: cargo $found, $(cmake --version | sed -n '1s/ version//p'), libclang in $(libclang_folder)"
