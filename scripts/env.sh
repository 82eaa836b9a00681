# Sourced by the other scripts: enters the repository and puts a usable toolchain first in PATH.
# shellcheck shell=bash
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# The oldest cargo that builds the workspace (rust-version in Cargo.toml).
minimum=1.95
cargo_home=${CARGO_HOME:-$HOME/.cargo}
PATH=$PATH:/usr/sbin:/sbin:$cargo_home/bin

at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

# Prints the first cargo that is new enough: the one in PATH, rustup's, the distribution's.
find_cargo() {
    local cargo version
    for cargo in "$(command -v cargo || true)" "$cargo_home/bin/cargo" /usr/bin/cargo; do
        [ -x "$cargo" ] || continue
        version=$("$cargo" --version 2>/dev/null | cut -d' ' -f2) || continue
        if at_least "$minimum" "$version"; then
            echo "$cargo"
            return
        fi
    done
    return 1
}

# cargo takes the rustc, rustfmt and clippy that come first in PATH: they must be its own.
use_cargo() {
    local cargo
    cargo=$(find_cargo) || return 1
    PATH=$(dirname "$cargo"):$PATH
}

export PATH
use_cargo || true
