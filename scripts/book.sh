#!/bin/sh
# Builds the book into target/book.
#
#     scripts/book.sh [TARGET]     TARGET is cargo's target folder
#
# Without mdbook on the path, cargo installs it below the target folder, which takes minutes once.
set -eu
cd "$(dirname "$0")/.."

VERSION=0.5.4
target=${1:-target}
mdbook=$(command -v mdbook || true)
if [ -z "$mdbook" ]; then
    mdbook=$target/tools/bin/mdbook
    if [ ! -x "$mdbook" ]; then
        cargo install mdbook --version "$VERSION" --locked --no-default-features --features search \
            --root "$target/tools"
    fi
fi

"$mdbook" build docs
printf 'book: open %s\n' "$target/book/index.html"
