#!/bin/sh
# All the tests: format, lints, unit, property and end-to-end tests against real PostgreSQL, a real server and real
# daemons. Installs PostgreSQL where it is missing, and says so. Arguments are handed to `cargo test`.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/packaging/prerequisites.sh"
cd "$root"

step() { say ""; say "== $*"; }

need_rust
need_postgres
want_browser
say "A first run builds everything, which takes some 15 minutes on two cores."

step "format"
cargo fmt --all --check

step "units of the service manager"
sh packaging/check-units.sh

step "lints"
cargo clippy --workspace --all-targets --locked -- -D warnings

step "build of both programs (the end-to-end tests run the real ones)"
cargo build --workspace --bins --locked

step "tests"
cargo test --workspace --locked "$@"

step "the server against its own OpenAPI document"
sh packaging/openapi-test.sh
