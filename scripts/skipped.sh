#!/usr/bin/env bash
# Names the tests that ended without having looked at what they are for.
#
#   scripts/skipped.sh FILE            after `CANDOR_SKIPPED=FILE cargo test`
#   scripts/skipped.sh --strict FILE   fails, too, where this machine has what such a test wanted
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

strict=false
if [[ ${1-} == --strict ]]; then
    strict=true
    shift
fi
file=${1:?"which file? CANDOR_SKIPPED named it"}

if [[ ! -s $file ]]; then
    echo "no test was skipped"
    exit
fi

# Whether this machine has what tests of this kind want.
has() {
    local folder
    case $1 in
        shared) [[ -d ../shared ]] ;;
        root)
            folder=$(mktemp -d)
            if mount -t tmpfs -o size=256k candor-test "$folder" 2>/dev/null; then
                umount "$folder"
                rmdir "$folder"
                return 0
            fi
            rmdir "$folder"
            return 1
            ;;
        browser) command -v chromium chromium-browser google-chrome >/dev/null ;;
        device) "${CARGO_TARGET_DIR:-target}"/release/candor devices --json 2>/dev/null | grep -q '"gpu"' ;;
        no-gpu) false ;; # a machine with a GPU has the other tests instead
        *) true ;;
    esac
}

sort -u "$file" -o "$file"
printf '%d tests were skipped:\n' "$(cut -f 2,3 "$file" | sort -u | wc -l)"
status=0
while read -r kind; do
    note=
    if has "$kind"; then
        note=", which this machine has"
        if $strict; then status=1; fi
    fi
    printf '\n  for want of %s%s:\n' "$kind" "$note"
    awk -F '\t' -v kind="$kind" '$1 == kind { printf "    %s::%s: %s\n", $2, $3, $4 }' "$file"
done < <(cut -f 1 "$file" | sort -u)
if ((status)); then
    printf '\nskipped where nothing is missing: see scripts/skipped.sh\n' >&2
fi
exit "$status"
